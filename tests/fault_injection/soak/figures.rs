//! What a soak adds up to.

/// How many, and how it went for those that nothing touched.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    pub(super) requests: u64,
    pub(super) touched: u64,
    pub(super) untouched_right: u64,
}

impl Figures {
    pub(super) fn untouched(&self) -> u64 {
        self.requests - self.touched
    }

    /// The share of the untouched that were answered well.
    pub(super) fn well(&self) -> f64 {
        let count = |n: u64| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        count(self.untouched_right) / count(self.untouched().max(1))
    }
}
