//! The timeouts of one connection, and what it waits for.
//!
//! The bytes and the requests of a connection update its state, and the timer of the connection reads it. The
//! clock is read once each time the connection's task runs, not for each byte or request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Version;
use tokio::time::Instant;

/// The configured timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// Limits the time from accept to the end of the first head, and from the first byte of a later head to
    /// its end.
    pub(super) header: Duration,
    /// Limits the time between requests, and the time in which a client reads nothing of a response.
    pub(super) idle: Duration,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum ConnState {
    /// The rest of a head, which must arrive by this instant.
    ReadingHead(Instant),
    /// The next request, since this instant.
    Idle(Instant),
    /// The end of at least one response.
    Responding {
        /// Counts the requests for which the gateway is to bring the response or its next part.
        pending: usize,
        /// Counts the responses that the client is to read.
        unread: usize,
        /// The instant at which the client last read something.
        since: Instant,
    },
}

/// The timeouts of one connection, shared by its bytes, its requests and its timer.
#[derive(Debug)]
pub(super) struct ConnectionTimers {
    timeouts: Timeouts,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The instant at which the connection's task last began to run.
    now: Instant,
    state: ConnState,
    is_http2: bool,
    /// The last bytes that were received.
    tail: [u8; 4],
    /// Whether bytes after the current HTTP/1.1 request were received, which begin the next head.
    has_next_head: bool,
    /// Whether the client must read before more of a response can be sent.
    is_write_blocked: bool,
}

impl ConnectionTimers {
    pub(super) fn new(timeouts: Timeouts) -> Arc<Self> {
        let now = Instant::now();
        let inner = Inner {
            now,
            state: ConnState::ReadingHead(now + timeouts.header),
            tail: [0; 4],
            is_http2: false,
            has_next_head: false,
            is_write_blocked: false,
        };
        Arc::new(Self {
            timeouts,
            inner: Mutex::new(inner),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Poisoning is ignored, because nothing panics between two dependent changes.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the connection's task begins to run.
    pub(super) fn set_now(&self, now: Instant) {
        self.lock().now = now;
    }

    /// Returns the instant at which the connection's task last began to run. A request that the task reads
    /// arrived at this instant or a little later.
    pub(super) fn now(&self) -> Instant {
        self.lock().now
    }

    /// Notes received bytes. Bytes of HTTP/2 do not begin a head, because they may be a ping.
    pub(super) fn received(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        let kept = inner.tail.len().saturating_sub(bytes.len());
        inner.tail.rotate_right(kept);
        let new = bytes.len().min(inner.tail.len());
        inner.tail[kept..].copy_from_slice(&bytes[bytes.len() - new..]);
        match inner.state {
            ConnState::Idle(_) if !inner.is_http2 => {
                inner.state = ConnState::ReadingHead(inner.now + self.timeouts.header);
            }
            ConnState::Responding { .. } => inner.has_next_head = true,
            ConnState::Idle(_) | ConnState::ReadingHead(_) => {}
        }
    }

    /// Notes how many bytes the socket took, or 0 if the client must read first. Bytes of HTTP/2 do not count
    /// as progress, because a client that reads no response can cause them by pings.
    pub(super) fn sent(&self, bytes: usize) {
        let inner = &mut *self.lock();
        inner.is_write_blocked = bytes == 0;
        if bytes == 0 || inner.is_http2 {
            return;
        }
        match &mut inner.state {
            ConnState::Idle(since) | ConnState::Responding { since, .. } => *since = inner.now,
            ConnState::ReadingHead(_) => {}
        }
    }

    /// Notes the begin of a request. If it has a body, bytes that follow do not belong to the next head.
    pub(super) fn begin(self: Arc<Self>, version: Version, has_body: bool) -> ActiveRequest {
        let mut inner = self.lock();
        let (pending, unread) = match inner.state {
            ConnState::Responding {
                pending, unread, ..
            } => (pending, unread),
            ConnState::ReadingHead(_) | ConnState::Idle(_) => (0, 0),
        };
        inner.state = ConnState::Responding {
            pending: pending + 1,
            unread,
            since: inner.now,
        };
        inner.is_http2 = version == Version::HTTP_2;
        inner.has_next_head = inner.tail != *b"\r\n\r\n";
        drop(inner);
        ActiveRequest {
            is_http2: version == Version::HTTP_2,
            timers: self,
            is_pending: true,
            has_body,
        }
    }

    pub(super) fn state(&self) -> ConnState {
        self.lock().state
    }

    /// Returns the instant at which the connection times out. Returns `None` while the client waits for the
    /// gateway, unless the client reads nothing.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let inner = self.lock();
        match inner.state {
            ConnState::ReadingHead(until) => Some(until),
            ConnState::Idle(since) => Some(since + self.timeouts.idle),
            ConnState::Responding { pending, since, .. } => {
                (pending == 0 || inner.is_write_blocked).then(|| since + self.timeouts.idle)
            }
        }
    }
}

impl Inner {
    /// Returns the time for a caller that may run outside the connection's task, as an HTTP/2 stream does.
    fn current_time(&self) -> Instant {
        if self.is_http2 {
            Instant::now()
        } else {
            self.now
        }
    }
}

/// A request, from its head until hyper has taken the last byte of the response or drops it.
#[derive(Debug)]
pub(super) struct ActiveRequest {
    timers: Arc<ConnectionTimers>,
    /// Whether the gateway is to bring the response or its next part.
    is_pending: bool,
    has_body: bool,
    pub(super) is_http2: bool,
}

impl ActiveRequest {
    /// Notes that the client made room for a part of the response.
    pub(super) fn progressed(&self) {
        let inner = &mut *self.timers.lock();
        let now = inner.current_time();
        if let ConnState::Responding { since, .. } = &mut inner.state {
            *since = now;
        }
    }

    /// Notes whether the gateway is to bring the next part of the response, or the client is to read it.
    pub(super) fn set_pending(&mut self, is_pending: bool) {
        if self.is_pending == is_pending {
            return;
        }
        self.is_pending = is_pending;
        let inner = &mut *self.timers.lock();
        let now = inner.current_time();
        if let ConnState::Responding {
            pending,
            unread,
            since,
        } = &mut inner.state
        {
            let (from, to) = if is_pending {
                (unread, pending)
            } else {
                (pending, unread)
            };
            *from = from.saturating_sub(1);
            *to += 1;
            *since = now;
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.set_pending(false);
        let timeouts = self.timers.timeouts;
        let mut inner = self.timers.lock();
        let ConnState::Responding {
            pending,
            unread,
            since,
        } = inner.state
        else {
            return;
        };
        let unread = unread.saturating_sub(1);
        let now = inner.current_time();
        inner.state = match (pending, unread) {
            (0, 0) if inner.has_next_head && !inner.is_http2 && !self.has_body => {
                ConnState::ReadingHead(now + timeouts.header)
            }
            (0, 0) => ConnState::Idle(now),
            (pending, unread) => ConnState::Responding {
                pending,
                unread,
                since,
            },
        };
    }
}
