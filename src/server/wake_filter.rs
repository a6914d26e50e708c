//! A future beside a busy one, in the same task: polled when it was woken itself, not whenever the
//! other one was.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Polls its future only when that has something to say.
pub(super) struct WakeFilter<F> {
    future: F,
    bell: Option<Arc<Bell>>,
}

struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<F: Future + Unpin> WakeFilter<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future, bell: None }
    }

    pub(super) fn get_mut(&mut self) -> &mut F {
        &mut self.future
    }

    /// Has it polled next time, because it is not what it was.
    pub(super) fn disturb(&mut self) {
        self.bell = None;
    }
}

impl<F: Future + Unpin> Future for WakeFilter<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let known = self
            .bell
            .take()
            .filter(|bell| bell.task.will_wake(cx.waker()));
        let bell = known.unwrap_or_else(|| {
            // As if it had been rung: nobody has heard of this task yet.
            Arc::new(Bell {
                rung: AtomicBool::new(true),
                task: cx.waker().clone(),
            })
        });
        let rung = bell.rung.load(Ordering::Acquire) && bell.rung.swap(false, Ordering::AcqRel);
        let waker = rung.then(|| Waker::from(Arc::clone(&bell)));
        self.bell = Some(bell);
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

    /// Counts how often it is polled.
    struct Counted<'c, F>(&'c mut usize, F);

    impl<F: Future + Unpin> Future for Counted<'_, F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
            *self.0 += 1;
            Pin::new(&mut self.1).poll(cx)
        }
    }

    #[tokio::test]
    async fn it_is_polled_once_to_begin_with_and_once_for_its_end() {
        let (sender, receiver) = oneshot::channel();
        let mut polls = 0;
        let mut quiet = WakeFilter::new(Counted(&mut polls, receiver));
        let noise = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = &mut quiet => panic!("nothing was sent"),
            () = noise => {}
        }
        sender.send(7).unwrap();
        assert_eq!(quiet.await, Ok(7));
        assert_eq!(polls, 2);
    }

    #[tokio::test]
    async fn it_follows_its_owner_to_another_task() {
        let (sender, receiver) = oneshot::channel();
        let mut quiet = WakeFilter::new(receiver);
        assert!(
            std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut quiet).poll(cx)))
                .await
                .is_pending()
        );
        let elsewhere = tokio::task::JoinSet::from_iter([quiet]);
        tokio::task::yield_now().await;
        sender.send(7).unwrap();
        assert_eq!(elsewhere.join_all().await, [Ok(7)]);
    }
}
