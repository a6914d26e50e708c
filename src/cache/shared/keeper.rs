//! The keeper: the one task that owns the connection.
//!
//! It connects, catches up with the log of purges, and only then lets the tier be used; from then on it
//! reads the log a few times a second, which is also how it knows that the server lives and how long
//! what it knows holds. While anything is wrong the tier rests, and costs a request nothing.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::link::{Link, Trouble};
use super::log::{self, Forget, MOST, Mark, Reader, View};
use super::names::Names;
use super::scripts::{self, Announcement};
use super::{Tier, Up, lock, nonce, writes};
use crate::step::Predicate;
use crate::step::key::path_of;

/// How often the log is read.
const PACE: Duration = Duration::from_millis(250);

/// How long what was read holds. Below a second with a read's time, which is what a purge may take.
const LEASE: Duration = Duration::from_millis(700);

/// How long the tier rests at first; each time twice as long, up to the most.
const REST: Duration = Duration::from_secs(1);
const MOST_REST: Duration = Duration::from_secs(10);

/// A removal is repeated after this: a failover may have lost it.
const AGAIN: Duration = Duration::from_secs(2);

/// The longest that a start waits for the tier.
const TO_TRY: Duration = Duration::from_millis(500);

/// Purges that may wait for the fleet to be told. Beyond them all of a rule is purged at once.
const MOST_PENDING: usize = 10_000;

/// What an operator is told.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Why it rests; none while it is in use.
    resting: Option<String>,
    /// It was in use once.
    was_up: bool,
}

