//! The Retry-After gate: after a 429 with a delay, no fetch of the partition starts before the delay ends.
//!
//! When a block ends, one fetch goes first, as a probe. The other fetches of the partition wait for the
//! probe, so that they do not all run into the same refusal. The gate never invents a delay: it blocks
//! only until the time that its caller passes.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// The blocks, by partition.
pub struct RetryAfterGate<P, R> {
    blocks: Arc<Mutex<HashMap<P, Block<R>>>>,
}

struct Block<R> {
    /// The response that caused the block.
    response: R,
    until: Instant,
    /// Set while a probe is in flight: wakes the fetches that wait for it.
    probing: Option<Arc<Notify>>,
}

/// Whether a fetch may start.
#[derive(Debug)]
pub enum Admission<P: Eq + Hash, R> {
    /// The partition is not blocked.
    Allow,
    /// The block has ended: this fetch goes first.
    Probe(Probe<P, R>),
    /// The partition is blocked: the response that caused it, and until when.
    Blocked(R, Instant),
}

/// The first fetch after a block. The others go once it has completed. If it is dropped before, another
/// fetch becomes the probe.
pub struct Probe<P: Eq + Hash, R> {
    partition: P,
    /// Tells the probed block from a later block of the same partition.
    waiting: Arc<Notify>,
    blocks: Arc<Mutex<HashMap<P, Block<R>>>>,
}

impl<P: Eq + Hash, R> fmt::Debug for Probe<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

impl<P, R> fmt::Debug for RetryAfterGate<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RetryAfterGate({})", lock(&self.blocks).len())
    }
}

impl<P, R> Default for RetryAfterGate<P, R> {
    fn default() -> Self {
        Self {
            blocks: Arc::default(),
        }
    }
}

fn lock<P, R>(blocks: &Mutex<HashMap<P, Block<R>>>) -> MutexGuard<'_, HashMap<P, Block<R>>> {
    // Entries are inserted and removed whole.
    blocks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Clone + Eq + Hash, R: Clone> RetryAfterGate<P, R> {
    /// Blocks the partition until then, unless it is blocked for longer already.
    pub fn block(&self, partition: P, response: R, until: Instant) {
        let mut blocks = lock(&self.blocks);
        match blocks.get_mut(&partition) {
            // A fetch from before the block may complete after it, or while the probe is in flight. Its
            // earlier end changes nothing.
            Some(block) if block.until >= until => {}
            Some(block) => {
                block.response = response;
                block.until = until;
                if let Some(waiting) = block.probing.take() {
                    waiting.notify_waiters();
                }
            }
            None => {
                blocks.insert(
                    partition,
                    Block {
                        response,
                        until,
                        probing: None,
                    },
                );
            }
        }
    }

    /// Returns the response and the end of the block that is in force now. `None` if there is none.
    pub fn blocked(&self, partition: &P) -> Option<(R, Instant)> {
        let blocks = lock(&self.blocks);
        let block = blocks.get(partition)?;
        (Instant::now() < block.until).then(|| (block.response.clone(), block.until))
    }

    /// Returns whether a fetch of this partition may start. Waits only while a probe is in flight.
    pub async fn admit(&self, partition: &P) -> Admission<P, R> {
        loop {
            let waiting = {
                let mut blocks = lock(&self.blocks);
                let Some(block) = blocks.get_mut(partition) else {
                    return Admission::Allow;
                };
                if Instant::now() < block.until {
                    return Admission::Blocked(block.response.clone(), block.until);
                }
                match &block.probing {
                    Some(waiting) => Arc::clone(waiting).notified_owned(),
                    None => {
                        let waiting = Arc::<Notify>::default();
                        block.probing = Some(Arc::clone(&waiting));
                        return Admission::Probe(Probe {
                            partition: partition.clone(),
                            waiting,
                            blocks: Arc::clone(&self.blocks),
                        });
                    }
                }
            };
            waiting.await;
        }
    }

    /// Returns how many partitions are blocked or being probed.
    pub fn len(&self) -> usize {
        lock(&self.blocks).len()
    }

    /// Returns whether no partition is blocked or being probed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<P: Eq + Hash, R> Probe<P, R> {
    /// Lets the other fetches go, unless the probe's own response has blocked the partition again.
    pub fn completed(self) {
        let mut blocks = lock(&self.blocks);
        if self.is_current(&blocks) {
            blocks.remove(&self.partition);
            self.waiting.notify_waiters();
        }
    }

    /// Returns whether the block that it probes is still in force.
    fn is_current(&self, blocks: &HashMap<P, Block<R>>) -> bool {
        let probing = blocks
            .get(&self.partition)
            .and_then(|block| block.probing.as_ref());
        probing.is_some_and(|waiting| Arc::ptr_eq(waiting, &self.waiting))
    }
}

