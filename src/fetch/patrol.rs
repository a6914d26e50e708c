//! Patrols: one poll loop for all who wait for a step to end.
//!
//! The loop polls at the pace that the last answer asked for, tells everybody what it heard, and
//! ends with the step, or when nobody waits. Each waiter takes what is final at once; when its time
//! is over, the latest that departed after it came.

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
pub struct Report<S> {
    /// The number of the departure.
    pub number: u64,
    /// How it bears on those who wait.
    pub heard: Heard,
    /// What they may be told.
    pub news: S,
    /// When to poll again.
    pub pace: Duration,
}

/// How news bears on those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The step has ended, or waiting will not help: tell everybody.
    End,
    /// It goes on: tell whoever's time is over.
    Body,
    /// A failure that may pass: told only if there is no body.
    Failure,
    /// This step cannot be waited for together: everybody for himself.
    Nothing,
}

#[derive(Debug, Clone)]
struct Latest<S> {
    end: Option<(u64, S)>,
    body: Option<(u64, S)>,
    failure: Option<(u64, S)>,
    broken: bool,
}

impl<S> Default for Latest<S> {
    fn default() -> Self {
        Self {
            end: None,
            body: None,
            failure: None,
            broken: false,
        }
    }
}

type Boards<K, S> = Mutex<HashMap<K, watch::Sender<Latest<S>>>>;

/// The loops, by step.
pub struct Patrols<K, S> {
    boards: Arc<Boards<K, S>>,
    tasks: TaskTracker,
}

impl<K, S> fmt::Debug for Patrols<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patrols({})", self.tasks.len())
    }
}

impl<K, S> Default for Patrols<K, S> {
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

impl<K, S> Patrols<K, S>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    /// Waits for the step to end, until `until` or `leave`. An end counts if its number is at least
    /// `after`; anything else only if it departed after the waiter came, which is from `since` on.
    /// `None`: nothing of that kind was heard. `poll` is used only where no loop runs yet.
    pub async fn wait<P, Q>(
        &self,
        key: K,
        (after, since): (u64, u64),
        until: Instant,
        leave: impl Future<Output = ()>,
        poll: impl FnOnce() -> P,
    ) -> Option<S>
    where
        P: FnMut() -> Q + Send + 'static,
        Q: Future<Output = Report<S>> + Send + 'static,
    {
        let mut board = self.join(key, poll);
        let ended = board.wait_for(|latest| {
            latest.broken
                || latest
                    .end
                    .as_ref()
                    .is_some_and(|(number, _)| *number >= after)
        });
        let latest = tokio::select! {
            ended = timeout_at(until, ended) => match ended {
                Ok(Ok(latest)) => Some(latest.clone()),
                // Time is over, or the loop is.
                Ok(Err(_)) | Err(_) => None,
            },
            () = leave => None,
        };
        let latest = latest.unwrap_or_else(|| board.borrow().clone());
        let take = |news: Option<(u64, S)>, from| {
            news.and_then(|(number, news)| (number >= from).then_some(news))
        };
        take(latest.end, after)
            .or_else(|| take(latest.body, since))
            .or_else(|| take(latest.failure, since))
    }

    fn join<P, Q>(&self, key: K, poll: impl FnOnce() -> P) -> watch::Receiver<Latest<S>>
    where
        P: FnMut() -> Q + Send + 'static,
        Q: Future<Output = Report<S>> + Send + 'static,
    {
        let mut boards = lock(&self.boards);
        if let Some(board) = boards.get(&key) {
            return board.subscribe();
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
        seen
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
        Q: Future<Output = Report<S>>,
    {
        loop {
            let report = tokio::select! {
                report = poll() => report,
                () = self.deserted() => return,
            };
            let Report {
                number,
                heard,
                news,
                pace,
            } = report;
            if matches!(heard, Heard::End | Heard::Nothing) {
                // Down before it is told: whoever comes now starts anew.
                lock(&self.boards).remove(&self.key);
            }
            self.board.send_modify(|latest| match heard {
                Heard::End => latest.end = Some((number, news)),
                Heard::Body => latest.body = Some((number, news)),
                Heard::Failure => latest.failure = Some((number, news)),
                Heard::Nothing => latest.broken = true,
            });
            if matches!(heard, Heard::End | Heard::Nothing) {
                return;
            }
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
