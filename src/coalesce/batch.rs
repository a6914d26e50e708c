//! A shuttle: who is aboard, and its life from the gate to its landing.
//!
//! A flight belongs to nobody. Whoever opened it flies it, which costs no task and no waking of
//! others; when that passenger leaves it goes on as a task of its own, and it is dropped when none is
//! left.

use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::coalescer::{Shared, State};
use super::concurrency_limit::Permit;
use super::fetch::{
    Answer, BatchOptions, Completion, Fetch, FetchOptions, JoinResult, MAX_IN_FLIGHT_PER_KEY,
    NumberedCompletion, UNSHAREABLE_TTL,
};

/// Who is aboard, in the order of their boarding. Mostly it is one.
type Seats<F> = SmallVec<[(FetchOptions, oneshot::Sender<Answer<F>>); 1]>;

/// One gathering, one flight.
pub(super) struct Batch<F: Fetch> {
    id: u64,
    seats: Seats<F>,
    aboard: Arc<WaiterCount>,
}

/// How many still wait for a shuttle.
#[derive(Default)]
pub(super) struct WaiterCount {
    count: AtomicUsize,
    deserted: Notify,
}

/// A place in a shuttle, until the passenger has its answer or leaves.
pub(super) struct Waiter<F: Fetch> {
    pub(super) answer: oneshot::Receiver<Answer<F>>,
    aboard: Arc<WaiterCount>,
}

impl<F: Fetch> Drop for Waiter<F> {
    fn drop(&mut self) {
        if self.aboard.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.aboard.deserted.notify_one();
        }
    }
}

impl<F: Fetch> Batch<F> {
    pub(super) fn new(id: u64) -> Self {
        Self {
            id,
            seats: SmallVec::new(),
            aboard: Arc::default(),
        }
    }

    pub(super) fn aboard(&self) -> Arc<WaiterCount> {
        Arc::clone(&self.aboard)
    }

    /// Called with the book locked, like everything that changes who is aboard but leaving.
    pub(super) fn board(&mut self, seat: FetchOptions) -> Waiter<F> {
        let (sender, answer) = oneshot::channel();
        self.seats.push((seat, sender));
        self.aboard.count.fetch_add(1, Ordering::AcqRel);
        Waiter {
            answer,
            aboard: Arc::clone(&self.aboard),
        }
    }

    fn manifest(&self) -> Option<BatchOptions> {
        let waiting = || {
            self.seats
                .iter()
                .filter(|(_, s)| !s.is_closed())
                .map(|(seat, _)| seat)
        };
        Some(BatchOptions {
            deadline: waiting().map(|seat| seat.deadline).max()?,
            store: waiting().any(|seat| seat.store),
            fresh: waiting().any(|seat| seat.fresh),
        })
    }

    /// Tells those that take it from a fetch with this number. The first seat is the opener's, as
    /// long as it is its `own` shuttle that has landed.
    fn tell(&mut self, number: u64, news: &F::Shared, own: bool) {
        let seats = std::mem::take(&mut self.seats);
        for (place, (seat, sender)) in seats.into_iter().enumerate() {
            if seat.after > number {
                self.seats.push((seat, sender));
            } else {
                let news = news.clone();
                let ride = if own && place == 0 {
                    JoinResult::Opened(news)
                } else {
                    JoinResult::Joined(news)
                };
                // Who has left needs no answer.
                let _ = sender.send(ride);
            }
        }
    }
}

/// A shuttle on its way, flown by whoever opened it. Dropped, it goes on without, as long as somebody
/// is aboard.
pub(super) struct Leader<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> {
    flight: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    watch: Option<Watch<K, F>>,
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> Leader<K, F> {
    pub(super) fn new(place: BatchGuard<K, F>, aboard: Arc<WaiterCount>, fetch: F) -> Self {
        let watch = Watch {
            shared: Arc::clone(&place.shared),
            key: place.key.clone(),
            id: place.id,
            aboard,
        };
        Self {
            flight: Some(Box::pin(place.fly(fetch))),
            watch: Some(watch),
        }
    }

    /// Flies on. A panic ends the flight, and nothing of the request that flew it: its passengers hear
    /// that it was lost.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(flight) = &mut self.flight else {
            return Poll::Ready(());
        };
        let flown = catch_unwind(AssertUnwindSafe(|| flight.as_mut().poll(cx)));
        if !matches!(flown, Ok(Poll::Pending)) {
            self.flight = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> Drop for Leader<K, F> {
    fn drop(&mut self) {
        let (Some(flight), Some(watch)) = (self.flight.take(), self.watch.take()) else {
            return;
        };
        // No runtime any more: the end of the process.
        if watch.leave_if_empty() || Handle::try_current().is_err() {
            return;
        }
        let shared = Arc::clone(&watch.shared);
        shared.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = flight => {}
                () = watch.deserted() => {}
            }
        });
    }
}

/// Sees who is aboard a shuttle.
struct Watch<K, F: Fetch> {
    shared: Arc<Shared<K, F>>,
    key: K,
    id: u64,
    aboard: Arc<WaiterCount>,
}

impl<K: Clone + Eq + Hash, F: Fetch> Watch<K, F> {
    /// Returns when nobody waits for this shuttle any more; then nobody can board it either.
    async fn deserted(&self) {
        loop {
            self.aboard.deserted.notified().await;
            if self.leave_if_empty() {
                return;
            }
        }
    }

