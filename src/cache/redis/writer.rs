//! Writing behind: a bounded queue, and what is in it on its way. Never in anybody's way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::codec::{self, Place, Record};
use super::lookup_once::WriteToken;
use super::{SharedTier, milliseconds_since_1970, scripts};
use crate::cache::CoalesceKey;

/// Writes that wait at once.
const MOST: usize = 1024;

/// Bytes of the bodies that wait.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Writes on their way at once.
const ABREAST: usize = 32;

/// What has waited for longer is of no use to a fleet that polls: it has fetched it.
const STALE: Duration = Duration::from_secs(1);

/// A final body to be written.
#[derive(Debug)]
pub struct WriteJob {
    /// From before its fetch departed.
    pub token: WriteToken,
    /// What it is of.
    pub key: Arc<CoalesceKey>,
    /// As the upstream sent it.
    pub body: Bytes,
    /// The upstream's `content-type`.
    pub content_type: Option<HeaderValue>,
    /// How long it is kept from now on.
    pub ttl: Duration,
}

#[derive(Debug)]
pub(super) struct Queued {
    write: WriteJob,
    since: Instant,
    /// The same in milliseconds of UNIX time.
    stored_at: u64,
    /// Its place among the bytes that wait.
    _room: OwnedSemaphorePermit,
}

/// The way into the queue.
#[derive(Debug)]
pub(super) struct Queue {
    sender: Sender<Queued>,
    room: Arc<Semaphore>,
}

impl Queue {
    pub(super) fn new() -> (Self, Receiver<Queued>) {
        let (sender, receiver) = channel(MOST);
        let room = Arc::new(Semaphore::new(MOST_BYTES));
        (Self { sender, room }, receiver)
    }

    /// Whether there was room.
    pub(super) fn push(&self, write: WriteJob) -> bool {
        let size = u32::try_from(write.body.len().max(1)).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(size) else {
            return false;
        };
        let queued = Queued {
            write,
            since: Instant::now(),
            stored_at: milliseconds_since_1970(),
            _room: room,
        };
        self.sender.try_send(queued).is_ok()
    }
}

impl SharedTier {
    /// Writes behind.
    pub(in crate::cache) fn write(&self, write: WriteJob) {
        // It has ended: should memory lose it, it is asked for as one that comes.
        self.known.forget_one(&write.key);
        if self.in_use().is_none() || !self.writes.push(write) {
            self.metrics.dropped.inc();
        }
    }

    async fn put(&self, queued: &Queued) {
        let write = &queued.write;
        let thread = write.token.thread.as_bytes();
        let up = self.in_use().filter(|_| !self.parts.rests(thread));
        let Some(up) = up else {
            self.metrics.dropped.inc();
            return;
        };
        let cache_key = &write.key.key;
        let field = self.names.field(&cache_key.primary, &cache_key.variant);
        let ttl = u64::try_from(write.ttl.as_millis()).unwrap_or(u64::MAX);
        let record = Record {
            stored_at: queued.stored_at,
            expires_at: queued.stored_at.saturating_add(ttl),
            step: cache_key.primary.as_ref(),
            variant: cache_key.variant.as_bytes(),
            content_type: write.content_type.as_ref().map(HeaderValue::as_bytes),
            body: &write.body,
        };
        let token = &write.token;
        let place = Place {
            thread: &token.thread,
            field: &field,
        };
        let Some(value) = codec::encode(&record, self.seal.as_ref(), place) else {
            self.metrics.dropped.inc();
            return;
        };
        let entry = scripts::Entry {
            field: &field,
            value: &value,
            mark: &self.names.step(&cache_key.primary),
            ttl,
        };
        let command = scripts::put(thread, &token.bytes, &entry);
        match up.link.ask::<u8>(&command).await {
            Ok(1) => {
                self.parts.succeeded(thread);
                self.metrics.stored.inc();
            }
            Ok(_) => {
                self.parts.succeeded(thread);
                // The token is of no use any more: the next one that asks gets another.
                self.known.forget_one(&write.key);
                self.metrics.refused.inc();
            }
            Err(trouble) => {
                self.metrics.error.inc();
                self.failed(thread, &trouble);
            }
        }
    }
}

