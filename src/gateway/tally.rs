//! How a fetch ended, and how long it took: counted whatever becomes of it.

use std::time::Duration;

use tokio::time::Instant;

use super::line::Ended;
use super::metrics::{Class, Metrics};
use super::news::Errand;

/// Counts a fetch when it is over, however it ends: one that everybody has left counts, too, and is
/// logged here.
pub(super) struct Tally<'m> {
    metrics: &'m Metrics,
    errand: &'m Errand,
    departed: Instant,
    /// When the last of its passengers gives it up.
    deadline: Instant,
    end: Option<(Class, Duration)>,
}

impl<'m> Tally<'m> {
    pub(super) fn new(metrics: &'m Metrics, errand: &'m Errand, deadline: Instant) -> Self {
        Self {
            metrics,
            errand,
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
            let took = now - self.departed;
            let (class, ended) = if now >= self.deadline {
                (Class::Error, Ended::Late)
            } else {
                (Class::Dropped, Ended::Dropped)
            };
            self.errand.note(&ended, took);
            (class, took)
        };
        let (class, took) = self.end.unwrap_or_else(left);
        let counters = self.errand.setup.counters(Some(self.errand.rule));
        self.metrics.fetched(counters, class, took);
    }
}