/// Purges on their way to the fleet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    purges: VecDeque<Purge>,
    /// The number of the last one.
    last: u64,
    /// When to remove which thread once more, if it has its old token again.
    again: VecDeque<(Instant, Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
struct Purge {
    /// Tells it from a later one of the same.
    number: u64,
    rule: String,
    ids: Vec<String>,
    /// Who is to hear that the fleet knows.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Tier {
    /// Tells the fleet of a purge that is done here. Nothing is taken from the tier until it knows;
    /// what is returned ends then.
    pub(in crate::cache) fn purge(&self, rule: &str, ids: &[&str]) -> oneshot::Receiver<()> {
        let (done, told) = oneshot::channel();
        self.known.forget();
        {
            let mut pending = lock(&self.pending);
            let is_full = pending.purges.len() >= MOST_PENDING;
            // One purge of the rule does for all of its steps; the same once more is the same.
            let ids: Vec<String> = ids
                .iter()
                .filter(|_| !is_full)
                .map(|id| (*id).to_owned())
                .collect();
            let is_covered = |purge: &Purge| purge.rule == rule && (is_full || purge.ids == ids);
            let mut waiting = vec![done];
            pending.purges.retain_mut(|purge| {
                let stays = !is_covered(purge);
                if !stays {
                    waiting.append(&mut purge.waiting);
                }
                stays
            });
            pending.last += 1;
            let number = pending.last;
            pending.purges.push_back(Purge {
                number,
                rule: rule.to_owned(),
                ids,
                waiting,
            });
            self.lease.store(0, Ordering::Release);
        }
        self.call.notify_one();
        told
    }

    /// For `/status`.
    pub fn status(&self) -> serde_json::Value {
        let state = lock(&self.state);
        let pending = lock(&self.pending).purges.len();
        match &state.resting {
            None if state.was_up => serde_json::json!({ "state": "up", "pending_purges": pending }),
            why => serde_json::json!({
                "state": "resting",
                "reason": why.as_deref().unwrap_or("not connected yet"),
                "pending_purges": pending,
            }),
        }
    }

    pub(super) fn rest(&self, why: &str) {
        self.up.store(None);
        self.figures.is_up.set(0);
        let mut state = lock(&self.state);
        if state.resting.as_deref() != Some(why) {
            tracing::warn!(reason = why, "the shared tier rests");
            state.resting = Some(why.to_owned());
        }
    }

    fn is_up(&self) {
        self.figures.is_up.set(1);
        let mut state = lock(&self.state);
        if state.resting.take().is_some() || !state.was_up {
            tracing::info!("the shared tier is in use");
            state.was_up = true;
        }
    }

    /// Keeps the tier until it is told to end. `forget` forgets what is in memory, and may block.
    pub async fn keep<F>(self: Arc<Self>, end: CancellationToken, forget: F)
    where
        F: Fn(Purged) + Clone + Send + 'static,
    {
        let queue = lock(&self.queued).take();
        let written = async {
            if let Some(queue) = queue {
                writes::write_behind(&self, queue, &end).await;
            }
        };
        let kept = async {
            let both =
                async { tokio::join!(self.keep_on(forget.clone()), self.settle_doubts(forget)) };
            end.run_until_cancelled(both).await;
        };
        tokio::join!(kept, written);
        self.rest("the gateway ends");
    }

    /// Returns when it was tried once, or soon: a start waits for it, so that a new gateway answers its
    /// first request from what the fleet has.
    pub async fn tried(&self) {
        let _ = timeout(TO_TRY, self.tried.cancelled()).await;
    }

    async fn keep_on<F: Fn(Purged) + Clone + Send + 'static>(&self, forget: F) {
        let mut reader = Reader::new(&self.names, nonce());
        let mut rest = REST;
        loop {
            let trouble = match self.dialer.dial().await {
                Ok(link) => {
                    let began = Instant::now();
                    let trouble = self.follow(&link, &mut reader, &forget).await;
                    if began.elapsed() > MOST_REST {
                        rest = REST;
                    }
                    trouble
                }
                Err(trouble) => trouble,
            };
            self.rest(&trouble.to_string());
            self.tried.cancel();
            // Up to a quarter more, so that a fleet does not come back as one.
            let jitter = u32::from(nonce()[0]);
            sleep(rest + rest * jitter / 1024).await;
            rest = (rest * 2).min(MOST_REST);
        }
    }

    /// Follows the log for as long as the server answers.
    async fn follow<F>(&self, link: &Link, reader: &mut Reader, forget: &F) -> Trouble
    where
        F: Fn(Purged) + Clone + Send + 'static,
    {
        let mut late = 0;
        let mut is_first = true;
        self.failures.store(0, Ordering::Relaxed);
        loop {
            let began = self.milliseconds();
            match self.look_round(link, reader, forget).await {
                Ok(view) => {
                    late = 0;
                    if !is_first && self.up.load().is_none() {
                        // Requests found it in trouble.
                        return Trouble::Late;
                    }
                    self.use_it(link, view, began);
                    self.tried.cancel();
                    is_first = false;
                }
                Err(trouble) => {
                    late += 1;
                    if is_first || late >= super::FAILURES || !matches!(trouble, Trouble::Late) {
                        return trouble;
                    }
                }
            }
            tokio::select! {
                () = sleep(PACE) => {}
                () = self.call.notified() => {}
            }
        }
    }

    /// Reads the log, forgets what was purged, and tells of what was purged here.
    async fn look_round<F>(
        &self,
        link: &Link,
        reader: &mut Reader,
        forget: &F,
    ) -> Result<View, Trouble>
    where
        F: Fn(Purged) + Clone + Send + 'static,
    {
        loop {
            let (view, news) = reader.follow(link).await?;
            if let Some(news) = news {
                // First: what is read under the old names after the walls are up would be kept.
                self.lease.store(0, Ordering::Release);
                self.known.forget();
                self.forget(news, forget.clone()).await?;
            }
            self.remove_again(link).await?;
            if self.tell(link, reader, &view).await? {
                return Ok(view);
            }
        }
    }

    /// Has memory forget it, beside the runtime: that walks all entries.
    pub(super) async fn forget<F>(&self, what: Forget, forget: F) -> Result<(), Trouble>
    where
        F: FnOnce(Purged) + Send + 'static,
    {
        let purged = Purged::of(what, Arc::clone(&self.names));
        let forgotten = tokio::task::spawn_blocking(move || forget(purged)).await;
        forgotten.map_err(|_| Trouble::Late)
    }

    /// Tells the fleet of the first purge that is pending. Returns whether there is none.
    async fn tell(&self, link: &Link, reader: &Reader, view: &View) -> Result<bool, Trouble> {
        let (number, rule, ids) = {
            let pending = lock(&self.pending);
            let Some(purge) = pending.purges.front() else {
                return Ok(true);
            };
            (purge.number, purge.rule.clone(), purge.ids.clone())
        };
        let field = self.names.rule(&rule);
        let epoch = view.epoch(field.as_bytes());
        let mut removed = None;
        if let Some(first) = ids.first() {
            let thread = self.names.thread(&view.log, epoch, rule.as_str(), first);
            let command = scripts::remove(thread.as_bytes());
            let token: Option<Vec<u8>> = link.ask(&command).await?;
            removed = Some((thread.into_bytes(), token));
        }
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mark = Mark::of(&self.names, rule.as_str(), &ids);
        let (head, stream) = reader.keys();
        let message = log::encode(&reader.sender, &mark);
        let what = Announcement {
            message: &message,
            rule: field.as_bytes(),
            log: &view.log,
            epoch: removed.is_some().then_some(epoch),
            most: MOST,
        };
        let command = scripts::announce(head, stream, &nonce(), &what);
        let (message, _): (u64, Vec<u8>) = link.ask(&command).await?;
        if message == 0 {
            // Under other names by now: once more.
            return Ok(false);
        }
        let mut pending = lock(&self.pending);
        if let Some((thread, Some(token))) = removed {
            let due = Instant::now() + AGAIN;
            pending.again.push_back((due, thread, token));
        }
        // If it was asked for again meanwhile, that is another one.
        if let Some(purge) = pending.purges.pop_front_if(|purge| purge.number == number) {
            for told in purge.waiting {
                // Who has gone need not know.
                let _ = told.send(());
            }
        }
        // Read back at once: the reader must know of it should the log lose it. And a rule may have
        // another epoch now.
        Ok(false)
    }

    async fn remove_again(&self, link: &Link) -> Result<(), Trouble> {
        loop {
            let now = Instant::now();
            let due = lock(&self.pending)
                .again
                .pop_front_if(|(due, ..)| *due <= now);
            let Some((_, thread, token)) = due else {
                return Ok(());
            };
            let command = scripts::remove_again(&thread, &token);
            link.ask::<u64>(&command).await?;
        }
    }

    /// From `began` on what was read holds for a lease.
    fn use_it(&self, link: &Link, view: View, began: u64) {
        let is_new = self.up.load().as_ref().is_none_or(|up| up.view != view);
        if is_new {
            self.known.forget();
            let link = link.clone();
            self.up.store(Some(Arc::new(Up { link, view })));
        }
        // A purge that came meanwhile keeps it from being used until it is told.
        let pending = lock(&self.pending);
        if pending.purges.is_empty() {
            let lease = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
            self.lease.store(began + lease, Ordering::Release);
            self.doubts.call.notify_one();
        }
        drop(pending);
        self.is_up();
    }
}

/// What the fleet has purged.
pub enum Purged {
    /// What these hashes stand for.
    Marked(Marks),
    /// Anything: something was missed.
    Anything,
}

/// Hashes of what was purged.
pub struct Marks {
    names: Arc<Names>,
    marks: HashSet<Mark>,
}

impl Marks {
    /// Whether a step is meant.
    pub fn predicate(self) -> Predicate {
        let depths: BTreeSet<u8> = self.marks.iter().map(|mark| mark.depth).collect();
        Predicate::new(move |step| {
            let path: SmallVec<[&[u8]; 4]> = path_of(step).collect();
            let Some((&rule, ids)) = path.split_first() else {
                return false;
            };
            depths.iter().any(|&depth| {
                ids.get(..usize::from(depth)).is_some_and(|ids| {
                    let name = self.names.mark(rule, ids);
                    self.marks.contains(&Mark { depth, name })
                })
            })
        })
    }
}

impl Purged {
    fn of(forget: Forget, names: Arc<Names>) -> Self {
        match forget {
            Forget::All => Self::Anything,
            Forget::Marked(marks) => Self::Marked(Marks {
                names,
                marks: marks.into_iter().collect(),
            }),
        }
    }
}
