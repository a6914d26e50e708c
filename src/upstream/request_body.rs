//! The body of a forwarded request, on its way from the client to the upstream.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, sleep_until};

use super::error::FetchError;
use super::idle_timeout::IdleTimeout;

/// Streams a client's request body to the upstream, or is empty.
#[derive(Debug, Default)]
pub struct RequestBody(Option<Box<Upload>>);

struct Upload {
    incoming: Incoming,
    idle_timeout: IdleTimeout,
    progress: Arc<UploadProgress>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").finish_non_exhaustive()
    }
}

impl RequestBody {
    /// Wraps a client's body, which fails if the client sends nothing for `idle_timeout`.
    pub fn new(incoming: Incoming, idle_timeout: Duration) -> Self {
        if incoming.is_end_stream() {
            return Self::default();
        }
        Self(Some(Box::new(Upload {
            incoming,
            idle_timeout: IdleTimeout::new(idle_timeout),
            progress: Arc::new(UploadProgress::default()),
        })))
    }

    /// Reports whether the request has no body.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Reports whether the client announced no length.
    pub(super) fn has_unknown_length(&self) -> bool {
        self.size_hint().exact().is_none()
    }

    /// Returns the progress of the upload, or `None` if there is no body.
    pub(crate) fn progress(&self) -> Option<Arc<UploadProgress>> {
        self.0.as_ref().map(|body| Arc::clone(&body.progress))
    }
}

/// Tells how far an upload has come, after the body itself was handed to hyper.
#[derive(Debug)]
pub(crate) struct UploadProgress(Mutex<UploadState>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UploadState {
    /// The upstream is to take the part that was handed over at this instant.
    WaitingForUpstream(Instant),
    /// The client is to send more. This time does not count against the upstream.
    WaitingForClient,
    /// The last part was handed over at this instant.
    Complete(Instant),
    /// The client aborted the body or was idle for too long.
    Aborted,
}

impl Default for UploadProgress {
    fn default() -> Self {
        Self(Mutex::new(UploadState::WaitingForUpstream(Instant::now())))
    }
}

impl UploadProgress {
    fn state(&self) -> MutexGuard<'_, UploadState> {
        // Poisoning is ignored, because a state is replaced in one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports whether the whole body was read and handed over.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(*self.state(), UploadState::Complete(_))
    }

    /// Reports whether the client aborted the body.
    pub(super) fn is_aborted(&self) -> bool {
        *self.state() == UploadState::Aborted
    }

    /// Returns once the upstream alone has delayed the request for `limit`, or the body is aborted.
    pub(super) async fn stalled_for(&self, limit: Duration) {
        loop {
            let until = match *self.state() {
                UploadState::WaitingForUpstream(since) | UploadState::Complete(since) => {
                    since + limit
                }
                UploadState::WaitingForClient => Instant::now() + limit,
                UploadState::Aborted => return,
            };
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(upload) = &mut self.0 else {
            return Poll::Ready(None);
        };
        loop {
            let polled = Pin::new(&mut upload.incoming).poll_frame(cx);
            let complete = || UploadState::Complete(Instant::now());
            let (state, frame) = match polled {
                Poll::Pending if upload.idle_timeout.poll(cx).is_pending() => {
                    *upload.progress.state() = UploadState::WaitingForClient;
                    return Poll::Pending;
                }
                Poll::Pending => (
                    UploadState::Aborted,
                    Some(Err(FetchError::IdleTimeout.into())),
                ),
                Poll::Ready(None) => (complete(), None),
                Poll::Ready(Some(Err(error))) => (UploadState::Aborted, Some(Err(error.into()))),
                // Trailers are dropped, because they belong to the client's connection.
                Poll::Ready(Some(Ok(frame))) if !frame.is_data() => continue,
                Poll::Ready(Some(Ok(frame))) if upload.incoming.is_end_stream() => {
                    (complete(), Some(Ok(frame)))
                }
                Poll::Ready(Some(Ok(frame))) => (
                    UploadState::WaitingForUpstream(Instant::now()),
                    Some(Ok(frame)),
                ),
            };
            upload.idle_timeout.reset();
            *upload.progress.state() = state;
            return Poll::Ready(frame);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|upload| upload.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(
            || SizeHint::with_exact(0),
            |upload| upload.incoming.size_hint(),
        )
    }
}
