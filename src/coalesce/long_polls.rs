//! LongPolls: one poll loop for all who wait for a step to end.
//!
//! The loop polls at the pace that the last answer asked for, tells everybody what it heard, and
//! ends when nobody waits any more. Each waiter takes what is final at once; when its time is over,
//! the latest that departed after it came.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;

/// What one poll of a loop brought.
#[derive(Debug, Clone)]
pub struct PollResult<S> {
    /// The number of the departure.
    pub number: u64,
    /// How it bears on those who wait.
    pub heard: PollEvent,
    /// What they may be told.
    pub news: S,
    /// When to poll again.
    pub pace: Duration,
}

/// How news bears on those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollEvent {
    /// The step has ended: tell everybody.
    End,
    /// Waiting will not help: tell everybody who came before it departed.
    Over,
    /// It goes on: tell whoever's time is over.
    Body,
    /// A failure that may pass: told only if there is no body.
    Failure,
    /// Nothing that could be told. Poll on.
    Nothing,
    /// This step cannot be waited for together: everybody for himself.
    Apart,
}

/// News with the number of its departure.
type Numbered<S> = Option<(u64, S)>;

/// The latest news of each kind.
#[derive(Debug, Clone)]
struct Latest<S> {
    /// Counts what was told of ends: who comes later does not believe what was told before, for it
    /// may have been purged meanwhile.
    tidings: u64,
    end: Numbered<S>,
    over: Numbered<S>,
    body: Numbered<S>,
    failure: Numbered<S>,
    apart: bool,
}

impl<S> Default for Latest<S> {
    fn default() -> Self {
        let (end, over, body, failure) = (None, None, None, None);
        Self {
            tidings: 0,
            end,
            over,
            body,
            failure,
            apart: false,
        }
    }
}

impl<S: Clone> Latest<S> {
    fn tell(&mut self, heard: PollEvent, number: u64, news: S) {
        let news = Some((number, news));
        match heard {
            // A later departure knows better.
            PollEvent::End if self.end.as_ref().is_some_and(|(known, _)| *known > number) => {}
            PollEvent::End => {
                self.tidings += 1;
                self.end = news;
            }
            PollEvent::Over => self.over = news,
            PollEvent::Body => self.body = news,
            PollEvent::Failure => self.failure = news,
            PollEvent::Nothing => {}
            PollEvent::Apart => self.apart = true,
        }
    }
}

/// A waiter's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitOptions {
    /// An end counts if its number is at least this.
    pub after: u64,
    /// Anything else counts only if it departed after the waiter came: from this number on.
    pub since: u64,
    /// When to take the latest that there is.
    pub until: Instant,
    /// Where there is nothing to take by then: how long to wait for the next news.
    pub deadline: Instant,
}

type Boards<K, S> = Mutex<HashMap<K, watch::Sender<Latest<S>>>>;

/// The loops, by step.
pub struct LongPolls<K, S> {
    boards: Arc<Boards<K, S>>,
    tasks: TaskTracker,
}

impl<K, S> fmt::Debug for LongPolls<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LongPolls({})", self.tasks.len())
    }
}

impl<K, S> Default for LongPolls<K, S> {
    fn default() -> Self {
        Self {
            boards: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }
}

fn lock<K, S>(boards: &Boards<K, S>) -> MutexGuard<'_, HashMap<K, watch::Sender<Latest<S>>>> {
    // Entries are put in and taken out whole.
    boards.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K, S> LongPolls<K, S>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    /// Waits for the step to end, on these terms, or until `leave`. `None`: nothing of that kind was
    /// heard. `poll` is used only where no loop runs yet.
    pub async fn wait<P, Q>(
        &self,
        key: K,
        terms: WaitOptions,
        leave: impl Future<Output = ()>,
        poll: impl FnOnce() -> P,
    ) -> Option<S>
    where
        P: FnMut() -> Q + Send + 'static,
        Q: Future<Output = PollResult<S>> + Send + 'static,
    {
        let (mut board, told) = self.join(key, poll);
        let from = |news: &Numbered<S>, first: u64| {
            news.as_ref()
                .filter(|(number, _)| *number >= first)
                .map(|(_, news)| news.clone())
        };
        let end = |latest: &Latest<S>| {
            let end = from(&latest.end, terms.after).filter(|_| latest.tidings > told);
            end.or_else(|| from(&latest.over, terms.since))
        };
        let best = |latest: &Latest<S>| {
            end(latest)
                .or_else(|| from(&latest.body, terms.since))
                .or_else(|| from(&latest.failure, terms.since))
        };
        let wait = async {
            let ended = board.wait_for(|latest| latest.apart || end(latest).is_some());
            // An error: time is over, or the loop is. What there is by then must do.
            let _ = timeout_at(terms.until, ended).await;
            let any = board.wait_for(|latest| latest.apart || best(latest).is_some());
            let _ = timeout_at(terms.deadline, any).await;
        };
        tokio::select! {
            () = wait => {}
            () = leave => {}
        }
        let latest = board.borrow();
        best(&latest)
    }

