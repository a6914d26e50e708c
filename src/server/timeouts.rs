//! How long a connection may keep us waiting, and who waits for whom right now.
//!
//! Fed by the bytes that go in and out and by the requests; asked by the timer of the connection. The
//! clock is read once each time the connection's task runs, not once a byte or a request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Version;
use tokio::time::Instant;

/// How long a connection may keep us waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Accept to a whole first head; first byte to a whole later head.
    pub(super) header: Duration,
    /// Between requests; and for a reader that takes nothing of its answer.
    pub(super) idle: Duration,
}

/// What the connection waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waiting {
    /// For the rest of a head, until then.
    Head(Instant),
    /// For the next request, since then.
    Idle(Instant),
    /// For answers.
    Answers {
        /// Requests whose answer, or the next part of it, is ours to bring.
        ours: usize,
        /// Answers that the peer has yet to read.
        theirs: usize,
        /// When the peer last took something.
        since: Instant,
    },
}

/// Shared by the bytes, the requests and the timer of one connection.
#[derive(Debug)]
pub(super) struct ConnectionTimers {
    limits: Limits,
    state: Mutex<Waits>,
}

#[derive(Debug)]
struct Waits {
    /// When the connection's task last began to run.
    now: Instant,
    waiting: Waiting,
    http2: bool,
    /// The last bytes that came in.
    tail: [u8; 4],
    /// HTTP/1.1: more came in than the request that is being answered: the next head has begun.
    ahead: bool,
    /// Bytes of an answer wait for the peer to read.
    stalled: bool,
}

impl ConnectionTimers {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let now = Instant::now();
        let state = Waits {
            now,
            waiting: Waiting::Head(now + limits.header),
            tail: [0; 4],
            http2: false,
            ahead: false,
            stalled: false,
        };
        Arc::new(Self {
            limits,
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        // Plain values are never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection's task begins to run.
    pub(super) fn wake(&self, now: Instant) {
        self.lock().now = now;
    }

    /// When the connection's task last began to run: what it reads now had come by then, or comes now.
    pub(super) fn now(&self) -> Instant {
        self.lock().now
    }

    /// These bytes came in. In HTTP/2 they may be a ping; there only requests count.
    pub(super) fn received(&self, bytes: &[u8]) {
        let mut waits = self.lock();
        let kept = waits.tail.len().saturating_sub(bytes.len());
        waits.tail.rotate_right(kept);
        let new = bytes.len().min(waits.tail.len());
        waits.tail[kept..].copy_from_slice(&bytes[bytes.len() - new..]);
        match waits.waiting {
            Waiting::Idle(_) if !waits.http2 => {
                waits.waiting = Waiting::Head(waits.now + self.limits.header);
            }
            Waiting::Answers { .. } => waits.ahead = true,
            Waiting::Idle(_) | Waiting::Head(_) => {}
        }
    }

    /// The peer took so many bytes: none, if it must read first. In HTTP/2 they may be pongs, which a
    /// peer that reads nothing can ask for at will; there only parts of answers count.
    pub(super) fn sent(&self, bytes: usize) {
        let waits = &mut *self.lock();
        waits.stalled = bytes == 0;
        if bytes == 0 || waits.http2 {
            return;
        }
        match &mut waits.waiting {
            Waiting::Idle(since) | Waiting::Answers { since, .. } => *since = waits.now,
            Waiting::Head(_) => {}
        }
    }

    /// A part of an answer was taken.
    pub(super) fn progressed(&self) {
        let waits = &mut *self.lock();
        let now = waits.moment();
        if let Waiting::Answers { since, .. } = &mut waits.waiting {
            *since = now;
        }
    }

    /// A request has come; with a body, what comes in is not the next one's.
    pub(super) fn begin(self: Arc<Self>, version: Version, has_body: bool) -> Busy {
        let mut waits = self.lock();
        let (ours, theirs) = match waits.waiting {
            Waiting::Answers { ours, theirs, .. } => (ours, theirs),
            Waiting::Head(_) | Waiting::Idle(_) => (0, 0),
        };
        waits.waiting = Waiting::Answers {
            ours: ours + 1,
            theirs,
            since: waits.now,
        };
        waits.http2 = version == Version::HTTP_2;
        // What follows the end of this head has begun already.
        waits.ahead = waits.tail != *b"\r\n\r\n";
        drop(waits);
        Busy {
            patience: self,
            ours: true,
            has_body,
        }
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.lock().waiting
    }

    /// When patience ends; not while it is us who are waited for, unless the peer does not read.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = self.lock();
        match waits.waiting {
            Waiting::Head(until) => Some(until),
            Waiting::Idle(since) => Some(since + self.limits.idle),
            Waiting::Answers { ours, since, .. } => {
                (ours == 0 || waits.stalled).then(|| since + self.limits.idle)
            }
        }
    }
}

impl Waits {
    /// The time, for whoever may run in a task of its own: a stream of HTTP/2.
    fn moment(&self) -> Instant {
        if self.http2 { Instant::now() } else { self.now }
    }
}

/// A request that is being answered, to the last byte that hyper takes of its body.
#[derive(Debug)]
pub(super) struct Busy {
    patience: Arc<ConnectionTimers>,
    /// The next part of the answer is ours to bring.
    ours: bool,
    has_body: bool,
}

impl Busy {
    /// A part of its answer was taken.
    pub(super) fn progressed(&self) {
        self.patience.progressed();
    }

    /// Notes whose turn it is.
    pub(super) fn turn(&mut self, is_ours: bool) {
        if self.ours == is_ours {
            return;
        }
        self.ours = is_ours;
        let waits = &mut *self.patience.lock();
        let now = waits.moment();
        if let Waiting::Answers {
            ours,
            theirs,
            since,
        } = &mut waits.waiting
        {
            let (from, to) = if is_ours {
                (theirs, ours)
            } else {
                (ours, theirs)
            };
            *from = from.saturating_sub(1);
            *to += 1;
            *since = now;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.turn(false);
        let limits = self.patience.limits;
        let mut waits = self.patience.lock();
        let Waiting::Answers {
            ours,
            theirs,
            since,
        } = waits.waiting
        else {
            return;
        };
        let theirs = theirs.saturating_sub(1);
        let now = waits.moment();
        waits.waiting = match (ours, theirs) {
            (0, 0) if waits.ahead && !waits.http2 && !self.has_body => {
                Waiting::Head(now + limits.header)
            }
            (0, 0) => Waiting::Idle(now),
            (ours, theirs) => Waiting::Answers {
                ours,
                theirs,
                since,
            },
        };
    }
}
