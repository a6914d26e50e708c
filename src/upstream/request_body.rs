//! The body of a forwarded request, on its way up.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, sleep_until};

use super::FetchError;
use super::idle_timeout::Silence;

/// What goes up behind a request's head: nothing, or what a caller sends, as it comes.
#[derive(Debug, Default)]
pub struct RequestBody(Option<Box<Streamed>>);

struct Streamed {
    incoming: Incoming,
    silence: Silence,
    progress: Arc<UploadProgress>,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").finish_non_exhaustive()
    }
}

impl RequestBody {
    /// The body of a caller, who may be silent in it for so long.
    pub fn of(incoming: Incoming, silence: Duration) -> Self {
        if incoming.is_end_stream() {
            return Self::default();
        }
        Self(Some(Box::new(Streamed {
            incoming,
            silence: Silence::new(silence),
            progress: Arc::new(UploadProgress::default()),
        })))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether its length is known only when it has ended.
    pub(super) fn is_unmeasured(&self) -> bool {
        self.size_hint().exact().is_none()
    }

    /// How far it has come, for whoever does not have it any more.
    pub(crate) fn progress(&self) -> Option<Arc<UploadProgress>> {
        self.0.as_ref().map(|body| Arc::clone(&body.progress))
    }
}

/// How far a body has gone up.
#[derive(Debug)]
pub(crate) struct UploadProgress(Mutex<Stage>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A part of it was handed over then, last, and the upstream is to take it.
    Going(Instant),
    /// The caller is to send more: how long that may take is not the upstream's to answer for.
    Awaited,
    /// All of it was, then.
    Gone(Instant),
    /// The caller has left it unfinished.
    BrokenOff,
}

impl Default for UploadProgress {
    fn default() -> Self {
        Self(Mutex::new(Stage::Going(Instant::now())))
    }
}

impl UploadProgress {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        // A value is never left half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it was read, and handed over.
    pub(crate) fn has_gone(&self) -> bool {
        matches!(*self.stage(), Stage::Gone(_))
    }

    /// The caller has left it unfinished.
    pub(super) fn is_broken_off(&self) -> bool {
        *self.stage() == Stage::BrokenOff
    }

    /// Returns when it has been the upstream's turn for so long.
    pub(super) async fn stalled_for(&self, limit: Duration) {
        loop {
            let until = match *self.stage() {
                Stage::Going(since) | Stage::Gone(since) => since + limit,
                Stage::Awaited => Instant::now() + limit,
                Stage::BrokenOff => return,
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
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        loop {
            let polled = Pin::new(&mut body.incoming).poll_frame(cx);
            let ended = || Stage::Gone(Instant::now());
            let (stage, frame) = match polled {
                Poll::Pending if body.silence.poll(cx).is_pending() => {
                    *body.progress.stage() = Stage::Awaited;
                    return Poll::Pending;
                }
                Poll::Pending => (Stage::BrokenOff, Some(Err(FetchError::Silent.into()))),
                Poll::Ready(None) => (ended(), None),
                Poll::Ready(Some(Err(error))) => (Stage::BrokenOff, Some(Err(error.into()))),
                // Trailers end here, like all that speaks of the caller's own connection.
                Poll::Ready(Some(Ok(frame))) if !frame.is_data() => continue,
                Poll::Ready(Some(Ok(frame))) if body.incoming.is_end_stream() => {
                    (ended(), Some(Ok(frame)))
                }
                Poll::Ready(Some(Ok(frame))) => (Stage::Going(Instant::now()), Some(Ok(frame))),
            };
            body.silence.broken();
            *body.progress.stage() = stage;
            return Poll::Ready(frame);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|body| body.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), |body| body.incoming.size_hint())
    }
}
