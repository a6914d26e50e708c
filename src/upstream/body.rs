//! Response bodies: buffered up to a limit, or streamed with bounded memory.
//!
//! A body returns its connection to the pool when it has ended, and only then. If it is dropped or fails
//! earlier, its connection is closed. Trailers are never passed on.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use smallvec::SmallVec;
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::FetchError;
use super::idle_timeout::IdleTimeout;
use super::pool::ReturnGuard;

/// Limits how many bytes of an error body are searched for injected secrets.
pub const ERROR_BODY_SCAN_LIMIT: usize = 64 * 1024;

/// The body of a response to a client.
#[derive(Debug, Default)]
pub enum Body {
    /// No bytes, or no more bytes.
    #[default]
    Empty,
    /// All bytes, in memory.
    Full(Bytes),
    /// Bytes that are passed on as the upstream sends them.
    Streaming(Box<StreamingBody>),
}

/// A body that was read up to a limit.
#[derive(Debug)]
pub enum BufferedBody {
    /// All bytes.
    Complete(Bytes),
    /// A body above the limit: the bytes read so far are buffered, the rest is still to be read.
    TooLarge(Box<StreamingBody>),
}

/// Streams a body from an upstream connection.
pub struct StreamingBody {
    /// Bytes that were read and not yet passed on.
    buffered: VecDeque<Bytes>,
    incoming: Incoming,
    return_guard: Option<ReturnGuard>,
    timeout: BodyTimeout,
    /// Permits that are released with this body.
    guard: Option<Box<dyn Send + Sync>>,
}

/// Limits how long a streamed body may take.
pub(super) enum BodyTimeout {
    /// Ends the body at an instant. The timer is created on the first poll of a streamed body, because a
    /// buffered body never needs it.
    Deadline(Instant, Option<Pin<Box<Sleep>>>),
    /// Ends the body if the upstream sends nothing for too long.
    Idle(IdleTimeout),
}

impl BodyTimeout {
    /// Returns the error that ends the body, if its time is over. `next` is the result of the last read.
    fn poll_expired<T>(&mut self, next: &Poll<T>, cx: &mut Context<'_>) -> Option<FetchError> {
        match self {
            Self::Deadline(deadline, timer) => {
                let deadline = *deadline;
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                timer
                    .as_mut()
                    .poll(cx)
                    .is_ready()
                    .then_some(FetchError::DeadlineExceeded)
            }
            Self::Idle(timeout) if next.is_ready() => {
                timeout.reset();
                None
            }
            Self::Idle(timeout) => timeout
                .poll(cx)
                .is_ready()
                .then_some(FetchError::IdleTimeout),
        }
    }
}

impl fmt::Debug for StreamingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingBody").finish_non_exhaustive()
    }
}

impl StreamingBody {
    pub(super) fn new(incoming: Incoming, guard: ReturnGuard, timeout: BodyTimeout) -> Self {
        let mut body = Self {
            buffered: VecDeque::new(),
            incoming,
            return_guard: Some(guard),
            timeout,
            guard: None,
        };
        if body.is_empty() {
            // An empty body is not polled, so nothing else would return the connection.
            body.return_connection();
        }
        body
    }

    /// Reports whether no bytes are left.
    pub fn is_empty(&self) -> bool {
        self.buffered.is_empty() && self.incoming.is_end_stream()
    }

    /// Keeps `guard`, for instance a permit, until this body is dropped.
    #[must_use]
    pub fn holding(mut self, guard: impl Send + Sync + 'static) -> Self {
        self.guard = Some(Box::new(guard));
        self
    }

    /// Reads up to `limit` bytes, without a time limit of its own.
    ///
    /// # Errors
    /// [`FetchError::Truncated`] if the upstream breaks the body off.
    pub fn buffer(
        mut self,
        limit: usize,
    ) -> impl Future<Output = Result<BufferedBody, FetchError>> + Send {
        // If the announced length is above the limit, only the part that is searched for secrets is read.
        let limit = if self.incoming.size_hint().lower() > limit as u64 {
            limit.min(ERROR_BODY_SCAN_LIMIT)
        } else {
            limit
        };
        async move {
            let mut size = 0;
            let mut parts = SmallVec::<[Bytes; 2]>::new();
            while let Some(data) = std::future::poll_fn(|cx| self.poll_incoming(cx)).await {
                let data = data.map_err(FetchError::Truncated)?;
                size += data.len();
                parts.push(data);
                if size > limit {
                    self.buffered.extend(parts);
                    return Ok(BufferedBody::TooLarge(Box::new(self)));
                }
            }
            if parts.len() == 1 {
                return Ok(BufferedBody::Complete(parts.pop().unwrap_or_default()));
            }
            let mut body = BytesMut::with_capacity(size);
            parts.iter().for_each(|part| body.extend_from_slice(part));
            Ok(BufferedBody::Complete(body.freeze()))
        }
    }

    /// Returns the bytes that were read and not yet passed on.
    pub fn buffered(&self) -> impl Iterator<Item = &Bytes> {
        self.buffered.iter()
    }

    /// Returns the length of the body, or `None` if the upstream's framing does not announce it.
    pub fn content_length(&self) -> Option<u64> {
        let buffered: usize = self.buffered.iter().map(Bytes::len).sum();
        let unread = self.incoming.size_hint().exact()?;
        Some(buffered as u64 + unread)
    }

    fn return_connection(&mut self) {
        if let Some(guard) = self.return_guard.take() {
            guard.return_connection();
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Bytes>>> {
        loop {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // A trailer is dropped, because no check covers it.
                    if let Ok(data) = frame.into_data() {
                        // If the body has a known length, it is not polled after its last byte.
                        if self.incoming.is_end_stream() {
                            self.return_connection();
                        }
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => {
                    self.return_guard = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.return_connection();
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl Body {
    /// Puts back bytes of the last frame that could not be passed on.
    pub fn put_back(&mut self, bytes: Bytes) {
        match self {
            Self::Empty | Self::Full(_) => *self = Self::Full(bytes),
            Self::Streaming(body) => body.buffered.push_front(bytes),
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Streaming(body) => {
                if let Some(data) = body.buffered.pop_front() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                let next = body.poll_incoming(cx);
                if let Some(error) = body.timeout.poll_expired(&next, cx) {
                    body.return_guard = None;
                    return Poll::Ready(Some(Err(error.into())));
                }
                let data = ready!(next);
                Poll::Ready(data.map(|data| match data {
                    Ok(data) => Ok(Frame::data(data)),
                    Err(error) => Err(FetchError::Truncated(error).into()),
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Streaming(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // The response headers hold the upstream's Content-Length.
            Self::Streaming(_) => SizeHint::default(),
        }
    }
}
