//! The shared hold: where an upstream said "not before then", nobody asks before then.
//!
//! A hold ends when its time has passed. Then one fetch goes first, as a probe; the others of its
//! partition wait for it, so that a crowd does not run into the same refusal. A hold is never
//! invented and never longer than the upstream said.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// The holds, by partition.
pub struct RetryAfterGate<P, S> {
    holds: Arc<Mutex<HashMap<P, Hold<S>>>>,
}

struct Hold<S> {
    /// What the upstream said.
    said: S,
    until: Instant,
    /// Set while a probe is out: wakes those who wait for it.
    probing: Option<Arc<Notify>>,
}

/// Whether a fetch may go.
#[derive(Debug)]
pub enum Admission<P: Eq + Hash, S> {
    /// Nothing is held.
    Go,
    /// The hold's time is over: this one goes first.
    First(Probe<P, S>),
    /// Held: what the upstream said, and until when.
    Held(S, Instant),
}

/// The first fetch after a hold. The others go when it has landed; if it is dropped before, another
/// goes first.
pub struct Probe<P: Eq + Hash, S> {
    partition: P,
    /// Tells its hold from a later one of the same partition.
    waiting: Arc<Notify>,
    holds: Arc<Mutex<HashMap<P, Hold<S>>>>,
}

impl<P: Eq + Hash, S> fmt::Debug for Probe<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

impl<P, S> fmt::Debug for RetryAfterGate<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RetryAfterGate({})", lock(&self.holds).len())
    }
}

impl<P, S> Default for RetryAfterGate<P, S> {
    fn default() -> Self {
        Self {
            holds: Arc::default(),
        }
    }
}

fn lock<P, S>(holds: &Mutex<HashMap<P, Hold<S>>>) -> MutexGuard<'_, HashMap<P, Hold<S>>> {
    // Entries are put in and taken out whole.
    holds.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Clone + Eq + Hash, S: Clone> RetryAfterGate<P, S> {
    /// RetryAfterGate the partition until then, unless it is held for longer already.
    pub fn hold(&self, partition: P, said: S, until: Instant) {
        let mut holds = lock(&self.holds);
        match holds.get_mut(&partition) {
            // A probe is out, and a flight from before it landed: the probe knows better.
            Some(hold) if hold.until >= until => {}
            Some(hold) => {
                hold.said = said;
                hold.until = until;
                if let Some(waiting) = hold.probing.take() {
                    waiting.notify_waiters();
                }
            }
            None => {
                holds.insert(
                    partition,
                    Hold {
                        said,
                        until,
                        probing: None,
                    },
                );
            }
        }
    }

    /// What holds the partition right now, if anything does.
    pub fn held(&self, partition: &P) -> Option<(S, Instant)> {
        let holds = lock(&self.holds);
        let hold = holds.get(partition)?;
        (Instant::now() < hold.until).then(|| (hold.said.clone(), hold.until))
    }

    /// Whether a fetch of this partition may go; waits only while a probe is out.
    pub async fn clearance(&self, partition: &P) -> Admission<P, S> {
        loop {
            let waiting = {
                let mut holds = lock(&self.holds);
                let Some(hold) = holds.get_mut(partition) else {
                    return Admission::Go;
                };
                if Instant::now() < hold.until {
                    return Admission::Held(hold.said.clone(), hold.until);
                }
                match &hold.probing {
                    Some(waiting) => Arc::clone(waiting).notified_owned(),
                    None => {
                        let waiting = Arc::<Notify>::default();
                        hold.probing = Some(Arc::clone(&waiting));
                        return Admission::First(Probe {
                            partition: partition.clone(),
                            waiting,
                            holds: Arc::clone(&self.holds),
                        });
                    }
                }
            };
            waiting.await;
        }
    }

    /// Partitions that are held or being probed.
    pub fn len(&self) -> usize {
        lock(&self.holds).len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<P: Eq + Hash, S> Probe<P, S> {
    /// It was answered: the others go, unless what it brought holds them again.
    pub fn landed(self) {
        let mut holds = lock(&self.holds);
        if self.is_out(&holds) {
            holds.remove(&self.partition);
            self.waiting.notify_waiters();
        }
    }

    /// Whether the hold that it probes is still the one that stands.
    fn is_out(&self, holds: &HashMap<P, Hold<S>>) -> bool {
        let probing = holds
            .get(&self.partition)
            .and_then(|hold| hold.probing.as_ref());
        probing.is_some_and(|waiting| Arc::ptr_eq(waiting, &self.waiting))
    }
}

/// It was lost on its way: another goes first.
impl<P: Eq + Hash, S> Drop for Probe<P, S> {
    fn drop(&mut self) {
        let mut holds = lock(&self.holds);
        if self.is_out(&holds)
            && let Some(hold) = holds.get_mut(&self.partition)
        {
            hold.probing = None;
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
    async fn a_hold_ends_on_time_and_one_goes_first() {
        let holds: Arc<RetryAfterGate<u8, &str>> = Arc::default();
        assert!(matches!(holds.clearance(&1).await, Admission::Go));
        let until = Instant::now() + SECOND;
        holds.hold(1, "busy", until);
        assert_eq!((holds.len(), holds.is_empty()), (1, false));
        assert!(matches!(holds.clearance(&1).await, Admission::Held("busy", at) if at == until));
        assert!(matches!(holds.clearance(&2).await, Admission::Go));
        tokio::time::advance(SECOND).await;
        assert_eq!(holds.held(&1), None);
        let Admission::First(probe) = holds.clearance(&1).await else {
            panic!("the first goes");
        };
        let second = {
            let holds = Arc::clone(&holds);
            async move { matches!(holds.clearance(&1).await, Admission::Go) }
        };
        tokio::pin!(second);
        assert!(
            tokio::time::timeout(SECOND, &mut second).await.is_err(),
            "the others wait"
        );
        probe.landed();
        assert!(second.await);
        assert!(holds.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_refused_holds_again() {
        let holds: RetryAfterGate<u8, &str> = RetryAfterGate::default();
        holds.hold(1, "first", Instant::now() + SECOND);
        tokio::time::advance(SECOND).await;
        let Admission::First(probe) = holds.clearance(&1).await else {
            panic!("the first goes");
        };
        holds.hold(1, "second", Instant::now() + SECOND);
        probe.landed();
        assert!(matches!(
            holds.clearance(&1).await,
            Admission::Held("second", _)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_lost_probe_another_goes_first() {
        let holds: RetryAfterGate<u8, &str> = RetryAfterGate::default();
        holds.hold(1, "busy", Instant::now() + SECOND);
        tokio::time::advance(SECOND).await;
        let first = holds.clearance(&1).await;
        let (second, third) = (holds.clearance(&1), holds.clearance(&1));
        tokio::pin!(second, third);
        let both = async { tokio::join!(&mut second, &mut third) };
        assert!(tokio::time::timeout(SECOND, both).await.is_err());
        drop(first);
        let went = tokio::time::timeout(SECOND, second).await;
        let Ok(Admission::First(probe)) = went else {
            panic!("one of the two goes first: {went:?}");
        };
        let waiting = tokio::time::timeout(SECOND, &mut third).await;
        assert!(waiting.is_err(), "the other waits for it");
        probe.landed();
        assert!(matches!(third.await, Admission::Go));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_end_does_not_shorten_a_hold() {
        let holds: RetryAfterGate<u8, &str> = RetryAfterGate::default();
        let until = Instant::now() + 3 * SECOND;
        holds.hold(1, "long", until);
        holds.hold(1, "short", Instant::now() + SECOND);
        assert_eq!(holds.held(&1), Some(("long", until)));
    }
}
