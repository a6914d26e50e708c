//! The purges of this gateway that are not in the fleet's log yet.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// After this time a bucket is removed once more, in case a failover lost the removal.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The number of queued purges. Above it, a purge of single ids becomes a purge of its whole rule.
const MAX_PENDING: usize = 10_000;

/// A purge to be announced.
#[derive(Debug)]
struct PendingPurge {
    /// Distinguishes it from a later purge of the same ids.
    number: u64,
    rule: String,
    ids: Vec<String>,
    /// The callers that wait for the announcement.
    acks: Vec<oneshot::Sender<()>>,
}

/// A removal of a bucket, to be repeated.
#[derive(Debug)]
pub(super) struct Retry {
    due: Instant,
    pub(super) bucket: String,
    /// The token that the bucket had: it is removed again only if it has this token again.
    pub(super) token: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct PurgeQueue {
    pending: VecDeque<PendingPurge>,
    last_number: u64,
    /// The callers whose purge is in the log, but was not yet read back from it.
    acks: Vec<oneshot::Sender<()>>,
    retries: VecDeque<Retry>,
}

impl PurgeQueue {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Queues a purge of the resources of `rule` below `ids`. It replaces the queued purges that it
    /// covers and completes their receivers with its own.
    pub(super) fn push(&mut self, rule: &str, ids: &[&str]) -> oneshot::Receiver<()> {
        let (ack, receiver) = oneshot::channel();
        let is_full = self.len() >= MAX_PENDING;
        let ids: Vec<String> = ids
            .iter()
            .filter(|_| !is_full)
            .map(|id| (*id).to_owned())
            .collect();
        let mut acks = vec![ack];
        self.pending.retain_mut(|other| {
            let is_covered = other.rule == rule && (is_full || other.ids == ids);
            if is_covered {
                acks.append(&mut other.acks);
            }
            !is_covered
        });
        self.last_number += 1;
        self.pending.push_back(PendingPurge {
            number: self.last_number,
            rule: rule.to_owned(),
            ids,
            acks,
        });
        receiver
    }

    /// Returns number, rule and ids of the oldest purge.
    pub(super) fn front(&self) -> Option<(u64, String, Vec<String>)> {
        let purge = self.pending.front()?;
        Some((purge.number, purge.rule.clone(), purge.ids.clone()))
    }

    /// Removes the purge `number`, which is in the log now. If the same ids were purged again meanwhile,
    /// that purge has another number and stays.
    pub(super) fn announced(&mut self, number: u64) {
        if let Some(purge) = self.pending.pop_front_if(|purge| purge.number == number) {
            self.acks.extend(purge.acks);
        }
    }

    /// Returns the callers of announced purges, to be notified once the log was read to its end.
    pub(super) fn take_acks(&mut self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut self.acks)
    }

    pub(super) fn retry_later(&mut self, bucket: String, token: Vec<u8>) {
        self.retries.push_back(Retry {
            due: Instant::now() + RETRY_AFTER,
            bucket,
            token,
        });
    }

    /// Returns a retry that is due.
    pub(super) fn due_retry(&mut self) -> Option<Retry> {
        let now = Instant::now();
        self.retries.pop_front_if(|retry| retry.due <= now)
    }
}
