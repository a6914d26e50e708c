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

use super::Tier;
use super::known::Token;
use crate::step::Key;

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
pub(super) struct Write {
    pub(super) token: Token,
    pub(super) key: Arc<(u64, Key)>,
    pub(super) body: Bytes,
    pub(super) content_type: Option<HeaderValue>,
    /// Milliseconds of UNIX time.
    pub(super) stored_at: u64,
    pub(super) ttl: Duration,
}

#[derive(Debug)]
pub(super) struct Queued {
    write: Write,
    since: Instant,
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
    pub(super) fn push(&self, write: Write) -> bool {
        let size = u32::try_from(write.body.len().max(1)).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(size) else {
            return false;
        };
        let queued = Queued {
            write,
            since: Instant::now(),
            _room: room,
        };
        self.sender.try_send(queued).is_ok()
    }
}

/// Writes what comes until the `end`, and then, not for long, what is left.
pub(super) async fn write_behind(
    tier: &Arc<Tier>,
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

fn write(tier: &Arc<Tier>, queued: Queued, under_way: &mut JoinSet<()>) {
    if queued.since.elapsed() > STALE {
        tier.figures.dropped.inc();
        return;
    }
    let tier = Arc::clone(tier);
    under_way.spawn(async move { tier.put(&queued.write).await });
}
