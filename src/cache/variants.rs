//! The stored bodies of one step.

use std::slice;
use std::sync::Arc;

use super::stored::Stored;

/// What a block costs beside its bytes: six allocations of moka's, a share of its table, the counts and
/// the header of its own allocation. 346 bytes, as 100,000 bodies of 790 bytes showed in resident
/// memory (less what it was before them, less the blocks' bytes), and 341 as 1,000,000 did.
const OVERHEAD: usize = 350;

/// The variants of one step, the last one stored last.
#[derive(Debug, Clone)]
pub(super) enum Variants {
    /// Nearly always.
    One(Stored),
    /// Never none.
    Several(Arc<Vec<Stored>>),
}

impl Variants {
    pub(super) fn of(mut variants: Vec<Stored>) -> Option<Self> {
        let last = variants.pop()?;
        if variants.is_empty() {
            return Some(Self::One(last));
        }
        variants.push(last);
        Some(Self::Several(Arc::new(variants)))
    }

    pub(super) fn all(&self) -> &[Stored] {
        match self {
            Self::One(stored) => slice::from_ref(stored),
            Self::Several(variants) => variants,
        }
    }

    pub(super) fn named(self, name: &str) -> Option<Stored> {
        let is_it = |stored: &&Stored| stored.variant() == name.as_bytes();
        match self {
            Self::One(stored) => Some(stored).filter(|stored| is_it(&stored)),
            Self::Several(variants) => variants.iter().find(is_it).cloned(),
        }
    }

    pub(super) fn are_of(&self, step: &[u8]) -> bool {
        self.all()[0].is_of(step)
    }

    pub(super) fn weight(&self) -> u64 {
        let all = self.all().iter();
        all.map(|stored| (stored.len() + OVERHEAD) as u64).sum()
    }

    /// Writes down whose they are, in the place of what `step` was.
    pub(super) fn write_step(&self, step: &mut Vec<u8>) {
        self.all()[0].write_step(step);
    }
}
