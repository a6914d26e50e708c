//! How a fetch ended, and how long it took.

use std::time::Duration;

use tokio::time::Instant;

use super::metrics::{Class, Metrics, RuleCounters};

/// Counts a fetch when it is over, however it ends: one that everybody has left counts, too.
pub(super) struct Tally<'m> {
    metrics: &'m Metrics,
    counters: &'m RuleCounters,
    departed: Instant,
    /// When the last of its passengers gives it up.
    deadline: Instant,
    end: Option<(Class, Duration)>,
}

impl<'m> Tally<'m> {
    pub(super) fn new(metrics: &'m Metrics, counters: &'m RuleCounters, deadline: Instant) -> Self {
        Self {
            metrics,
            counters,
            departed: Instant::now(),
            deadline,
            end: None,
        }
    }

    /// Returns how long it took.
    pub(super) fn ended(mut self, class: Class) -> Duration {
        let took = self.departed.elapsed();
        self.end = Some((class, took));
        took
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let left = || {
            let now = Instant::now();
            let late = now >= self.deadline;
            let class = if late { Class::Error } else { Class::Dropped };
            (class, now - self.departed)
        };
        let (class, took) = self.end.unwrap_or_else(left);
        self.metrics.fetched(self.counters, class, took);
    }
}
