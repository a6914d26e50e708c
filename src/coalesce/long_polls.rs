//! Long polls: one poll loop for all requests that wait for a resource to become final.
//!
//! The loop polls at the interval that the last result asked for, publishes each result, and ends when
//! no request waits any more. A request takes a final result at once. When its time is over, it takes the
//! latest result of a fetch that started after the request came.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;

/// The result of one poll.
#[derive(Debug, Clone)]
pub struct PollResult<R> {
    /// The sequence number of the fetch.
    pub seq: u64,
    /// What the result means for the requests that wait.
    pub event: PollEvent,
    /// What the requests may be answered with.
    pub result: R,
    /// When to poll again.
    pub interval: Duration,
}

/// What a result means for the requests that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollEvent {
    /// The resource is final: answers every request.
    Final,
    /// Waiting longer will not help: answers every request that came before the fetch started.
    Terminal,
    /// The resource is live: answers the requests whose time is over.
    Live,
    /// A failure that may pass: answers a request only if there is no body.
    Transient,
    /// No result that could answer a request. The loop polls on.
    NoUpdate,
    /// Responses of this resource cannot be shared: every request has to fetch alone.
    Unshareable,
}

/// A result with the sequence number of its fetch.
type Sequenced<R> = Option<(u64, R)>;

/// The latest result of each kind.
#[derive(Debug, Clone)]
struct LatestResults<R> {
    /// Counts the final results that were published. A request that joins later does not accept one that
    /// was published before, because it may have been purged in the meantime.
    finals: u64,
    last_final: Sequenced<R>,
    terminal: Sequenced<R>,
    live: Sequenced<R>,
    transient: Sequenced<R>,
    unshareable: bool,
}

impl<R> Default for LatestResults<R> {
    fn default() -> Self {
        Self {
            finals: 0,
            last_final: None,
            terminal: None,
            live: None,
            transient: None,
            unshareable: false,
        }
    }
}

impl<R: Clone> LatestResults<R> {
    fn record(&mut self, event: PollEvent, seq: u64, result: R) {
        let result = Some((seq, result));
        match event {
            // A fetch that started later knows better.
            PollEvent::Final
                if self
                    .last_final
                    .as_ref()
                    .is_some_and(|(last, _)| *last > seq) => {}
            PollEvent::Final => {
                self.finals += 1;
                self.last_final = result;
            }
            PollEvent::Terminal => self.terminal = result,
            PollEvent::Live => self.live = result,
            PollEvent::Transient => self.transient = result,
            PollEvent::NoUpdate => {}
            PollEvent::Unshareable => self.unshareable = true,
        }
    }
}

/// What a request accepts, and for how long it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitOptions {
    /// The request accepts a final result if its sequence number is at least this.
    pub min_final_seq: u64,
    /// The request accepts any other result only from a fetch that started after the request came, that
    /// is, if its sequence number is at least this.
    pub min_seq: u64,
    /// When to take the latest result that there is.
    pub until: Instant,
    /// If there is no result by then: how long to wait for the next one.
    pub deadline: Instant,
}

type Loops<K, R> = Mutex<HashMap<K, watch::Sender<LatestResults<R>>>>;

/// The poll loops, by key.
pub struct LongPolls<K, R> {
    loops: Arc<Loops<K, R>>,
    tasks: TaskTracker,
}

impl<K, R> fmt::Debug for LongPolls<K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LongPolls({})", self.tasks.len())
    }
}

