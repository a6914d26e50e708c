//! The book of live steps: what gathers for each, what is in the air.
//!
//! It forgets a step as soon as nothing of it is needed: what is in it is bounded by what is under
//! way and what departed within the last window.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hash};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::batch::{Batch, BatchGuard, Leader, Waiter};
use super::concurrency_limit::ConcurrencyLimit;
use super::fetch::{Answer, Fetch, FetchOptions, JoinResult};
use super::recent_fetches::RecentFetches;

/// The live steps: what gathers, what is in the air.
pub struct Coalescer<K, F: Fetch> {
    shared: Arc<Shared<K, F>>,
}

pub(super) struct Shared<K, F: Fetch> {
    pub(super) window: Duration,
    pub(super) berths: ConcurrencyLimit,
    pub(super) tasks: TaskTracker,
    state: Mutex<State<K, F>>,
}

pub(super) struct State<K, F: Fetch> {
    /// What is under way.
    pub(super) steps: HashMap<K, Step<F>, RandomState>,
    pub(super) past: RecentFetches,
    ids: u64,
}

pub(super) struct Step<F: Fetch> {
    /// What gathers for the next departure.
    pub(super) gate: Option<Batch<F>>,
    pub(super) air: SmallVec<[Batch<F>; 1]>,
    /// Wakes the gate when one has landed. Only one waits, so one stored permit is enough.
    pub(super) landed: Option<Arc<Notify>>,
}

impl<K, F: Fetch> Clone for Coalescer<K, F> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K, F: Fetch> fmt::Debug for Coalescer<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalescer")
            .field("window", &self.shared.window)
            .finish_non_exhaustive()
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> Coalescer<K, F> {
    /// An empty book. A window of zero: every request its own fetch.
    pub fn new(window: Duration, berths: ConcurrencyLimit) -> Self {
        let state = State {
            steps: HashMap::default(),
            past: RecentFetches::default(),
            ids: 0,
        };
        Self {
            shared: Arc::new(Shared {
                window,
                berths,
                tasks: TaskTracker::new(),
                state: Mutex::new(state),
            }),
        }
    }

    /// Gets an answer about `key` that departed after this call, or a final one. `fetch` is asked for
    /// one only where nothing gathers yet.
    pub fn ride(
        &self,
        key: K,
        seat: FetchOptions,
        fetch: impl FnOnce() -> F,
    ) -> impl Future<Output = Answer<F>> + Send {
        let mut boarded = self.board(key, seat, fetch);
        async move {
            let Some(Boarded { passenger, pilot }) = &mut boarded else {
                return JoinResult::Alone;
            };
            let answer = poll_fn(|cx| {
                if let Some(flying) = pilot
                    && flying.poll(cx).is_ready()
                {
                    *pilot = None;
                }
                Pin::new(&mut passenger.answer).poll(cx)
            });
            match timeout_at(seat.deadline, answer).await {
                Ok(Ok(ride)) => ride,
                Ok(Err(_)) => JoinResult::Lost,
                Err(_) => JoinResult::Late,
            }
        }
    }

    /// Steps in the book.
    pub fn steps(&self) -> usize {
        let mut state = self.shared.lock();
        state.past.sweep(Instant::now(), self.shared.window);
        let hash = |key| state.steps.hasher().hash_one(key);
        let never_departed = state
            .steps
            .keys()
            .filter(|key| !state.past.knows(hash(*key)));
        state.past.len() + never_departed.count()
    }

    /// Fetches at work that go on without whoever opened them.
    pub fn tasks(&self) -> usize {
        self.shared.tasks.len()
    }

    /// The places that fetches depart from.
    pub fn berths(&self) -> &ConcurrencyLimit {
        &self.shared.berths
    }

    /// A place; nothing where everybody fetches alone.
    fn board(
        &self,
        key: K,
        seat: FetchOptions,
        fetch: impl FnOnce() -> F,
    ) -> Option<Boarded<K, F>> {
        if self.shared.window.is_zero() {
            return None;
        }
        let now = Instant::now();
        let mut state = self.shared.lock();
        state.past.sweep(now, self.shared.window);
        let hash = state.steps.hasher().hash_one(&key);
        if state.past.is_alone(hash, now) {
            return None;
        }
        let id = state.ids;
        let step = state.steps.entry(key.clone()).or_insert_with(|| Step {
            gate: None,
            air: SmallVec::new(),
            landed: None,
        });
        if let Some(gate) = &mut step.gate {
            let passenger = gate.board(seat);
            return Some(Boarded {
                passenger,
                pilot: None,
            });
        }
        let mut gate = Batch::new(id);
        let passenger = gate.board(seat);
        let aboard = gate.aboard();
        step.gate = Some(gate);
        state.ids += 1;
        drop(state);
        let place = BatchGuard::new(&self.shared, key, hash, id);
        Some(Boarded {
            passenger,
            pilot: Some(Leader::new(place, aboard, fetch())),
        })
    }
}

