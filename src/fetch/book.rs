//! The book of live steps: what gathers for each, what is in the air.
//!
//! It forgets a step as soon as nothing of it is needed: what is in it is bounded by what is under
//! way and what departed within the last window.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::berths::Berths;
use super::departures::{Answer, Fetch, Ride, Seat};
use super::shuttle::{Passenger, Place, Shuttle};

/// The live steps: what gathers, what is in the air.
pub struct Book<K, F: Fetch> {
    shared: Arc<Shared<K, F>>,
}

pub(super) struct Shared<K, F: Fetch> {
    pub(super) window: Duration,
    pub(super) berths: Berths,
    tasks: TaskTracker,
    state: Mutex<State<K, F>>,
}

pub(super) struct State<K, F: Fetch> {
    pub(super) steps: HashMap<K, Step<F>>,
    /// Steps that are needed only until then, in that order.
    lingering: BTreeMap<(Instant, u64), K>,
    ids: u64,
}

pub(super) struct Step<F: Fetch> {
    pub(super) last_departure: Option<Instant>,
    /// What gathers for the next departure.
    pub(super) gate: Option<Shuttle<F>>,
    pub(super) air: Vec<Shuttle<F>>,
    /// Wakes the gate when one has landed. Only one waits, so one stored permit is enough.
    pub(super) landed: Arc<Notify>,
    pub(super) alone_until: Option<Instant>,
}

impl<K, F: Fetch> Clone for Book<K, F> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K, F: Fetch> fmt::Debug for Book<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Book")
            .field("window", &self.shared.window)
            .finish_non_exhaustive()
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> Book<K, F> {
    /// An empty book. A window of zero: every request its own fetch.
    pub fn new(window: Duration, berths: Berths) -> Self {
        let state = State {
            steps: HashMap::new(),
            lingering: BTreeMap::new(),
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

    /// Gets an answer about `key` that departed after now, or a final one. `fetch` is asked for one
    /// only where nothing gathers yet.
    pub async fn ride(&self, key: K, seat: Seat, fetch: impl FnOnce() -> F) -> Answer<F> {
        let Some(mut passenger) = self.board(key, seat, fetch) else {
            return Ride::Alone;
        };
        match timeout_at(seat.deadline, &mut passenger.answer).await {
            Ok(Ok(ride)) => ride,
            Ok(Err(_)) => Ride::Lost,
            Err(_) => Ride::Late,
        }
    }

    /// Steps in the book.
    pub fn steps(&self) -> usize {
        let mut state = self.shared.lock();
        state.sweep(Instant::now(), self.shared.window);
        state.steps.len()
    }

    /// Fetches at work, and what gathers.
    pub fn tasks(&self) -> usize {
        self.shared.tasks.len()
    }

    /// The places that fetches depart from.
    pub fn berths(&self) -> &Berths {
        &self.shared.berths
    }

    fn board(&self, key: K, seat: Seat, fetch: impl FnOnce() -> F) -> Option<Passenger<F>> {
        if self.shared.window.is_zero() {
            return None;
        }
        let now = Instant::now();
        let mut state = self.shared.lock();
        state.sweep(now, self.shared.window);
        let id = state.ids;
        let step = state.steps.entry(key.clone()).or_insert_with(|| Step {
            last_departure: None,
            gate: None,
            air: Vec::new(),
            landed: Arc::default(),
            alone_until: None,
        });
        if step.alone_until.is_some_and(|until| now < until) {
            return None;
        }
        if let Some(gate) = &mut step.gate {
            return Some(gate.board(seat));
        }
        let mut gate = Shuttle::new(id);
        let passenger = gate.board(seat);
        let aboard = gate.aboard();
        step.gate = Some(gate);
        state.ids += 1;
        drop(state);
        let place = Place::new(&self.shared, key, id);
        self.shared.tasks.spawn(place.run(aboard, fetch()));
        Some(passenger)
    }
}

impl<K, F: Fetch> Shared<K, F> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<K, F>> {
        // A panic under the lock could at worst lose a shuttle, whose passengers hear so.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, F: Fetch> State<K, F> {
    /// Forgets the steps whose time is over.
    fn sweep(&mut self, now: Instant, window: Duration) {
        while let Some(entry) = self.lingering.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.forget(&key, now, window);
        }
    }

    /// Forgets a step that nothing is needed of; else remembers to do so when it will not be.
    pub(super) fn forget(&mut self, key: &K, now: Instant, window: Duration) {
        let Some(step) = self.steps.get(key) else {
            return;
        };
        if step.gate.is_some() || !step.air.is_empty() {
            return;
        }
        let again = step.last_departure.map(|at| at + window);
        match again.max(step.alone_until).filter(|until| *until > now) {
            Some(until) => {
                self.ids += 1;
                self.lingering.insert((until, self.ids), key.clone());
            }
            None => {
                self.steps.remove(key);
            }
        }
    }
}
