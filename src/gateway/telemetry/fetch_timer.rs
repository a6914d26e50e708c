//! How long a fetch took and how it ended, recorded whatever becomes of it.

use std::time::Duration;

use tokio::time::Instant;

use super::metrics::FetchClass;
use super::request_log::FetchEnd;

/// Calls `record` when a fetch is over, however it ends. The end is `None` if the fetch brought a
/// response or an error, which is logged where it is processed. If the timer is dropped before it is
/// stopped, the fetch was cancelled, because no request waited any more, or its deadline passed.
pub(crate) struct FetchTimer<F: FnMut(FetchClass, Option<FetchEnd<'static>>, Duration)> {
    record: F,
    started: Instant,
    /// The latest deadline of the requests that wait. `None` if the deadline is recorded elsewhere.
    deadline: Option<Instant>,
    stopped: Option<(FetchClass, Duration)>,
}

impl<F: FnMut(FetchClass, Option<FetchEnd<'static>>, Duration)> FetchTimer<F> {
    pub(crate) fn start(deadline: Option<Instant>, record: F) -> Self {
        Self {
            record,
            started: Instant::now(),
            deadline,
            stopped: None,
        }
    }

    /// Stops the timer. Returns how long the fetch took.
    pub(crate) fn stop(mut self, class: FetchClass) -> Duration {
        let took = self.started.elapsed();
        self.stopped = Some((class, took));
        took
    }
}

impl<F: FnMut(FetchClass, Option<FetchEnd<'static>>, Duration)> Drop for FetchTimer<F> {
    fn drop(&mut self) {
        if let Some((class, took)) = self.stopped {
            return (self.record)(class, None, took);
        }
        let now = Instant::now();
        let (class, end) = if self.deadline.is_some_and(|deadline| now >= deadline) {
            (FetchClass::Error, FetchEnd::TimedOut)
        } else {
            (FetchClass::Cancelled, FetchEnd::Cancelled)
        };
        (self.record)(class, Some(end), now - self.started);
    }
}
