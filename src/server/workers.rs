//! The threads that serve callers, each with a runtime of its own: a connection, the fetches that it
//! causes and the connections upstream that they use stay on one core, and no worker ever waits for,
//! wakes or robs another.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};

/// Who serves connections.
#[derive(Debug, Clone)]
pub struct Workers {
    hands: Arc<[Handle]>,
    turn: Arc<AtomicUsize>,
}

impl Workers {
    /// The runtime that this is called on, whatever it is.
    pub fn here() -> Self {
        Self::of(vec![Handle::current()])
    }

    /// So many threads of its own, at least one. They run as long as the process does.
    ///
    /// # Errors
    /// What the system says where a thread or its runtime cannot be had.
    pub fn hire(workers: usize) -> io::Result<Self> {
        let hands = (0..workers.max(1)).map(|_| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let hand = runtime.handle().clone();
            std::thread::Builder::new()
                .name("stepgate-worker".to_owned())
                .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
            Ok(hand)
        });
        Ok(Self::of(hands.collect::<io::Result<_>>()?))
    }

    fn of(hands: Vec<Handle>) -> Self {
        Self {
            hands: hands.into(),
            turn: Arc::default(),
        }
    }

    /// Whose turn it is. Connections live long and are much alike, so each worker gets as many.
    pub(super) fn next(&self) -> &Handle {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.hands[turn % self.hands.len()]
    }

    /// Returns once each worker has done something for this: not while one of them hangs.
    pub(super) async fn answers(&self) {
        for hand in self.hands.iter() {
            // An error would mean that its runtime ends, and with it the process.
            let _ = hand.spawn(async {}).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn each_worker_has_its_turn_on_a_thread_of_its_own() {
        let crew = Workers::hire(3).unwrap();
        let mut threads = Vec::new();
        for _ in 0..6 {
            let asked = crew.next().spawn(async { std::thread::current().id() });
            threads.push(asked.await.unwrap());
        }
        assert_eq!(threads[..3], threads[3..]);
        assert_eq!(HashSet::<_>::from_iter(&threads).len(), 3);
        assert!(!threads.contains(&std::thread::current().id()));
    }

    #[tokio::test]
    async fn nobody_is_hired_here() {
        let crew = Workers::here();
        let asked = crew.next().spawn(async { std::thread::current().id() });
        assert_eq!(asked.await.unwrap(), std::thread::current().id());
    }

    #[tokio::test]
    async fn one_that_hangs_is_noticed() {
        let crew = Workers::hire(3).unwrap();
        crew.answers().await;
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        crew.next().spawn(async move { held.recv().is_err() });
        let soon = Duration::from_millis(50);
        tokio::time::timeout(soon, crew.answers())
            .await
            .expect_err("a worker that hangs cannot have answered");
        drop(let_go);
        crew.answers().await;
    }

    #[test]
    fn no_workers_are_one() {
        assert_eq!(Workers::hire(0).unwrap().hands.len(), 1);
    }
}
