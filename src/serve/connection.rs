//! One connection: HTTP/1.1 or HTTP/2 with prior knowledge, under time limits of our own.
//!
//! hyper's header timer starts with the idle time between two requests, and nothing of it covers a
//! peer that never speaks. So the limits live here, around the bytes: from accept to a whole head,
//! from the first byte of a later head to its end, and between requests.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};
use hyper::service::Service;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::drain::{Phase, Watch};
use super::listener::Stream;
use crate::gateway::{Answer, Door, Gateway};
use crate::upstream::Body;

/// Large enough for a head that carries a 64 KiB target, so that hyper can say 414 rather than 431.
const MAX_HEAD: usize = 128 * 1024;

/// HTTP/2 streams that one connection may have open.
const MAX_STREAMS: u32 = 250;

/// An HTTP/2 peer that is gone is found out after an interval and this.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// After a graceful close was begun, how long the peer has to take part in it.
const CLOSING: Duration = Duration::from_secs(5);

/// How long a connection may keep us waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Accept to a whole first head; first byte to a whole later head.
    pub(super) header: Duration,
    /// Between requests; and for a reader that takes nothing of its answer.
    pub(super) idle: Duration,
}

/// What the connection waits for, and until when.
#[derive(Debug, Clone, Copy)]
enum Waiting {
    /// For the rest of a head.
    Head(Instant),
    /// For the next request, or for the peer to read what was answered.
    Idle(Instant),
    /// For us: this many requests are being answered.
    Us(usize),
}

/// Shared by the bytes, the requests and the timer of one connection.
#[derive(Debug)]
struct Patience {
    limits: Limits,
    waiting: Mutex<(Waiting, Version)>,
}

impl Patience {
    fn new(limits: Limits) -> Arc<Self> {
        let first = Waiting::Head(Instant::now() + limits.header);
        Arc::new(Self {
            limits,
            waiting: Mutex::new((first, Version::HTTP_11)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, (Waiting, Version)> {
        // A plain value is never left half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes came in. In HTTP/2 they may be a ping; there only requests count.
    fn received(&self) {
        let mut waiting = self.lock();
        if let (Waiting::Idle(_), Version::HTTP_11) = *waiting {
            waiting.0 = Waiting::Head(Instant::now() + self.limits.header);
        }
    }

    /// The peer took bytes of an answer: it is not idle.
    fn sent(&self) {
        let mut waiting = self.lock();
        if let Waiting::Idle(_) = waiting.0 {
            waiting.0 = Waiting::Idle(Instant::now() + self.limits.idle);
        }
    }

    fn begin(self: Arc<Self>, version: Version) -> Busy {
        let mut waiting = self.lock();
        let others = match waiting.0 {
            Waiting::Us(requests) => requests,
            Waiting::Head(_) | Waiting::Idle(_) => 0,
        };
        let version = if version == Version::HTTP_2 {
            version
        } else {
            Version::HTTP_11
        };
        *waiting = (Waiting::Us(others + 1), version);
        drop(waiting);
        Busy(self)
    }

    fn deadline(&self) -> Option<Instant> {
        match self.lock().0 {
            Waiting::Head(until) | Waiting::Idle(until) => Some(until),
            Waiting::Us(_) => None,
        }
    }
}

/// A request that is being answered, to the last byte that hyper takes of its body.
#[derive(Debug)]
struct Busy(Arc<Patience>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        if let Waiting::Us(requests) = waiting.0 {
            waiting.0 = match requests.saturating_sub(1) {
                0 => Waiting::Idle(Instant::now() + self.0.limits.idle),
                others => Waiting::Us(others),
            };
        }
    }
}

/// A body that keeps its connection busy.
struct Sending {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What answers a connection's requests.
pub(super) trait Respond: Send + Sync + 'static {
    fn respond(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// Answers by the gateway.
pub(super) struct Data {
    pub(super) gateway: Arc<Gateway>,
    pub(super) door: Door,
}

impl Respond for Data {
    async fn respond(&self, request: Request<Incoming>) -> Answer {
        self.gateway.answer(request, self.door).await
    }
}

struct Timed<R> {
    respond: Arc<R>,
    patience: Arc<Patience>,
}

impl<R: Respond> Service<Request<Incoming>> for Timed<R> {
    type Response = Response<Sending>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = Arc::clone(&self.patience).begin(request.version());
        let respond = Arc::clone(&self.respond);
        // Nothing that we answer has a body to read; what follows one that was sent in chunks is
        // better not taken for a request.
        let last = request.headers().contains_key(TRANSFER_ENCODING);
        Box::pin(async move {
            let mut answer = respond.respond(request).await;
            if last {
                answer
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer.map(|body| Sending { body, _busy: busy }))
        })
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(stream: Stream, respond: impl Respond, limits: Limits, watch: Watch) {
    tracing::trace!("connection accepted");
    let patience = Patience::new(limits);
    let service = Timed {
        respond: Arc::new(respond),
        patience: Arc::clone(&patience),
    };
    let io = TokioIo::new(Watched {
        stream,
        patience: Arc::clone(&patience),
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut timer = pin!(sleep(limits.header));

    let end = tokio::select! {
        end = timed(connection.as_mut(), &patience, timer.as_mut()) => end,
        () = watch.reached(Phase::Draining) => End::Draining,
    };
    match end {
        End::Over => {}
        // Nobody waits for an answer, so nobody misses a goodbye.
        End::TooSlow => tracing::debug!("connection closed: its head took too long"),
        End::Idle => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(CLOSING, connection).await;
        }
        End::Draining => {
            connection.as_mut().graceful_shutdown();
            // A half-sent head or an unread answer must not hold up the drain for ever.
            let _ = timed(connection, &patience, timer).await;
        }
    }
}

/// Why a connection is served no longer.
enum End {
    /// It ended, well or not.
    Over,
    /// A head took longer than the limit.
    TooSlow,
    /// No request came for longer than the limit, or the answer was not read.
    Idle,
    /// The gateway is ending.
    Draining,
}

/// Drives the connection until it ends or runs out of patience. The timer is set again only when it
/// has fired or would fire too late: seldom more than once in the time of the shorter limit.
async fn timed<C: Future>(
    mut connection: Pin<&mut C>,
    patience: &Patience,
    mut timer: Pin<&mut Sleep>,
) -> End {
    std::future::poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Over);
        }
        while let Some(deadline) = patience.deadline() {
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                let idle = matches!(patience.lock().0, Waiting::Idle(_));
                return Poll::Ready(if idle { End::Idle } else { End::TooSlow });
            }
        }
        Poll::Pending
    })
    .await
}

/// The bytes of a connection, watched.
struct Watched {
    stream: Stream,
    patience: Arc<Patience>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.patience.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.patience.sent();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.patience.sent();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
