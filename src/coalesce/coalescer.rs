//! The coalescer: one fetch for many requests of the same key.
//!
//! A key starts at most one fetch per window and has at most [`MAX_IN_FLIGHT_PER_KEY`] fetches in
//! flight. If neither limit forbids it, the fetch of a request starts at once. Otherwise requests gather
//! in the key's pending batch, and the next fetch serves the whole batch.
//!
//! Invariant: a request gets the result of a fetch that started after the request joined, unless the
//! result is final. A final result answers every request that waits for the key.
//!
//! A fetch belongs to its batch. The request that created the batch polls the fetch as its leader, which
//! costs no task. If that request goes away, the fetch goes on as a task, until no request waits for it.
//!
//! The coalescer keeps a key only as long as a fetch of it is pending, in flight, or started within the
//! last window (or, if its responses cannot be shared, within [`UNSHAREABLE_TTL`]).

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hash};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::TaskTracker;

use super::recent_fetches::RecentFetches;

/// Fetches of one key in flight at the same time. A slow upstream gets no more than these; further
/// requests gather in the pending batch, which is the back pressure that it needs.
pub const MAX_IN_FLIGHT_PER_KEY: usize = 4;

/// How long every request fetches alone after a response that cannot be shared (Varnish calls this
/// hit-for-pass).
pub const UNSHAREABLE_TTL: Duration = Duration::from_secs(60);

/// One fetch, ready to start.
pub trait Fetch: Send + Sized + 'static {
    /// A result that every waiter can have.
    type Output: Clone + Send + 'static;
    /// A result that only one waiter can have.
    type Stream: Send + 'static;

    /// Waits until the fetch may start.
    ///
    /// # Errors
    /// The result for all waiters, if the fetch may not start.
    fn admit(&mut self) -> impl Future<Output = Result<(), Self::Output>> + Send;

    /// Starts the fetch when it is called, not when the future is first polled: takes the sequence
    /// number, which the future returns with what was fetched. Must not block.
    fn start(self, options: FetchOptions) -> impl Future<Output = Fetched<Self>> + Send + 'static;
}

/// The sequence number of a fetch, and how it completed.
pub type Fetched<F> = (u64, Completion<<F as Fetch>::Output, <F as Fetch>::Stream>);

/// How a fetch completed.
#[derive(Debug)]
pub enum Completion<O, S> {
    /// The result will never change: it answers every request that waits for the key.
    Final(O),
    /// The result answers the batch of the fetch.
    Live(O),
    /// The result is too large to be shared.
    Unshareable(S),
}

/// What a request demands of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchOptions {
    /// When the request needs its response.
    pub deadline: Instant,
    /// The request accepts no result with a lower sequence number, not even a final one.
    pub min_seq: u64,
    /// The request permits that the response is stored.
    pub may_store: bool,
    /// The request accepts only a fetch that started after it arrived (`Cache-Control: no-cache`).
    pub force_fresh: bool,
}

impl FetchOptions {
    /// Returns what both demand together: the later deadline, and whatever either permits or demands.
    fn merge(self, other: Self) -> Self {
        Self {
            deadline: self.deadline.max(other.deadline),
            min_seq: self.min_seq.min(other.min_seq),
            may_store: self.may_store || other.may_store,
            force_fresh: self.force_fresh || other.force_fresh,
        }
    }
}

/// What a request got.
#[derive(Debug)]
pub enum JoinResult<O, S> {
    /// The result of the fetch that the request started.
    Led(O),
    /// The result of a fetch that another request started.
    Joined(O),
    /// A result that no other request gets.
    Unshareable(S),
    /// Nothing: responses of this key cannot be shared, so the request has to fetch alone.
    FetchAlone,
    /// Nothing before the request's deadline.
    TimedOut,
    /// Nothing, because the fetch panicked.
    Abandoned,
}

type JoinResultOf<F> = JoinResult<<F as Fetch>::Output, <F as Fetch>::Stream>;

/// The keys that are being fetched.
pub struct Coalescer<K, F: Fetch> {
    inner: Arc<Inner<K, F>>,
}

struct Inner<K, F: Fetch> {
    window: Duration,
    /// Fetches that go on without the request that started them.
    tasks: TaskTracker,
    state: Mutex<State<K, F>>,
}

struct State<K, F: Fetch> {
    keys: HashMap<K, KeyState<F>, RandomState>,
    recent: RecentFetches,
    next_batch: u64,
}

