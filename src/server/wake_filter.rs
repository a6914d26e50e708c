//! A future that is polled only when it was woken itself, not whenever its task was.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Skips polls of its future while the future was not woken.
pub(super) struct WakeFilter<F> {
    future: F,
    waker: Option<Arc<FlagWaker>>,
}

/// Wakes a task, and remembers that it did.
struct FlagWaker {
    is_woken: AtomicBool,
    task: Waker,
}

impl Wake for FlagWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<F: Future + Unpin> WakeFilter<F> {
    pub(super) fn new(future: F) -> Self {
        Self {
            future,
            waker: None,
        }
    }

    pub(super) fn get_mut(&mut self) -> &mut F {
        &mut self.future
    }

    /// Lets the next poll through, because the future was changed.
    pub(super) fn force_poll(&mut self) {
        self.waker = None;
    }
}

impl<F: Future + Unpin> Future for WakeFilter<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let current = self
            .waker
            .take()
            .filter(|waker| waker.task.will_wake(cx.waker()));
        let flag = current.unwrap_or_else(|| {
            // A new waker starts as woken, because the future does not know this task yet.
            Arc::new(FlagWaker {
                is_woken: AtomicBool::new(true),
                task: cx.waker().clone(),
            })
        });
        let is_woken =
            flag.is_woken.load(Ordering::Acquire) && flag.is_woken.swap(false, Ordering::AcqRel);
        let waker = is_woken.then(|| Waker::from(Arc::clone(&flag)));
        self.waker = Some(flag);
        match waker {
            Some(waker) => Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker)),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    /// Counts the polls of a future.
    struct GaugeGuard<'c, F>(&'c mut usize, F);

    impl<F: Future + Unpin> Future for GaugeGuard<'_, F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
            *self.0 += 1;
            Pin::new(&mut self.1).poll(cx)
        }
    }

    #[tokio::test]
    async fn future_is_polled_at_first_and_when_woken() {
        let (sender, receiver) = oneshot::channel();
        let mut polls = 0;
        let mut filtered = WakeFilter::new(GaugeGuard(&mut polls, receiver));
        let other_wakes = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = &mut filtered => panic!("nothing was sent"),
            () = other_wakes => {}
        }
        sender.send(7).unwrap();
        assert_eq!(filtered.await, Ok(7));
        assert_eq!(polls, 2);
    }

    #[tokio::test]
    async fn future_is_woken_after_a_move_to_another_task() {
        let (sender, receiver) = oneshot::channel();
        let mut filtered = WakeFilter::new(receiver);
        assert!(
            std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut filtered).poll(cx)))
                .await
                .is_pending()
        );
        let other_task = tokio::task::JoinSet::from_iter([filtered]);
        tokio::task::yield_now().await;
        sender.send(7).unwrap();
        assert_eq!(other_task.join_all().await, [Ok(7)]);
    }
}
