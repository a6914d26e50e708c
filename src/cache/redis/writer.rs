//! The queue of bodies to be written to the shared tier. It is bounded, and a caller never waits for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::lookup_once::WriteToken;
use crate::policy::CoalesceKey;

/// The number of queued writes.
pub(super) const MAX_QUEUED: usize = 1024;

/// The bytes of the bodies of queued writes.
pub(super) const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;

/// A final body to be written.
#[derive(Debug)]
pub struct WriteJob {
    /// The token read before the body's fetch started.
    pub token: WriteToken,
    /// The key of the body.
    pub key: Arc<CoalesceKey>,
    /// The bytes as the upstream sent them.
    pub body: Bytes,
    /// The upstream's `content-type`.
    pub content_type: Option<HeaderValue>,
    /// How long the body is kept from now on.
    pub ttl: Duration,
}

#[derive(Debug)]
pub(super) struct QueuedWrite {
    pub(super) job: WriteJob,
    pub(super) queued_at: Instant,
    /// The same moment in milliseconds of UNIX time.
    pub(super) stored_at: u64,
    /// Counts the body against [`MAX_QUEUED_BYTES`].
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(super) struct WriteQueue {
    sender: Sender<QueuedWrite>,
    free_bytes: Arc<Semaphore>,
}

impl WriteQueue {
    pub(super) fn new() -> (Self, Receiver<QueuedWrite>) {
        let (sender, receiver) = channel(MAX_QUEUED);
        let free_bytes = Arc::new(Semaphore::new(MAX_QUEUED_BYTES));
        (Self { sender, free_bytes }, receiver)
    }

    /// Queues a job, whose body was stored at `stored_at` (milliseconds of UNIX time). Returns `false` if
    /// the queue is full.
    pub(super) fn push(&self, job: WriteJob, stored_at: u64) -> bool {
        let size = u32::try_from(job.body.len().max(1)).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.free_bytes).try_acquire_many_owned(size) else {
            return false;
        };
        let queued = QueuedWrite {
            job,
            queued_at: Instant::now(),
            stored_at,
            _permit: permit,
        };
        self.sender.try_send(queued).is_ok()
    }
}
