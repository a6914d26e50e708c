//! Purges that were done here, and the fleet is still to be told of.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::client::Link;
use super::error::Trouble;
use super::log::{self, MOST, Mark, Reader, View};
use super::scripts::{self, Announcement};
use super::{SharedTier, lock, nonce};

/// A removal is repeated after this: a failover may have lost it.
const AGAIN: Duration = Duration::from_secs(2);

/// Purges that may wait for the fleet to be told. Beyond them all of a rule is purged at once.
const MOST_PENDING: usize = 10_000;

/// Purges on their way to the fleet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) purges: VecDeque<Purge>,
    /// The number of the last one.
    last: u64,
    /// Who is to hear of those that the log has, once this gateway has read them there.
    told: Vec<oneshot::Sender<()>>,
    /// When to remove which thread once more, if it has its old token again.
    again: VecDeque<(Instant, Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub(super) struct Purge {
    /// Tells it from a later one of the same.
    number: u64,
    rule: String,
    ids: Vec<String>,
    /// Who is to hear that the fleet knows.
    waiting: Vec<oneshot::Sender<()>>,
}

impl SharedTier {
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

    /// Tells the fleet of the first purge that is pending. Returns whether there is none that could be
    /// told now.
    pub(super) async fn tell(
        &self,
        link: &Link,
        reader: &Reader,
        view: &View,
    ) -> Result<bool, Trouble> {
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
        let thread = |id: &String| self.names.thread(&view.log, epoch, rule.as_str(), id);
        let thread = ids.first().map(thread).map(String::into_bytes);
        if self.parts.all_rest() {
            // It is the connection, and another one is on its way.
            return Err(Trouble::Late);
        }
        // From a node that hangs nothing can be removed: then all of the rule gets new names.
        if let Some(thread) = thread.filter(|thread| !self.parts.rests(thread)) {
            match link.ask::<Option<Vec<u8>>>(&scripts::remove(&thread)).await {
                Ok(token) => removed = Some((thread, token)),
                Err(trouble) if trouble.is_the_servers() => {
                    // What was read of the log is good all the same: it is only this purge that waits.
                    self.failed(&thread, &trouble);
                    return Ok(true);
                }
                Err(trouble) => return Err(trouble),
            }
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
            pending.told.extend(purge.waiting);
        }
        // Read back at once. And a rule may have another epoch now.
        Ok(false)
    }

    /// The log was read to its end: should it lose any of what was told, that will show.
    pub(super) fn confirm(&self) {
        for told in std::mem::take(&mut lock(&self.pending).told) {
            // Who has gone need not know.
            let _ = told.send(());
        }
    }

    /// Removes once more what is due, where that can be done: it is a belt.
    pub(super) async fn remove_again(&self, link: &Link) {
        loop {
            let now = Instant::now();
            let due = lock(&self.pending)
                .again
                .pop_front_if(|(due, ..)| *due <= now);
            let Some((_, thread, token)) = due else {
                return;
            };
            if self.parts.rests(&thread) {
                continue;
            }
            let command = scripts::remove_again(&thread, &token);
            if let Err(trouble) = link.ask::<u64>(&command).await {
                self.failed(&thread, &trouble);
            }
        }
    }
}
