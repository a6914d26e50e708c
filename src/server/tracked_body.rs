//! An answer on its way out: whose turn it is while it is made and sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};

use super::timeouts::Busy;
use crate::upstream::Body;

/// HTTP/2: the part of a body that is handed over at once. The peer's taking of the next part is how
/// we know that it reads.
pub(super) const PART: usize = 64 * 1024;

/// A body that keeps its connection busy.
pub(super) struct TrackedBody {
    body: Body,
    busy: Busy,
    in_parts: bool,
}

impl hyper::body::Body for TrackedBody {
    type Data = Bytes;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // Asked for more: the peer has room, and what is missing is ours to bring.
        self.busy.turn(frame.is_pending());
        let Some(frame) = ready!(frame) else {
            return Poll::Ready(None);
        };
        self.busy.progressed();
        // We pass nothing but data.
        let mut data = frame?.into_data().unwrap_or_default();
        if self.in_parts && data.len() > PART {
            self.body.put_back(data.split_off(PART));
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How an answer is sent.
pub(super) struct Terms {
    pub(super) busy: Busy,
    pub(super) in_parts: bool,
    /// It ends its connection.
    pub(super) last: bool,
}

impl Terms {
    pub(super) fn send(mut self, mut answer: Response<Body>) -> Response<TrackedBody> {
        if self.last {
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.busy.turn(false);
        answer.map(|body| TrackedBody {
            body,
            busy: self.busy,
            in_parts: self.in_parts,
        })
    }
}

/// An answer that is there, or is being made.
pub(super) enum Replying {
    Now(Option<Response<TrackedBody>>),
    Later(
        Pin<Box<dyn Future<Output = Response<Body>> + Send>>,
        Option<Terms>,
    ),
}

impl Future for Replying {
    type Output = Result<Response<TrackedBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const ONCE: &str = "hyper does not poll what has ended";
        Poll::Ready(Ok(match self.get_mut() {
            Self::Now(answer) => answer.take().expect(ONCE),
            Self::Later(answer, terms) => {
                let answer = ready!(answer.as_mut().poll(cx));
                terms.take().expect(ONCE).send(answer)
            }
        }))
    }
}
