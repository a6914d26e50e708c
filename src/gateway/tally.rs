//! How a fetch ended, and how long it took: counted whatever becomes of it.

use std::time::Duration;

use tokio::time::Instant;

use super::line::Ended;
use super::metrics::Class;

/// Tells `done` of a fetch when it is over, however it ends: one that everybody has left counts, too,
/// and is to be logged there.
pub(super) struct Tally<F: FnMut(Class, Option<Ended<'static>>, Duration)> {
    done: F,
    departed: Instant,
    /// When the last of its passengers gives it up, if that is not told otherwise.
    deadline: Option<Instant>,
    end: Option<(Class, Duration)>,
}

impl<F: FnMut(Class, Option<Ended<'static>>, Duration)> Tally<F> {
    pub(super) fn new(deadline: Option<Instant>, done: F) -> Self {
        Self {
            done,
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

impl<F: FnMut(Class, Option<Ended<'static>>, Duration)> Drop for Tally<F> {
    fn drop(&mut self) {
        if let Some((class, took)) = self.end {
            return (self.done)(class, None, took);
        }
        let now = Instant::now();
        let (class, ended) = if self.deadline.is_some_and(|deadline| now >= deadline) {
            (Class::Error, Ended::Late)
        } else {
            (Class::Cancelled, Ended::Dropped)
        };
        (self.done)(class, Some(ended), now - self.departed);
    }
}