    fn leave_if_empty(&self) -> bool {
        let mut state = self.shared.lock();
        let empty = self.aboard.count.load(Ordering::Acquire) == 0;
        if empty && let Some(step) = state.steps.get_mut(&self.key) {
            step.gate.take_if(|gate| gate.id == self.id);
        }
        empty
    }
}

/// A shuttle's place in the book. Dropped, however its flight ends, it leaves the book clean.
pub(super) struct BatchGuard<K: Clone + Eq + Hash, F: Fetch> {
    shared: Arc<Shared<K, F>>,
    key: K,
    /// Of the key, as the past has it.
    hash: u64,
    id: u64,
}

impl<K: Clone + Eq + Hash, F: Fetch> Drop for BatchGuard<K, F> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let Some(step) = state.steps.get_mut(&self.key) else {
            return;
        };
        step.gate.take_if(|gate| gate.id == self.id);
        step.air.retain(|shuttle| shuttle.id != self.id);
        if step.gate.is_none() && step.air.is_empty() {
            state.steps.remove(&self.key);
        } else if let Some(landed) = &step.landed {
            landed.notify_one();
        }
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> BatchGuard<K, F> {
    pub(super) fn new(shared: &Arc<Shared<K, F>>, key: K, hash: u64, id: u64) -> Self {
        Self {
            shared: Arc::clone(shared),
            key,
            hash,
            id,
        }
    }

    /// The life of a shuttle: gather, depart, land.
    #[expect(
        clippy::manual_async_fn,
        reason = "async functions hold their arguments twice"
    )]
    fn fly(self, mut fetch: F) -> impl Future<Output = ()> + Send {
        async move {
            self.turn().await;
            if let Some(news) = fetch.clearance().await {
                return self.give_up(&news);
            }
            let Ok(berth) = self.shared.berths.take().await else {
                return self.give_up(&fetch.no_berth());
            };
            if let Some(news) = fetch.recalled() {
                return self.give_up(&news);
            }
            let Some(flight) = self.depart(fetch, berth) else {
                return;
            };
            let (number, landed) = flight.await;
            self.land(number, landed);
        }
    }

    /// Waits until the window and the number of flights allow a departure. Both stay allowed until
    /// this shuttle leaves: no other can leave before it.
    async fn turn(&self) {
        loop {
            let (wait, landed) = {
                let mut state = self.shared.lock();
                let last = state.past.last_departure(self.hash);
                let next = last.map(|at| at + self.shared.window);
                let wait = next.filter(|at| *at > Instant::now());
                let Some(step) = state.steps.get_mut(&self.key) else {
                    return;
                };
                if wait.is_none() && step.air.len() < MAX_IN_FLIGHT_PER_KEY {
                    return;
                }
                (wait, Arc::clone(step.landed.get_or_insert_default()))
            };
            match wait {
                Some(at) => sleep_until(at).await,
                None => landed.notified().await,
            }
        }
    }

    /// Closes the gate and lets go; nothing if everybody has left.
    fn depart(
        &self,
        fetch: F,
        berth: Permit,
    ) -> Option<impl Future<Output = NumberedCompletion<F>> + Send + use<K, F>> {
        let mut state = self.shared.lock();
        let step = state.steps.get_mut(&self.key)?;
        let shuttle = step.gate.take_if(|gate| gate.id == self.id)?;
        let manifest = shuttle.manifest()?;
        step.air.push(shuttle);
        let window = self.shared.window;
        state.past.departed(self.hash, Instant::now(), window);
        Some(fetch.depart(manifest, berth))
    }

    /// Tells everybody at the gate, and nobody else.
    fn give_up(&self, news: &F::Shared) {
        let mut state = self.shared.lock();
        if let Some(step) = state.steps.get_mut(&self.key)
            && let Some(mut gate) = step.gate.take_if(|gate| gate.id == self.id)
        {
            gate.tell(u64::MAX, news, true);
        }
    }

    fn land(&self, number: u64, landed: Completion<F::Shared, F::Own>) {
        let mut state = self.shared.lock();
        let State { steps, past, .. } = &mut *state;
        let Some(step) = steps.get_mut(&self.key) else {
            return;
        };
        let aloft = step.air.iter().position(|shuttle| shuttle.id == self.id);
        let Some(index) = aloft else {
            return;
        };
        let mut shuttle = step.air.swap_remove(index);
        match landed {
            Completion::Live(news) => shuttle.tell(number, &news, true),
            Completion::Final(news) => {
                shuttle.tell(number, &news, true);
                for other in step.air.iter_mut().chain(&mut step.gate) {
                    other.tell(number, &news, false);
                }
            }
            Completion::Own(own) => {
                let mut own = Some(JoinResult::Own(own));
                let (now, window) = (Instant::now(), self.shared.window);
                past.alone(self.hash, now, window, now + UNSHAREABLE_TTL);
                let gate = step
                    .gate
                    .as_mut()
                    .map(|gate| std::mem::take(&mut gate.seats));
                for (_, sender) in shuttle.seats {
                    // The earliest that is still there gets it.
                    if let Err(back) = sender.send(own.take().unwrap_or(JoinResult::Alone))
                        && matches!(back, JoinResult::Own(_))
                    {
                        own = Some(back);
                    }
                }
                // Not these, even if nobody took it: they came after it had left.
                for (_, sender) in gate.unwrap_or_default() {
                    let _ = sender.send(JoinResult::Alone);
                }
            }
        }
    }
}