struct KeyState<F: Fetch> {
    /// The batch that the next fetch will serve.
    pending: Option<Batch<F>>,
    in_flight: SmallVec<[Batch<F>; 1]>,
    /// Wakes the pending batch when a fetch has ended. `Notify` stores one notification, which suffices,
    /// because a key has at most one pending batch.
    slot_freed: Option<Arc<Notify>>,
}

impl<K, F: Fetch> Clone for Coalescer<K, F> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<K, F: Fetch> fmt::Debug for Coalescer<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalescer")
            .field("window", &self.inner.window)
            .finish_non_exhaustive()
    }
}

impl<K, F: Fetch> Inner<K, F> {
    fn lock(&self) -> MutexGuard<'_, State<K, F>> {
        // A panic under the lock could at worst lose a batch; its waiters then get `Abandoned`.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> Coalescer<K, F> {
    /// Returns a coalescer without keys. A window of zero disables coalescing: every request fetches
    /// alone.
    pub fn new(window: Duration) -> Self {
        let state = State {
            keys: HashMap::default(),
            recent: RecentFetches::default(),
            next_batch: 0,
        };
        Self {
            inner: Arc::new(Inner {
                window,
                tasks: TaskTracker::new(),
                state: Mutex::new(state),
            }),
        }
    }

    /// Returns the result of a fetch of `key` that starts after this call, or the final result of a fetch
    /// that is in flight already. Calls `fetch` only if no batch is pending for the key.
    pub fn fetch(
        &self,
        key: K,
        options: FetchOptions,
        fetch: impl FnOnce() -> F,
    ) -> impl Future<Output = JoinResultOf<F>> + Send {
        let mut joined = self.join(key, options, fetch);
        async move {
            // The tuple's order matters at a drop: the waiter goes first, so that the leader goes on as
            // a task only if other requests still wait.
            let Some((waiter, leader)) = &mut joined else {
                return JoinResult::FetchAlone;
            };
            let result = poll_fn(|cx| {
                if let Some(running) = leader
                    && running.poll(cx).is_ready()
                {
                    *leader = None;
                }
                Pin::new(&mut waiter.result).poll(cx)
            });
            match timeout_at(options.deadline, result).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => JoinResult::Abandoned,
                Err(_) => JoinResult::TimedOut,
            }
        }
    }

    /// Returns how many keys are pending, in flight, or were fetched within the last window.
    pub fn active_keys(&self) -> usize {
        let mut state = self.inner.lock();
        state.recent.sweep(Instant::now(), self.inner.window);
        let hash = |key| state.keys.hasher().hash_one(key);
        let not_started = state
            .keys
            .keys()
            .filter(|key| !state.recent.contains(hash(*key)));
        state.recent.len() + not_started.count()
    }

    /// Returns how many fetches go on without the request that started them.
    pub fn tasks(&self) -> usize {
        self.inner.tasks.len()
    }

    /// Joins the pending batch, or creates one and leads it. `None` if the request has to fetch alone.
    #[expect(
        clippy::type_complexity,
        reason = "a struct would only carry the two to the one caller"
    )]
    fn join(
        &self,
        key: K,
        options: FetchOptions,
        fetch: impl FnOnce() -> F,
    ) -> Option<(Waiter<F>, Option<Leader<K, F>>)> {
        if self.inner.window.is_zero() {
            return None;
        }
        let now = Instant::now();
        let mut state = self.inner.lock();
        state.recent.sweep(now, self.inner.window);
        let hash = state.keys.hasher().hash_one(&key);
        if state.recent.is_unshareable(hash, now) {
            return None;
        }
        let id = state.next_batch;
        let key_state = state.keys.entry(key.clone()).or_insert_with(|| KeyState {
            pending: None,
            in_flight: SmallVec::new(),
            slot_freed: None,
        });
        if let Some(pending) = &mut key_state.pending {
            return Some((pending.join(options), None));
        }
        let mut batch = Batch {
            id,
            waiters: SmallVec::new(),
            count: Arc::default(),
        };
        let waiter = batch.join(options);
        key_state.pending = Some(batch);
        state.next_batch += 1;
        drop(state);
        let guard = BatchGuard {
            inner: Arc::clone(&self.inner),
            key: key.clone(),
            hash,
            id,
        };
        let leader = Leader {
            fetch: Some(Box::pin(guard.run(fetch()))),
            inner: Arc::clone(&self.inner),
            key,
            id,
            count: Arc::clone(&waiter.count),
        };
        Some((waiter, Some(leader)))
    }
}