impl<K, R> Default for LongPolls<K, R> {
    fn default() -> Self {
        Self {
            loops: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }
}

fn lock<K, R>(loops: &Loops<K, R>) -> MutexGuard<'_, HashMap<K, watch::Sender<LatestResults<R>>>> {
    // Entries are inserted and removed whole.
    loops.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K, R> LongPolls<K, R>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    R: Clone + Send + Sync + 'static,
{
    /// Waits for the resource to become final, or until `cancelled`. Returns `None` if there was no
    /// result that the request accepts. Calls `poll` only if no loop runs for the key yet.
    pub async fn wait<P, Q>(
        &self,
        key: K,
        options: WaitOptions,
        cancelled: impl Future<Output = ()>,
        poll: impl FnOnce() -> P,
    ) -> Option<R>
    where
        P: FnMut() -> Q + Send + 'static,
        Q: Future<Output = PollResult<R>> + Send + 'static,
    {
        let (mut results, finals_before) = self.join(key, poll);
        let at_least = |result: &Sequenced<R>, min_seq: u64| {
            let accepted = result.as_ref().filter(|(seq, _)| *seq >= min_seq);
            accepted.map(|(_, result)| result.clone())
        };
        let conclusive = |latest: &LatestResults<R>| {
            let is_new = latest.finals > finals_before;
            let last_final = at_least(&latest.last_final, options.min_final_seq);
            let last_final = last_final.filter(|_| is_new);
            last_final.or_else(|| at_least(&latest.terminal, options.min_seq))
        };
        let best = |latest: &LatestResults<R>| {
            conclusive(latest)
                .or_else(|| at_least(&latest.live, options.min_seq))
                .or_else(|| at_least(&latest.transient, options.min_seq))
        };
        let wait = async {
            let ended =
                results.wait_for(|latest| latest.unshareable || conclusive(latest).is_some());
            // An error means that the time or the loop is over. Then the latest result has to do.
            let _ = timeout_at(options.until, ended).await;
            let any = results.wait_for(|latest| latest.unshareable || best(latest).is_some());
            let _ = timeout_at(options.deadline, any).await;
        };
        tokio::select! {
            () = wait => {}
            () = cancelled => {}
        }
        let latest = results.borrow();
        best(&latest)
    }

    /// Joins the loop, or starts one. Returns how many final results were published before, too.
    fn join<P, Q>(
        &self,
        key: K,
        poll: impl FnOnce() -> P,
    ) -> (watch::Receiver<LatestResults<R>>, u64)
    where
        P: FnMut() -> Q + Send + 'static,
        Q: Future<Output = PollResult<R>> + Send + 'static,
    {
        let mut loops = lock(&self.loops);
        if let Some(results) = loops.get(&key) {
            let finals = results.borrow().finals;
            return (results.subscribe(), finals);
        }
        let (sender, receiver) = watch::channel(LatestResults::default());
        loops.insert(key.clone(), sender.clone());
        drop(loops);
        let poll_loop = PollLoop {
            loops: Arc::clone(&self.loops),
            results: sender,
            key,
        };
        self.tasks.spawn(poll_loop.run(poll()));
        (receiver, 0)
    }

    /// Answers the requests that wait for `key` with a final result that another fetch found.
    pub fn publish_final(&self, key: &K, seq: u64, result: &R) {
        if let Some(results) = lock(&self.loops).get(key) {
            results.send_modify(|latest| latest.record(PollEvent::Final, seq, result.clone()));
        }
    }

    /// Returns how many loops run.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }
}

/// One poll loop. However it ends, the drop removes its entry.
struct PollLoop<K: Eq + Hash, R> {
    loops: Arc<Loops<K, R>>,
    results: watch::Sender<LatestResults<R>>,
    key: K,
}

impl<K: Eq + Hash, R> Drop for PollLoop<K, R> {
    fn drop(&mut self) {
        let mut loops = lock(&self.loops);
        let entry = loops.get(&self.key);
        if entry.is_some_and(|results| results.same_channel(&self.results)) {
            loops.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash, R: Clone> PollLoop<K, R> {
    async fn run<P, Q>(self, mut poll: P)
    where
        P: FnMut() -> Q,
        Q: Future<Output = PollResult<R>>,
    {
        loop {
            let polled = tokio::select! {
                polled = poll() => polled,
                () = self.abandoned() => return,
            };
            let unshareable = polled.event == PollEvent::Unshareable;
            if unshareable {
                // The entry goes before the requests wake, so that one that comes now starts a new loop.
                lock(&self.loops).remove(&self.key);
            }
            self.results
                .send_modify(|latest| latest.record(polled.event, polled.seq, polled.result));
            if unshareable {
                return;
            }
            // Requests that have their result leave; others may have come too late for this one.
            tokio::select! {
                () = sleep(polled.interval) => {}
                () = self.abandoned() => return,
            }
        }
    }

    /// Returns when no request waits; then no request can join this loop either.
    async fn abandoned(&self) {
        loop {
            self.results.closed().await;
            {
                let mut loops = lock(&self.loops);
                if self.results.is_closed() {
                    loops.remove(&self.key);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, pending, ready};

    use super::*;
    use tokio::time::timeout;

    const SECOND: Duration = Duration::from_secs(1);

    fn options(min_final_seq: u64) -> WaitOptions {
        let until = Instant::now() + 60 * SECOND;
        WaitOptions {
            min_final_seq,
            min_seq: 0,
            until,
            deadline: until,
        }
    }

    /// Returns a poll that never brings an update.
    fn no_updates() -> impl FnMut() -> Ready<PollResult<&'static str>> + Send {
        || {
            ready(PollResult {
                seq: 1,
                event: PollEvent::NoUpdate,
                result: "",
                interval: 3600 * SECOND,
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_final_result_of_another_fetch_answers_at_once_and_ends_the_loop() {
        let long_polls: LongPolls<u8, &str> = LongPolls::default();
        let wait = long_polls.wait(1, options(0), pending(), no_updates);
        let mut wait = Box::pin(wait);
        assert!(timeout(SECOND, &mut wait).await.is_err());
        assert_eq!(long_polls.tasks(), 1);
        long_polls.publish_final(&2, 5, &"of another key");
        assert!(timeout(SECOND, &mut wait).await.is_err());
        long_polls.publish_final(&1, 5, &"final");
        assert_eq!(timeout(SECOND, wait).await, Ok(Some("final")));
        sleep(SECOND).await;
        assert_eq!(long_polls.tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_final_result_of_a_later_fetch_stands() {
        let long_polls: LongPolls<u8, &str> = LongPolls::default();
        let mut wait = Box::pin(long_polls.wait(1, options(0), pending(), no_updates));
        assert!(timeout(SECOND, &mut wait).await.is_err());
        long_polls.publish_final(&1, 5, &"later");
        long_polls.publish_final(&1, 4, &"earlier");
        assert_eq!(timeout(SECOND, wait).await, Ok(Some("later")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_final_result_that_was_published_before_is_not_accepted() {
        let long_polls: LongPolls<u8, &str> = LongPolls::default();
        let mut early = Box::pin(long_polls.wait(1, options(9), pending(), no_updates));
        assert!(timeout(SECOND, &mut early).await.is_err());
        long_polls.publish_final(&1, 5, &"purged since");
        let mut late = Box::pin(long_polls.wait(1, options(0), pending(), no_updates));
        assert!(timeout(SECOND, &mut late).await.is_err());
        long_polls.publish_final(&1, 5, &"again");
        assert_eq!(timeout(SECOND, late).await, Ok(Some("again")));
        assert!(
            timeout(SECOND, early).await.is_err(),
            "it accepts later fetches only"
        );
    }
}
