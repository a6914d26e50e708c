//! The threads that serve callers, each with a runtime of its own: a connection, the fetches that it
//! causes and the connections upstream that they use stay on one core, and no worker ever waits for,
//! wakes or robs another.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};

/// Who serves connections.
#[derive(Debug, Clone)]
pub struct Crew {
    hands: Arc<[Handle]>,
    turn: Arc<AtomicUsize>,
}

impl Crew {
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
}