/// The requests that one fetch serves, in the order of their arrival. Usually it is one request.
struct Batch<F: Fetch> {
    id: u64,
    waiters: SmallVec<[(FetchOptions, oneshot::Sender<JoinResultOf<F>>); 1]>,
    count: Arc<WaiterCount>,
}

/// How many requests still wait for a batch.
#[derive(Default)]
struct WaiterCount {
    count: AtomicUsize,
    reached_zero: Notify,
}

/// A request's membership in a batch, until it has its result or goes away.
struct Waiter<F: Fetch> {
    result: oneshot::Receiver<JoinResultOf<F>>,
    count: Arc<WaiterCount>,
}

impl<F: Fetch> Drop for Waiter<F> {
    fn drop(&mut self) {
        if self.count.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.count.reached_zero.notify_one();
        }
    }
}

impl<F: Fetch> Batch<F> {
    /// Adds a waiter. Called under the lock of the state.
    fn join(&mut self, options: FetchOptions) -> Waiter<F> {
        let (sender, result) = oneshot::channel();
        self.waiters.push((options, sender));
        self.count.count.fetch_add(1, Ordering::AcqRel);
        Waiter {
            result,
            count: Arc::clone(&self.count),
        }
    }

    /// Returns the merged options of those who still wait. `None` if no request waits.
    fn options(&self) -> Option<FetchOptions> {
        let waiting = self.waiters.iter().filter(|(_, s)| !s.is_closed());
        waiting
            .map(|(options, _)| *options)
            .reduce(FetchOptions::merge)
    }

    /// Sends `output` to the waiters that accept a fetch with this sequence number. `own` says that
    /// `output` is the result of this batch's own fetch; then its first waiter, the leader, gets `Led`.
    fn notify(&mut self, seq: u64, output: &F::Output, own: bool) {
        let waiters = std::mem::take(&mut self.waiters);
        for (index, (options, sender)) in waiters.into_iter().enumerate() {
            if options.min_seq > seq {
                self.waiters.push((options, sender));
            } else {
                let output = output.clone();
                let result = if own && index == 0 {
                    JoinResult::Led(output)
                } else {
                    JoinResult::Joined(output)
                };
                // An error means that the request went away.
                let _ = sender.send(result);
            }
        }
    }
}

/// Polls the fetch of a batch on behalf of the request that created the batch. At a drop the fetch goes
/// on as a task, if other requests wait for it.
struct Leader<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> {
    /// `None` once the fetch has ended.
    fetch: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    inner: Arc<Inner<K, F>>,
    key: K,
    id: u64,
    count: Arc<WaiterCount>,
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> Leader<K, F> {
    /// Polls the fetch. A panic ends the fetch, but not the request that polls it: the waiters get
    /// `Abandoned`.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(fetch) = &mut self.fetch else {
            return Poll::Ready(());
        };
        let polled = catch_unwind(AssertUnwindSafe(|| fetch.as_mut().poll(cx)));
        if !matches!(polled, Ok(Poll::Pending)) {
            self.fetch = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Returns when no request waits for the batch; then no request can join it either.
    async fn abandoned(self) {
        loop {
            self.count.reached_zero.notified().await;
            if self.close_if_abandoned() {
                return;
            }
        }
    }

    /// Removes the batch if it is pending and no request waits for it. Returns whether no request waits.
    fn close_if_abandoned(&self) -> bool {
        let mut state = self.inner.lock();
        let abandoned = self.count.count.load(Ordering::Acquire) == 0;
        if abandoned && let Some(key) = state.keys.get_mut(&self.key) {
            key.pending.take_if(|batch| batch.id == self.id);
        }
        abandoned
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> Drop for Leader<K, F> {
    fn drop(&mut self) {
        let Some(fetch) = self.fetch.take() else {
            return;
        };
        // Without a runtime the process is about to end.
        if self.close_if_abandoned() || Handle::try_current().is_err() {
            return;
        }
        let successor = Self {
            fetch: None,
            inner: Arc::clone(&self.inner),
            key: self.key.clone(),
            id: self.id,
            count: Arc::clone(&self.count),
        };
        self.inner.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = fetch => {}
                () = successor.abandoned() => {}
            }
        });
    }
}

/// A batch's entry in the state. However the fetch ends, the drop removes what is left of the batch.
struct BatchGuard<K: Clone + Eq + Hash, F: Fetch> {
    inner: Arc<Inner<K, F>>,
    key: K,
    /// The key's hash, by which [`RecentFetches`] knows it.
    hash: u64,
    id: u64,
}

