//! How long a stream may be silent.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Counts from the moment when somebody begins to wait: what is not asked for is not silent.
#[derive(Debug)]
pub(super) struct Silence {
    limit: Duration,
    /// Made when there is something to wait for, and set anew with each wait.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Silence {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            timer: None,
            waiting: false,
        }
    }

    /// Something came.
    pub(super) fn broken(&mut self) {
        self.waiting = false;
    }

    /// Nothing is there: ready when that has been so for the limit.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.waiting {
            self.waiting = true;
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
    async fn it_counts_from_the_beginning_of_a_wait() {
        let limit = Duration::from_secs(3);
        let cx = &mut Context::from_waker(Waker::noop());
        let mut silence = Silence::new(limit);
        assert!(silence.poll(cx).is_pending());
        advance(limit - Duration::from_millis(1)).await;
        assert!(silence.poll(cx).is_pending());
        silence.broken();
        // Nobody asked for longer than the limit.
        advance(2 * limit).await;
        assert!(silence.poll(cx).is_pending());
        advance(limit).await;
        assert!(silence.poll(cx).is_ready());
    }
}
