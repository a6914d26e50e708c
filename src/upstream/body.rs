//! Bodies: gathered whole, or passed through with bounded memory.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, Incoming, SizeHint};
use smallvec::SmallVec;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use super::FetchError;
use super::idle_timeout::Silence;
use super::pool::ReturnGuard;
use crate::coalesce::Permit;

/// Of an error body, this much is searched for injected secrets, however large it is.
pub const LOOKED_AT: usize = 64 * 1024;

/// The body of an answer.
#[derive(Debug, Default)]
pub enum Body {
    /// Nothing; also what is left of a body once it was sent.
    #[default]
    Empty,
    /// These bytes.
    Full(Bytes),
    /// What comes from upstream.
    Passing(Box<StreamingBody>),
}

/// What is left of an answer that was to be held.
#[derive(Debug)]
pub enum BufferedBody {
    /// All of it.
    Whole(Bytes),
    /// Too large to hold: its first bytes are in front, the rest is yet to come.
    Larger(Box<StreamingBody>),
}

/// A body on its way through. Once it has ended, its connection goes back to the pool; dropped
/// earlier, its connection is closed.
pub struct StreamingBody {
    /// Read already, not yet passed on.
    front: VecDeque<Bytes>,
    incoming: Incoming,
    lease: Option<ReturnGuard>,
    limit: Limit,
    /// Its place among those that are forwarded.
    place: Option<OwnedSemaphorePermit>,
    /// Its place among the fetches under way.
    berth: Option<Permit>,
}

/// How long a body may take.
pub(super) enum Limit {
    /// Until then, whatever comes. The timer is set when it is first polled as a body: a gathered one
    /// never needs it.
    Until(Instant, Option<Pin<Box<Sleep>>>),
    /// As long as it does not fall silent.
    Silence(Silence),
}

impl Limit {
    pub(super) fn until(deadline: Instant) -> Self {
        Self::Until(deadline, None)
    }

    pub(super) fn silence(limit: Duration) -> Self {
        Self::Silence(Silence::new(limit))
    }

    /// Why no more of the body is taken, if so; `next` is what is there of it.
    fn reached<T>(&mut self, next: &Poll<T>, cx: &mut Context<'_>) -> Option<FetchError> {
        match self {
            Self::Until(deadline, timer) => {
                let deadline = *deadline;
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                timer
                    .as_mut()
                    .poll(cx)
                    .is_ready()
                    .then_some(FetchError::Deadline)
            }
            Self::Silence(silence) if next.is_ready() => {
                silence.broken();
                None
            }
            Self::Silence(silence) => silence.poll(cx).is_ready().then_some(FetchError::Silent),
        }
    }
}

impl fmt::Debug for StreamingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingBody").finish_non_exhaustive()
    }
}

impl StreamingBody {
    pub(super) fn new(incoming: Incoming, lease: ReturnGuard, limit: Limit) -> Self {
        let mut passage = Self {
            front: VecDeque::new(),
            incoming,
            lease: Some(lease),
            limit,
            place: None,
            berth: None,
        };
        if passage.is_empty() {
            // Nobody will ask for more of it.
            passage.give_back();
        }
        passage
    }

    /// Whether nothing will come of it.
    pub fn is_empty(&self) -> bool {
        self.front.is_empty() && hyper::body::Body::is_end_stream(&self.incoming)
    }

    /// Keeps its place among those that are forwarded until it has ended.
    pub fn at(mut self, place: OwnedSemaphorePermit) -> Self {
        self.place = Some(place);
        self
    }

    /// Keeps its place among the fetches under way until it has ended.
    pub fn with(mut self, berth: Permit) -> Self {
        self.berth = Some(berth);
        self
    }

    /// Reads up to `limit` bytes. Whoever calls it sets the time limit.
    pub fn gather(
        mut self,
        limit: usize,
    ) -> impl Future<Output = Result<BufferedBody, FetchError>> + Send {
        // Known to be larger: no need to hold more of it than is looked at.
        let announced = hyper::body::Body::size_hint(&self.incoming).lower();
        let limit = if announced > limit as u64 {
            limit.min(LOOKED_AT)
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
                    self.front.extend(parts);
                    return Ok(BufferedBody::Larger(Box::new(self)));
                }
            }
            if parts.len() == 1 {
                return Ok(BufferedBody::Whole(parts.pop().unwrap_or_default()));
            }
            let mut whole = BytesMut::with_capacity(size);
            parts.iter().for_each(|part| whole.extend_from_slice(part));
            Ok(BufferedBody::Whole(whole.freeze()))
        }
    }

    /// The first bytes of the body, as far as they were read.
    pub fn front(&self) -> impl Iterator<Item = &Bytes> {
        self.front.iter()
    }

    /// Its length, if the upstream's framing says so.
    pub fn length(&self) -> Option<u64> {
        let front: usize = self.front.iter().map(Bytes::len).sum();
        let rest = hyper::body::Body::size_hint(&self.incoming).exact()?;
        Some(front as u64 + rest)
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// The next data; trailers are dropped, since nothing above could vouch for them.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Bytes>>> {
        loop {
            match ready!(hyper::body::Body::poll_frame(
                Pin::new(&mut self.incoming),
                cx
            )) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        // With a length, nobody asks again after the last byte.
                        if hyper::body::Body::is_end_stream(&self.incoming) {
                            self.give_back();
                        }
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => {
                    self.lease = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.give_back();
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl Body {
    /// Puts back what was taken and could not all be passed on.
    pub fn put_back(&mut self, rest: Bytes) {
        match self {
            Self::Empty | Self::Full(_) => *self = Self::Full(rest),
            Self::Passing(passage) => passage.front.push_front(rest),
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
            Self::Passing(passage) => {
                if let Some(data) = passage.front.pop_front() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                let next = passage.poll_incoming(cx);
                if let Some(error) = passage.limit.reached(&next, cx) {
                    passage.lease = None;
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
            Self::Passing(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // The upstream's own Content-Length stands in the headers.
            Self::Passing(_) => SizeHint::default(),
        }
    }
}