/// A place in a shuttle. Dropped, its parts do what leaving means, in this order: what it flew goes on
/// without it only if others are aboard.
struct Boarded<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> {
    passenger: Waiter<F>,
    /// Of whoever opened it.
    pilot: Option<Leader<K, F>>,
}

impl<K, F: Fetch> Shared<K, F> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<K, F>> {
        // A panic under the lock could at worst lose a shuttle, whose passengers hear so.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fetch::UNSHAREABLE_TTL;
    use super::super::{BatchOptions, Completion, NumberedCompletion, Permit};
    use super::*;
    use tokio::time::{sleep, sleep_until, timeout};

    const WINDOW: Duration = Duration::from_millis(100);
    const TICK: Duration = Duration::from_millis(1);

    /// Lands so long after its departure; with what cannot be shared, if it is large.
    struct Lasting {
        takes: Duration,
        is_large: bool,
    }

    impl Fetch for Lasting {
        type Shared = ();
        type Own = ();

        async fn clearance(&mut self) -> Option<()> {
            None
        }

        fn recalled(&self) -> Option<()> {
            None
        }

        fn no_berth(self) {}

        async fn depart(self, _: BatchOptions, berth: Permit) -> NumberedCompletion<Self> {
            sleep(self.takes).await;
            drop(berth);
            let landed = match self.is_large {
                true => Completion::Own(()),
                false => Completion::Live(()),
            };
            (1, landed)
        }
    }

    fn patient() -> FetchOptions {
        FetchOptions {
            deadline: Instant::now() + 100 * WINDOW,
            ..seat()
        }
    }

    fn seat() -> FetchOptions {
        FetchOptions {
            deadline: Instant::now() + 10 * WINDOW,
            after: 0,
            store: true,
            fresh: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_cannot_be_shared_is_fetched_alone_until_its_minute_is_over() {
        let book = Coalescer::new(WINDOW, ConcurrencyLimit::new(1, TICK));
        let large = |is_large| {
            book.ride("step", seat(), move || Lasting {
                takes: TICK,
                is_large,
            })
        };
        assert!(matches!(large(true).await, JoinResult::Own(())));
        let landed = Instant::now();
        assert!(matches!(large(true).await, JoinResult::Alone));
        sleep_until(landed + UNSHAREABLE_TTL - TICK).await;
        assert!(matches!(large(true).await, JoinResult::Alone));
        assert_eq!(book.steps(), 1);
        sleep_until(landed + UNSHAREABLE_TTL).await;
        assert!(matches!(large(false).await, JoinResult::Opened(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_is_in_it_while_it_flies_and_to_the_end_of_its_window() {
        let book = Coalescer::new(WINDOW, ConcurrencyLimit::new(2, TICK));
        let start = Instant::now();
        let count = || (book.steps(), book.tasks(), book.berths().taken());
        assert_eq!(count(), (0, 0, 0));
        let ride = book.ride("step", seat(), || Lasting {
            takes: WINDOW / 2,
            is_large: false,
        });
        tokio::pin!(ride);
        assert!(timeout(TICK, &mut ride).await.is_err());
        assert_eq!(count(), (1, 0, 1), "flown by whoever opened it");
        assert!(matches!(ride.await, JoinResult::Opened(())));
        sleep_until(start + WINDOW - TICK).await;
        assert_eq!(count(), (1, 0, 0), "it departed within the last window");
        sleep_until(start + WINDOW).await;
        assert_eq!(count(), (0, 0, 0));
    }

    /// A flight that takes ten windows.
    fn long() -> Lasting {
        Lasting {
            takes: 10 * WINDOW,
            is_large: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_a_flight_takes_nobody_from_the_gate() {
        let book = Coalescer::new(WINDOW, ConcurrencyLimit::new(2, TICK));
        let mut gone = Box::pin(book.ride("step", patient(), long));
        assert!(timeout(TICK, &mut gone).await.is_err());
        let mut waiting = Box::pin(book.ride("step", patient(), long));
        assert!(timeout(TICK, &mut waiting).await.is_err());
        drop(gone);
        assert!(matches!(waiting.await, JoinResult::Opened(())));
    }

    #[tokio::test(start_paused = true)]
    async fn who_boards_as_the_last_one_leaves_is_not_left_behind() {
        let book = Coalescer::new(WINDOW, ConcurrencyLimit::new(2, TICK));
        let mut flying = Box::pin(book.ride("step", patient(), long));
        assert!(timeout(TICK, &mut flying).await.is_err());
        let mut gone = [(); 2].map(|()| Box::pin(book.ride("step", patient(), long)));
        for rider in &mut gone {
            assert!(timeout(TICK, rider).await.is_err());
        }
        drop(gone);
        // At once, before the shuttle, a task since its opener left, has heard that it is empty.
        let boards = book.ride("step", patient(), long);
        assert!(matches!(boards.await, JoinResult::Joined(())));
        assert!(matches!(flying.await, JoinResult::Opened(())));
    }
}
