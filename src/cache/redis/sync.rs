//! The keeper: the one task that owns the connection.
//!
//! It connects, catches up with the log of purges, and only then lets the tier be used; from then on it
//! reads the log a few times a second, which is also how it knows that the server lives and how long
//! what it knows holds. While anything is wrong the tier rests, and costs a request nothing.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::breaker::FAILURES;
use super::client::Link;
use super::error::Trouble;
use super::keys::Names;
use super::log::{Forget, Mark, Reader, View};
use super::scripts;
use super::{SharedTier, Up, lock, nonce, writer};
use crate::policy::Predicate;
use crate::policy::key::rule_and_ids;

/// How often the log is read.
const PACE: Duration = Duration::from_millis(250);

/// How long what was read holds. Below a second with a read's time, which is what a purge may take.
const LEASE: Duration = Duration::from_millis(700);

/// How long the tier rests at first; each time twice as long, up to the most.
const REST: Duration = Duration::from_secs(1);
const MOST_REST: Duration = Duration::from_secs(10);

/// The longest that a start waits for the tier.
const TO_TRY: Duration = Duration::from_millis(500);

/// What an operator is told.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Why it rests; none while it is in use.
    resting: Option<String>,
    /// It was in use once.
    was_up: bool,
}

impl SharedTier {
    /// For `/status`.
    pub fn status(&self) -> serde_json::Value {
        let state = lock(&self.state);
        let pending = lock(&self.pending).purges.len();
        match &state.resting {
            None if state.was_up => serde_json::json!({
                "state": "up",
                "pending_purges": pending,
                "open_slot_ranges": self.parts.resting().len(),
            }),
            why => serde_json::json!({
                "state": "resting",
                "reason": why.as_deref().unwrap_or("not connected yet"),
                "pending_purges": pending,
            }),
        }
    }

    fn out_of_use(&self) {
        self.up.store(None);
        self.metrics.is_up.set(0);
    }

    pub(super) fn rest(&self, why: &str) {
        self.out_of_use();
        let mut state = lock(&self.state);
        if state.resting.as_deref() != Some(why) {
            tracing::warn!(reason = why, "the shared tier rests");
            state.resting = Some(why.to_owned());
        }
    }

    fn is_up(&self) {
        self.metrics.is_up.set(1);
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
                writer::write_behind(&self, queue, &end).await;
            }
        };
        let kept = async {
            let all = async {
                tokio::join!(
                    self.keep_on(forget.clone()),
                    self.settle_doubts(forget),
                    self.probe()
                )
            };
            end.run_until_cancelled(all).await;
        };
        tokio::join!(kept, written);
        self.out_of_use();
        tracing::debug!("the shared tier is at its end");
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
            self.rest(&self.dialer.explain(&trouble));
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
        self.parts.begin_anew();
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
                    if is_first || late >= FAILURES || !matches!(trouble, Trouble::Late) {
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
            self.confirm();
            self.remove_again(link).await;
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

    /// Finds out which of the parts that rest are well again, for ever.
    async fn probe(&self) {
        let mut rest = REST;
        loop {
            sleep(rest).await;
            rest = (rest * 2).min(MOST_REST);
            let resting = self.parts.resting();
            if resting.is_empty() {
                rest = REST;
            }
            let Some(up) = self.up.load_full() else {
                continue;
            };
            let mut probes = JoinSet::new();
            for key in resting {
                let up = Arc::clone(&up);
                probes.spawn(async move {
                    let answer = up.link.ask::<bool>(&scripts::has(&key, b"")).await;
                    (key, answer)
                });
            }
            while let Some(probe) = probes.join_next().await {
                if let Ok((key, answer)) = probe
                    && !answer.is_err_and(|trouble| trouble.is_the_servers())
                {
                    self.parts.wake(&key);
                    rest = REST;
                }
            }
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
            let path: SmallVec<[&[u8]; 4]> = rule_and_ids(step).collect();
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