/// Makes another fetch the probe, if this one did not complete.
impl<P: Eq + Hash, R> Drop for Probe<P, R> {
    fn drop(&mut self) {
        let mut blocks = lock(&self.blocks);
        if self.is_current(&blocks)
            && let Some(block) = blocks.get_mut(&self.partition)
        {
            block.probing = None;
            self.waiting.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_block_ends_on_time_and_one_fetch_goes_first_as_a_probe() {
        let gate: Arc<RetryAfterGate<u8, &str>> = Arc::default();
        assert!(matches!(gate.admit(&1).await, Admission::Allow));
        let until = Instant::now() + SECOND;
        gate.block(1, "busy", until);
        assert_eq!((gate.len(), gate.is_empty()), (1, false));
        assert!(matches!(gate.admit(&1).await, Admission::Blocked("busy", at) if at == until));
        assert!(matches!(gate.admit(&2).await, Admission::Allow));
        tokio::time::advance(SECOND).await;
        assert_eq!(gate.blocked(&1), None);
        let Admission::Probe(probe) = gate.admit(&1).await else {
            panic!("the first fetch is the probe");
        };
        let second = {
            let gate = Arc::clone(&gate);
            async move { matches!(gate.admit(&1).await, Admission::Allow) }
        };
        tokio::pin!(second);
        assert!(
            tokio::time::timeout(SECOND, &mut second).await.is_err(),
            "the others wait for the probe"
        );
        probe.completed();
        assert!(second.await);
        assert!(gate.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_gets_another_429_blocks_again() {
        let gate: RetryAfterGate<u8, &str> = RetryAfterGate::default();
        gate.block(1, "first", Instant::now() + SECOND);
        tokio::time::advance(SECOND).await;
        let Admission::Probe(probe) = gate.admit(&1).await else {
            panic!("the first fetch is the probe");
        };
        gate.block(1, "second", Instant::now() + SECOND);
        probe.completed();
        assert!(matches!(
            gate.admit(&1).await,
            Admission::Blocked("second", _)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_dropped_probe_another_fetch_becomes_the_probe() {
        let gate: RetryAfterGate<u8, &str> = RetryAfterGate::default();
        gate.block(1, "busy", Instant::now() + SECOND);
        tokio::time::advance(SECOND).await;
        let first = gate.admit(&1).await;
        let (second, third) = (gate.admit(&1), gate.admit(&1));
        tokio::pin!(second, third);
        let both = async { tokio::join!(&mut second, &mut third) };
        assert!(tokio::time::timeout(SECOND, both).await.is_err());
        drop(first);
        let admitted = tokio::time::timeout(SECOND, second).await;
        let Ok(Admission::Probe(probe)) = admitted else {
            panic!("one of the two becomes the probe: {admitted:?}");
        };
        let waiting = tokio::time::timeout(SECOND, &mut third).await;
        assert!(waiting.is_err(), "the other waits for the probe");
        probe.completed();
        assert!(matches!(third.await, Admission::Allow));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_end_does_not_shorten_a_block() {
        let gate: RetryAfterGate<u8, &str> = RetryAfterGate::default();
        let until = Instant::now() + 3 * SECOND;
        gate.block(1, "long", until);
        gate.block(1, "short", Instant::now() + SECOND);
        assert_eq!(gate.blocked(&1), Some(("long", until)));
    }
}
