//! The memory tier: moka, weighed in bytes, least recently used first.
//!
//! One moka entry holds all variants of a step, so that they fall together without a walk. Expiry
//! is judged by the caller's `now`: moka's own clock can be neither paused nor inherited.

use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use super::entry::Entry;
use crate::step::{Key, NotStored, Scope, StepKey};

/// What a stored body costs beside its bytes and its key: moka's bookkeeping, the allocations'
/// headers, the entry itself: 590 bytes, as 100,000 entries of 790 bytes showed in resident memory.
const OVERHEAD: usize = 600;

/// The variants of one step that are kept at once; a further one replaces the oldest. A caller can
/// invent variants, the upstream's answers to them are all final bodies of one step.
const MAX_VARIANTS: usize = 8;

#[derive(Debug, Clone)]
struct Variant {
    name: Box<str>,
    entry: Entry,
}

type Variants = Arc<[Variant]>;

/// A stored body, found.
#[derive(Debug)]
pub struct Found {
    variants: Variants,
    index: usize,
}

impl Found {
    /// The body and its headers.
    pub fn entry(&self) -> &Entry {
        &self.variants[self.index].entry
    }
}

pub(super) struct Memory {
    steps: Cache<StepKey, Variants, foldhash::fast::RandomState>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Memory {
    pub(super) fn new(max_bytes: u64) -> Self {
        let steps = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|step: &StepKey, variants: &Variants| {
                let bytes: usize = variants
                    .iter()
                    .map(|v| v.entry.body().len() + v.name.len() + step.len() + OVERHEAD)
                    .sum();
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            // TinyLFU would turn newcomers away when full, and here the newest is wanted next.
            .eviction_policy(EvictionPolicy::lru())
            .build_with_hasher(foldhash::fast::RandomState::default());
        Self { steps }
    }

    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<Found> {
        let variants = self.steps.get(&key.step)?;
        let index = variants.iter().position(|v| v.name == key.variant)?;
        let found = Found { variants, index };
        (!found.entry().rest(now).is_zero()).then_some(found)
    }

    /// Puts an entry beside its step's other variants, without those from before the `wall`: a purge
    /// that walks meanwhile may have removed them. Called with the walls held.
    pub(super) fn put(&self, key: &Key, entry: Entry, wall: u64) -> Result<(), NotStored> {
        let known = self.steps.get(&key.step);
        let known = known.as_deref().unwrap_or_default();
        let newer = |v: &&Variant| v.name == key.variant && v.entry.departed() > entry.departed();
        if known.iter().any(|v| newer(&v)) {
            return Err(NotStored::Superseded);
        }
        let mut variants: Vec<Variant> = known
            .iter()
            .filter(|v| v.name != key.variant && v.entry.departed() >= wall)
            .cloned()
            .collect();
        if variants.len() >= MAX_VARIANTS {
            variants.remove(0);
        }
        variants.push(Variant {
            name: key.variant.clone(),
            entry,
        });
        self.steps.insert(key.step.clone(), variants.into());
        // By itself moka would evict up to 64 stores later: 64 MiB beyond `max_bytes`.
        self.steps.run_pending_tasks();
        Ok(())
    }

    /// Removes the variants that departed before `number`. Called with the walls held.
    pub(super) fn remove_older(&self, step: &StepKey, number: u64) -> bool {
        let Some(known) = self.steps.get(step) else {
            return false;
        };
        let kept: Vec<Variant> = known
            .iter()
            .filter(|v| v.entry.departed() >= number)
            .cloned()
            .collect();
        let removed = kept.len() < known.len();
        if kept.is_empty() {
            self.steps.invalidate(step);
        } else if removed {
            self.steps.insert(step.clone(), kept.into());
        }
        removed
    }

    /// Removes what departed before `number` and is covered. Walks everything, unlocked: what is put
    /// meanwhile is from after the wall, and at worst fetched once more.
    pub(super) fn remove_covered(&self, scope: &Scope, number: u64) -> usize {
        self.steps
            .iter()
            .filter(|(step, _)| scope.covers(step))
            .filter(|(_, variants)| variants.iter().any(|v| v.entry.departed() < number))
            .filter_map(|(step, _)| self.steps.remove(&*step))
            .map(|variants| variants.len())
            .sum()
    }

    pub(super) fn entries(&self) -> u64 {
        self.steps.run_pending_tasks();
        self.steps.entry_count()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.steps.run_pending_tasks();
        self.steps.weighted_size()
    }
}