    /// Joins the loop, or starts one; and says how many ends were told before.
    fn join<P, Q>(&self, key: K, poll: impl FnOnce() -> P) -> (watch::Receiver<Latest<S>>, u64)
    where
        P: FnMut() -> Q + Send + 'static,
        Q: Future<Output = PollResult<S>> + Send + 'static,
    {
        let mut boards = lock(&self.boards);
        if let Some(board) = boards.get(&key) {
            let told = board.borrow().tidings;
            return (board.subscribe(), told);
        }
        let (board, seen) = watch::channel(Latest::default());
        boards.insert(key.clone(), board.clone());
        drop(boards);
        let round = Round {
            boards: Arc::clone(&self.boards),
            board,
            key,
        };
        self.tasks.spawn(round.walk(poll()));
        (seen, 0)
    }

    /// Tells those who wait for `key` of an end that somebody else's fetch found.
    pub fn tell_end(&self, key: &K, number: u64, news: &S) {
        if let Some(board) = lock(&self.boards).get(key) {
            board.send_modify(|latest| latest.tell(PollEvent::End, number, news.clone()));
        }
    }

    /// Loops at work.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }
}

/// One loop. Dropped, however it ends, it takes its board down.
struct Round<K: Eq + Hash, S> {
    boards: Arc<Boards<K, S>>,
    board: watch::Sender<Latest<S>>,
    key: K,
}

impl<K: Eq + Hash, S> Drop for Round<K, S> {
    fn drop(&mut self) {
        let mut boards = lock(&self.boards);
        if boards
            .get(&self.key)
            .is_some_and(|board| board.same_channel(&self.board))
        {
            boards.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash, S: Clone> Round<K, S> {
    async fn walk<P, Q>(self, mut poll: P)
    where
        P: FnMut() -> Q,
        Q: Future<Output = PollResult<S>>,
    {
        loop {
            let report = tokio::select! {
                report = poll() => report,
                () = self.deserted() => return,
            };
            if report.heard == PollEvent::Apart {
                // Down before it is told: whoever comes now starts anew.
                lock(&self.boards).remove(&self.key);
            }
            let PollResult {
                number,
                heard,
                news,
                pace,
            } = report;
            self.board
                .send_modify(|latest| latest.tell(heard, number, news));
            if heard == PollEvent::Apart {
                return;
            }
            // Who has what it waited for leaves; the others may have come too late for it.
            tokio::select! {
                () = sleep(pace) => {}
                () = self.deserted() => return,
            }
        }
    }

    /// Returns when nobody waits; then nobody can join this loop either.
    async fn deserted(&self) {
        loop {
            self.board.closed().await;
            {
                let mut boards = lock(&self.boards);
                if self.board.is_closed() {
                    boards.remove(&self.key);
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

    fn terms(after: u64) -> WaitOptions {
        let until = Instant::now() + 60 * SECOND;
        WaitOptions {
            after,
            since: 0,
            until,
            deadline: until,
        }
    }

    /// A loop that hears nothing.
    fn deaf() -> impl FnMut() -> Ready<PollResult<&'static str>> + Send {
        || {
            ready(PollResult {
                number: 1,
                heard: PollEvent::Nothing,
                news: "",
                pace: 3600 * SECOND,
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_another_fetch_found_is_told_at_once_and_the_loop_ends() {
        let patrols: LongPolls<u8, &str> = LongPolls::default();
        let wait = patrols.wait(1, terms(0), pending(), deaf);
        let mut wait = Box::pin(wait);
        assert!(timeout(SECOND, &mut wait).await.is_err());
        assert_eq!(patrols.tasks(), 1);
        patrols.tell_end(&2, 5, &"of another step");
        assert!(timeout(SECOND, &mut wait).await.is_err());
        patrols.tell_end(&1, 5, &"end");
        assert_eq!(timeout(SECOND, wait).await, Ok(Some("end")));
        sleep(SECOND).await;
        assert_eq!(patrols.tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_later_departure_stands() {
        let patrols: LongPolls<u8, &str> = LongPolls::default();
        let mut wait = Box::pin(patrols.wait(1, terms(0), pending(), deaf));
        assert!(timeout(SECOND, &mut wait).await.is_err());
        patrols.tell_end(&1, 5, &"later");
        patrols.tell_end(&1, 4, &"earlier");
        assert_eq!(timeout(SECOND, wait).await, Ok(Some("later")));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_was_told_before_is_not_believed() {
        let patrols: LongPolls<u8, &str> = LongPolls::default();
        let mut early = Box::pin(patrols.wait(1, terms(9), pending(), deaf));
        assert!(timeout(SECOND, &mut early).await.is_err());
        patrols.tell_end(&1, 5, &"purged since");
        let mut late = Box::pin(patrols.wait(1, terms(0), pending(), deaf));
        assert!(timeout(SECOND, &mut late).await.is_err());
        patrols.tell_end(&1, 5, &"again");
        assert_eq!(timeout(SECOND, late).await, Ok(Some("again")));
        assert!(timeout(SECOND, early).await.is_err(), "it asked for later");
    }
}