/// Writes what comes until the `end`, and then, not for long, what is left.
pub(super) async fn write_behind(
    tier: &Arc<SharedTier>,
    mut queue: Receiver<Queued>,
    end: &CancellationToken,
) {
    let mut under_way = JoinSet::new();
    while let Some(Some(queued)) = end.run_until_cancelled(queue.recv()).await {
        if under_way.len() >= ABREAST {
            under_way.join_next().await;
        }
        while under_way.try_join_next().is_some() {}
        write(tier, queued, &mut under_way);
    }
    queue.close();
    while let Some(queued) = queue.recv().await {
        write(tier, queued, &mut under_way);
    }
    // What is not written by then is lost to the fleet, and to nobody else.
    let _ = timeout(STALE, under_way.join_all()).await;
}

fn write(tier: &Arc<SharedTier>, queued: Queued, under_way: &mut JoinSet<()>) {
    if queued.since.elapsed() > STALE {
        tier.metrics.dropped.inc();
        return;
    }
    let tier = Arc::clone(tier);
    under_way.spawn(async move { tier.put(&queued).await });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::scripted::{at, scripted};
    use super::super::{SharedMetrics, Up, View};
    use super::*;
    use crate::policy::{CacheKey, Partition};

    fn key(nth: usize) -> Arc<CoalesceKey> {
        let ids = ["t", "r", &nth.to_string()];
        Arc::new(CoalesceKey {
            config_number: 0,
            key: CacheKey::new(Partition::of(["p"]), "run-step", &ids, ""),
        })
    }

    fn write_of(nth: usize, body: &Bytes) -> WriteJob {
        WriteJob {
            token: WriteToken {
                thread: "t".into(),
                bytes: [0; 16],
            },
            key: key(nth),
            body: body.clone(),
            content_type: None,
            ttl: STALE,
        }
    }

    /// Writes so many bodies of that size to a tier that nobody empties the queue of: how many are dropped.
    fn dropped(tier: &SharedTier, bodies: usize, size: usize) -> u64 {
        let body = Bytes::from(vec![b'x'; size]);
        let before = tier.metrics.dropped.get();
        for nth in 0..bodies {
            tier.write(write_of(nth, &body));
        }
        tier.metrics.dropped.get() - before
    }

    async fn tier() -> (JoinSet<()>, SharedTier) {
        let (server, link) = scripted(Vec::new()).await;
        let tier = SharedTier::new(&at("redis://127.0.0.1:1"), SharedMetrics::default()).unwrap();
        let view = View::default();
        tier.up.store(Some(Arc::new(Up { link, view })));
        tier.lease.store(u64::MAX, Ordering::Release);
        (server, tier)
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_dropped_and_counted() {
        let (_server, by_bytes) = tier().await;
        let eighth = MOST_BYTES / 8;
        assert_eq!(dropped(&by_bytes, 8, eighth), 0);
        assert_eq!(dropped(&by_bytes, 3, 1), 3);
        let (_server, by_number) = tier().await;
        assert_eq!(dropped(&by_number, MOST + 5, 1), 5);
    }

    #[tokio::test]
    async fn what_comes_while_the_tier_rests_is_dropped_and_counted() {
        let (_server, tier) = tier().await;
        tier.lease.store(0, Ordering::Release);
        assert_eq!(dropped(&tier, 2, 1), 2);
        tier.lease.store(u64::MAX, Ordering::Release);
        assert_eq!(dropped(&tier, 2, 1), 0);
    }

    /// What has waited for too long, and what comes to be written while its part of the tier rests.
    #[tokio::test(start_paused = true)]
    async fn what_waits_in_vain_is_dropped_and_counted() {
        let tier = Arc::new(
            SharedTier::new(&at("redis://127.0.0.1:1"), SharedMetrics::default()).unwrap(),
        );
        tier.lease.store(u64::MAX, Ordering::Release);
        let queued = |tier: &SharedTier| {
            let body = Bytes::from_static(b"x");
            assert!(tier.writes.push(write_of(0, &body)));
        };
        let mut queue = super::super::lock(&tier.queued).take().unwrap();
        let mut under_way = JoinSet::new();
        queued(&tier);
        tokio::time::advance(STALE + Duration::from_millis(1)).await;
        write(&tier, queue.recv().await.unwrap(), &mut under_way);
        assert!(under_way.is_empty());
        assert_eq!(tier.metrics.dropped.get(), 1, "stale");
        queued(&tier);
        write(&tier, queue.recv().await.unwrap(), &mut under_way);
        under_way.join_all().await;
        assert_eq!(tier.metrics.dropped.get(), 2, "it rests");
    }
}
