//! A response that tells the timers of its connection how far it is.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};

use super::timeouts::ActiveRequest;
use crate::upstream::Body;

/// Limits the part of a body that is handed to an HTTP/2 stream at once. When hyper asks for the next part, the
/// client has read.
pub(super) const MAX_FRAME: usize = 64 * 1024;

/// A response body that updates the timers of its connection.
pub(super) struct TrackedBody {
    body: Body,
    request: ActiveRequest,
}

impl TrackedBody {
    fn wrap(
        mut response: Response<Body>,
        mut request: ActiveRequest,
        close: bool,
    ) -> Response<Self> {
        if close {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        request.set_pending(false);
        response.map(|body| Self { body, request })
    }
}

impl hyper::body::Body for TrackedBody {
    type Data = Bytes;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // hyper polls when the client has room. If no frame is ready, the gateway is to bring one.
        self.request.set_pending(frame.is_pending());
        let Some(frame) = ready!(frame) else {
            return Poll::Ready(None);
        };
        self.request.progressed();
        // `Body` yields data frames only.
        let mut data = frame?.into_data().unwrap_or_default();
        if self.request.is_http2 && data.len() > MAX_FRAME {
            self.body.put_back(data.split_off(MAX_FRAME));
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

/// A response that is ready, or is being made.
pub(super) enum ResponseFuture {
    Ready(Option<Response<TrackedBody>>),
    Pending {
        response: Pin<Box<dyn Future<Output = Response<Body>> + Send>>,
        request: Option<ActiveRequest>,
        /// Whether the response closes its connection.
        close: bool,
    },
}

impl ResponseFuture {
    pub(super) fn ready(response: Response<Body>, request: ActiveRequest, close: bool) -> Self {
        Self::Ready(Some(TrackedBody::wrap(response, request, close)))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<TrackedBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const POLLED_ONCE: &str = "hyper does not poll a future again after it is ready";
        Poll::Ready(Ok(match self.get_mut() {
            Self::Ready(response) => response.take().expect(POLLED_ONCE),
            Self::Pending {
                response,
                request,
                close,
            } => {
                let response = ready!(response.as_mut().poll(cx));
                TrackedBody::wrap(response, request.take().expect(POLLED_ONCE), *close)
            }
        }))
    }
}
