//! The idle timeout of a stream.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Measures how long a reader has waited for the next byte. Time in which nothing is read does not count.
#[derive(Debug)]
pub(super) struct IdleTimeout {
    limit: Duration,
    /// Created at the first wait, and reset at each later one.
    timer: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl IdleTimeout {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            timer: None,
            is_waiting: false,
        }
    }

    /// Ends the wait, because something was read.
    pub(super) fn reset(&mut self) {
        self.is_waiting = false;
    }

    /// Begins or continues a wait. Returns `Ready` once the wait has lasted for the limit.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.is_waiting {
            self.is_waiting = true;
            timer.as_mut().reset(Instant::now() + limit);
        }
        timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn idle_timeout_counts_from_the_start_of_a_wait() {
        let limit = Duration::from_secs(3);
        let cx = &mut Context::from_waker(Waker::noop());
        let mut timeout = IdleTimeout::new(limit);
        assert!(timeout.poll(cx).is_pending());
        advance(limit - Duration::from_millis(1)).await;
        assert!(timeout.poll(cx).is_pending());
        timeout.reset();
        // Nothing was read in this time, and no read was waiting.
        advance(2 * limit).await;
        assert!(timeout.poll(cx).is_pending());
        advance(limit).await;
        assert!(timeout.poll(cx).is_ready());
    }
}
