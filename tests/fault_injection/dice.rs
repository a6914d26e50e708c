//! Chance that repeats: the same seed and names give the same numbers, in whatever order they are
//! asked for.

/// A stream of numbers drawn from a hash's extended output.
pub(crate) struct Dice(blake3::OutputReader);

impl Dice {
    pub(crate) fn of(seed: u64, names: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        for name in names {
            hasher.update(name.as_bytes());
            // In no UTF-8 text: ("a", "bc") and ("ab", "c") differ.
            hasher.update(&[0xff]);
        }
        Self(hasher.finalize_xof())
    }

    pub(crate) fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// 0 up to, but not including, `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    pub(crate) fn word(&mut self) -> String {
        format!("{:016x}", self.next())
    }
}