impl<K: Clone + Eq + Hash, F: Fetch> Drop for BatchGuard<K, F> {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        let Some(key) = state.keys.get_mut(&self.key) else {
            return;
        };
        key.pending.take_if(|batch| batch.id == self.id);
        key.in_flight.retain(|batch| batch.id != self.id);
        if key.pending.is_none() && key.in_flight.is_empty() {
            state.keys.remove(&self.key);
        } else if let Some(slot_freed) = &key.slot_freed {
            slot_freed.notify_one();
        }
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static, F: Fetch> BatchGuard<K, F> {
    /// Runs the life of a batch: gather, start the fetch, hand out its result.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would store its arguments twice"
    )]
    fn run(self, mut fetch: F) -> impl Future<Output = ()> + Send {
        async move {
            self.wait_for_slot().await;
            if let Err(output) = fetch.admit().await {
                return self.fail_pending(&output);
            }
            let Some(running) = self.start(fetch) else {
                return;
            };
            let (seq, completion) = running.await;
            self.complete(seq, completion);
        }
    }

    /// Waits until the window and the number of fetches in flight permit another fetch. Both keep
    /// permitting it until this batch starts, because a key has one pending batch.
    async fn wait_for_slot(&self) {
        loop {
            let (wait, slot_freed) = {
                let mut state = self.inner.lock();
                let last = state.recent.last_start(self.hash);
                let next = last.map(|at| at + self.inner.window);
                let wait = next.filter(|at| *at > Instant::now());
                let Some(key) = state.keys.get_mut(&self.key) else {
                    return;
                };
                if wait.is_none() && key.in_flight.len() < MAX_IN_FLIGHT_PER_KEY {
                    return;
                }
                (wait, Arc::clone(key.slot_freed.get_or_insert_default()))
            };
            match wait {
                Some(at) => sleep_until(at).await,
                None => slot_freed.notified().await,
            }
        }
    }

    /// Closes the batch and starts the fetch. `None` if no request waits any more.
    fn start(&self, fetch: F) -> Option<impl Future<Output = Fetched<F>> + Send + use<K, F>> {
        let mut state = self.inner.lock();
        let key = state.keys.get_mut(&self.key)?;
        let batch = key.pending.take_if(|batch| batch.id == self.id)?;
        let options = batch.options()?;
        key.in_flight.push(batch);
        let window = self.inner.window;
        state.recent.started(self.hash, Instant::now(), window);
        Some(fetch.start(options))
    }

    /// Answers the pending batch, and no other.
    fn fail_pending(&self, output: &F::Output) {
        let mut state = self.inner.lock();
        if let Some(key) = state.keys.get_mut(&self.key)
            && let Some(mut batch) = key.pending.take_if(|batch| batch.id == self.id)
        {
            batch.notify(u64::MAX, output, true);
        }
    }

    fn complete(&self, seq: u64, completion: Completion<F::Output, F::Stream>) {
        let mut state = self.inner.lock();
        let State { keys, recent, .. } = &mut *state;
        let Some(key) = keys.get_mut(&self.key) else {
            return;
        };
        let position = key.in_flight.iter().position(|batch| batch.id == self.id);
        let Some(index) = position else {
            return;
        };
        let mut batch = key.in_flight.swap_remove(index);
        match completion {
            Completion::Live(output) => batch.notify(seq, &output, true),
            Completion::Final(output) => {
                batch.notify(seq, &output, true);
                for other in key.in_flight.iter_mut().chain(&mut key.pending) {
                    other.notify(seq, &output, false);
                }
            }
            Completion::Unshareable(stream) => {
                let (now, window) = (Instant::now(), self.inner.window);
                recent.unshareable(self.hash, now, window, now + UNSHAREABLE_TTL);
                let mut result = Some(JoinResult::Unshareable(stream));
                for (_, sender) in batch.waiters {
                    // The earliest request that still waits gets the stream.
                    let next = result.take().unwrap_or(JoinResult::FetchAlone);
                    if let Err(back) = sender.send(next)
                        && matches!(back, JoinResult::Unshareable(_))
                    {
                        result = Some(back);
                    }
                }
                // The pending batch joined after this fetch had started, so it never gets the stream.
                let pending = key.pending.as_mut();
                let waiters = pending.map(|batch| std::mem::take(&mut batch.waiters));
                for (_, sender) in waiters.unwrap_or_default() {
                    let _ = sender.send(JoinResult::FetchAlone);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{sleep, timeout};

    const WINDOW: Duration = Duration::from_millis(100);
    const TICK: Duration = Duration::from_millis(1);

    /// A fetch that is always admitted and completes after `takes`.
    struct Timed {
        takes: Duration,
        unshareable: bool,
    }

    impl Fetch for Timed {
        type Output = ();
        type Stream = ();

        async fn admit(&mut self) -> Result<(), ()> {
            Ok(())
        }

        async fn start(self, _: FetchOptions) -> Fetched<Self> {
            sleep(self.takes).await;
            let completion = match self.unshareable {
                true => Completion::Unshareable(()),
                false => Completion::Live(()),
            };
            (1, completion)
        }
    }

    fn options(windows: u32) -> FetchOptions {
        FetchOptions {
            deadline: Instant::now() + windows * WINDOW,
            min_seq: 0,
            may_store: true,
            force_fresh: false,
        }
    }

    #[test]
    fn merged_options_have_the_later_deadline_and_permit_what_either_permits() {
        let now = Instant::now();
        let first = FetchOptions {
            deadline: now,
            min_seq: 3,
            may_store: false,
            force_fresh: true,
        };
        let second = FetchOptions {
            deadline: now + TICK,
            min_seq: 5,
            may_store: true,
            force_fresh: false,
        };
        let merged = FetchOptions {
            deadline: now + TICK,
            min_seq: 3,
            may_store: true,
            force_fresh: true,
        };
        assert_eq!(first.merge(second), merged);
        assert_eq!(second.merge(first), merged);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unshareable_key_is_fetched_alone_until_its_ttl_is_over() {
        let coalescer = Coalescer::new(WINDOW);
        let fetch = |unshareable| {
            coalescer.fetch("key", options(10), move || Timed {
                takes: TICK,
                unshareable,
            })
        };
        assert!(matches!(fetch(true).await, JoinResult::Unshareable(())));
        let completed = Instant::now();
        assert!(matches!(fetch(true).await, JoinResult::FetchAlone));
        sleep_until(completed + UNSHAREABLE_TTL - TICK).await;
        assert!(matches!(fetch(true).await, JoinResult::FetchAlone));
        assert_eq!(coalescer.active_keys(), 1);
        sleep_until(completed + UNSHAREABLE_TTL).await;
        assert!(matches!(fetch(false).await, JoinResult::Led(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_active_while_it_is_in_flight_and_until_its_window_ends() {
        let coalescer = Coalescer::new(WINDOW);
        let start = Instant::now();
        let count = || (coalescer.active_keys(), coalescer.tasks());
        assert_eq!(count(), (0, 0));
        let fetch = coalescer.fetch("key", options(10), || Timed {
            takes: WINDOW / 2,
            unshareable: false,
        });
        tokio::pin!(fetch);
        assert!(timeout(TICK, &mut fetch).await.is_err());
        assert_eq!(count(), (1, 0), "its leader polls it: there is no task");
        assert!(matches!(fetch.await, JoinResult::Led(())));
        sleep_until(start + WINDOW - TICK).await;
        assert_eq!(count(), (1, 0), "it started within the last window");
        sleep_until(start + WINDOW).await;
        assert_eq!(count(), (0, 0));
    }

    /// Returns a fetch that takes ten windows.
    fn slow() -> Timed {
        Timed {
            takes: 10 * WINDOW,
            unshareable: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_goes_away_leaves_the_pending_batch_alone() {
        let coalescer = Coalescer::new(WINDOW);
        let mut leaver = Box::pin(coalescer.fetch("key", options(100), slow));
        assert!(timeout(TICK, &mut leaver).await.is_err());
        let mut waiting = Box::pin(coalescer.fetch("key", options(100), slow));
        assert!(timeout(TICK, &mut waiting).await.is_err());
        drop(leaver);
        assert!(matches!(waiting.await, JoinResult::Led(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_joins_as_the_last_waiter_leaves_is_served() {
        let coalescer = Coalescer::new(WINDOW);
        let mut in_flight = Box::pin(coalescer.fetch("key", options(100), slow));
        assert!(timeout(TICK, &mut in_flight).await.is_err());
        let mut leavers = [(); 2].map(|()| Box::pin(coalescer.fetch("key", options(100), slow)));
        for leaver in &mut leavers {
            assert!(timeout(TICK, leaver).await.is_err());
        }
        drop(leavers);
        // The batch has run as a task since its leader left. This request joins before that task sees that
        // no request waits.
        let joins = coalescer.fetch("key", options(100), slow);
        assert!(matches!(joins.await, JoinResult::Joined(())));
        assert!(matches!(in_flight.await, JoinResult::Led(())));
    }
}
