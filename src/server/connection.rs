//! One connection: its handshake where there is TLS, then HTTP/1.1 or HTTP/2 (by ALPN, or with
//! prior knowledge), under time limits of our own.
//!
//! hyper's header timer starts with the idle time between two requests, and nothing of it covers a
//! peer that never speaks. So the limits live here, around the bytes: from accept to a whole head
//! (the handshake is a part of it), from the first byte of a later head to its end, and between requests.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::TRANSFER_ENCODING;
use hyper::service::Service;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::drain::{Phase, Watch};
use super::listener::{Accepted, Stream};
use super::timeouts::{ConnectionTimers, Limits, Waiting};
use super::tls::Tls;
use super::tracked_body::{PART, Replying, Terms, TrackedBody};
use super::tracked_io::TrackedIo;
use super::wake_filter::WakeFilter;
use crate::gateway::{ConnectionState, Gateway, Handled, Transport};

/// Large enough for a head that carries a 64 KiB target, so that hyper can say 414 rather than 431.
const MAX_HEAD: usize = 128 * 1024;

/// HTTP/2 streams that one connection may have open: many pollers behind one connection, and below
/// `upstream.max_in_flight`, so that one connection alone does not take every fetch.
const MAX_STREAMS: u32 = 250;

/// An HTTP/2 head. Ours are below 2 KiB; all streams of a connection together stay within 4 MiB, and
/// hyper derives from it how many CONTINUATION frames it reads.
const MAX_HTTP2_HEAD: u32 = 16 * 1024;

/// Streams that the peer has reset before we accepted them (rapid reset). They are accepted as they
/// come, so honest peers rarely leave more than one or two.
const MAX_PENDING_RESETS: usize = 20;

/// Streams that we had to reset for what the peer did wrong on them (MadeYouReset), in the life of a
/// connection. Honest peers cause none, and each may cost a fetch.
const MAX_ERROR_RESETS: usize = 64;

/// Bytes of one request body that a peer may send before we read them: the least that HTTP/2 knows. A
/// body that is read by nobody is dropped; one that is forwarded goes at the upstream's pace.
const WINDOW: u32 = 65_535;

/// The same of all bodies of a connection: some that stall do not stop the others.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// An HTTP/2 peer that is gone is found out after an interval and this.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// After a graceful close was begun, how long the peer has to take part in it.
const CLOSING: Duration = Duration::from_secs(5);

/// What a connection gets to read what may lie there unread, before it is closed.
const MOMENT: Duration = Duration::from_millis(20);

/// When a limit is noticed so late, the process was stopped or starved: bytes that came in time may
/// lie unread.
const LATE: Duration = Duration::from_millis(100);

/// How long a handshake that a drain meets may take: some round trips of a far caller.
const HANDSHAKE_IN_A_DRAIN: Duration = Duration::from_secs(1);

/// What answers a connection's requests.
pub(super) trait Handler: Send + 'static {
    fn respond(&mut self, request: Request<Incoming>, arrived: Instant) -> Handled;
}

/// Answers by the gateway.
pub(super) struct Data {
    pub(super) gateway: Arc<Gateway>,
    pub(super) caller: ConnectionState,
}

impl Handler for Data {
    fn respond(&mut self, request: Request<Incoming>, arrived: Instant) -> Handled {
        self.gateway.handle(request, &mut self.caller, arrived)
    }
}

struct Timed<R> {
    /// hyper hands out no other than shared references, one at a time.
    respond: RefCell<R>,
    patience: Arc<ConnectionTimers>,
}

impl<R: Handler> Service<Request<Incoming>> for Timed<R> {
    type Response = Response<TrackedBody>;
    type Error = Infallible;
    type Future = Replying;

    fn call(&self, request: Request<Incoming>) -> Replying {
        let in_parts = request.version() == Version::HTTP_2;
        let has_body = !request.body().is_end_stream();
        let busy = Arc::clone(&self.patience).begin(request.version(), has_body);
        // Nothing that we answer ourselves has a body to read; what follows one that was sent in chunks
        // is better not taken for a request.
        let last = has_body && request.headers().contains_key(TRANSFER_ENCODING);
        let mut terms = Terms {
            busy,
            in_parts,
            last,
        };
        let arrived = self.patience.now();
        match self.respond.borrow_mut().respond(request, arrived) {
            Handled::Ready(answer) => Replying::Now(Some(terms.send(answer))),
            Handled::Fetch(answer) => Replying::Later(answer, Some(terms)),
            Handled::Forward(answer) => {
                terms.last = false;
                Replying::Later(answer, Some(terms))
            }
        }
    }
}

/// Serves a connection to its end; one over TCP with `tls`, if there is. `respond` makes what answers
/// it, once it is clear which way it came in.
pub(super) async fn serve<R: Handler>(
    accepted: Accepted,
    tls: Option<Arc<Tls>>,
    respond: impl FnOnce(Transport) -> R,
    limits: Limits,
    watch: Watch,
) {
    let stream = match accepted.arrive() {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "connection closed: it cannot be served");
            return;
        }
    };
    tracing::trace!("connection accepted");
    let patience = ConnectionTimers::new(limits);
    let mut timer = pin!(sleep(limits.header));
    let stream = match (stream, &tls) {
        (Stream::Tcp(stream), Some(tls)) => {
            // Boxed: a plain connection carries no room for it.
            let handshake = Box::pin(secured(stream, tls, timer.as_mut(), &watch));
            let Some(stream) = handshake.await else {
                return;
            };
            stream
        }
        (stream, _) => stream,
    };
    let door = stream.door();
    let service = Timed {
        respond: RefCell::new(respond(door)),
        patience: Arc::clone(&patience),
    };
    let http2 = stream.is_http2();
    let io = TokioIo::new(TrackedIo {
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
        .max_header_list_size(MAX_HTTP2_HEAD)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Per stream; more than a part is never handed over at once.
        .max_send_buf_size(PART)
        // SETTINGS and PING need none: h2 owes one answer of each at a time, and reads no further
        // before it has room for it.
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    match http2 {
        Some(true) => builder = builder.http2_only(),
        Some(false) => builder = builder.http1_only(),
        None => {}
    }
    let mut connection = pin!(builder.serve_connection(io, service));

    let drain = pin!(watch.reached(Phase::Draining));
    let outgrown = pin!(outgrown(tls.as_deref(), door));
    let end = tokio::select! {
        biased;
        end = timed(connection.as_mut(), &patience, timer.as_mut()) => end,
        () = WakeFilter::new(drain) => {
            // What came before the drain did may lie unread.
            let look = timed(connection.as_mut(), &patience, timer.as_mut());
            match patience.waiting() {
                Waiting::Answers { .. } => End::Draining,
                Waiting::Head(_) | Waiting::Idle(_) => {
                    tokio::time::timeout(MOMENT, look).await.unwrap_or(End::Draining)
                }
            }
        }
        () = WakeFilter::new(outgrown) => End::Draining,
    };
    match end {
        End::Over => {}
        // Who does not speak, or does not read, misses no goodbye.
        End::TooSlow => tracing::debug!("connection closed: its peer took too long"),
        End::Idle => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(CLOSING, connection).await;
        }
        End::Draining => {
            connection.as_mut().graceful_shutdown();
            // A half-sent head or an unread answer must not hold up the drain for ever, and who owes us
            // no more than a goodbye must not for as long.
            let ending = timed(connection, &patience, timer);
            let _ = match patience.waiting() {
                Waiting::Idle(_) => tokio::time::timeout(CLOSING, ending).await,
                Waiting::Head(_) | Waiting::Answers { .. } => Ok(ending.await),
            };
        }
    }
}

/// The stream after its handshake; none if that failed, or took until `timer`, or too long for the
/// drain.
async fn secured(
    stream: TcpStream,
    tls: &Tls,
    timer: Pin<&mut Sleep>,
    watch: &Watch,
) -> Option<Stream> {
    let mut handshake = pin!(tls.handshake(stream));
    let secured = tokio::select! {
        secured = handshake.as_mut() => Some(secured),
        () = timer => None,
        // Its request may be on the way already.
        () = watch.reached(Phase::Draining) => {
            tokio::time::timeout(HANDSHAKE_IN_A_DRAIN, handshake).await.ok()
        }
    };
    match secured {
        Some(Ok(secured)) => return Some(Stream::Tls(Box::new(secured))),
        // Whoever only looks whether the port is open gets no line of an operator's.
        Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!(%error, "connection closed: no TLS handshake");
        }
        Some(Err(error)) => tracing::info!(%error, "connection closed: no TLS handshake"),
        None => tracing::debug!("connection closed: its handshake took too long"),
    }
    None
}

/// Returns once a connection through this door would not be let in any more.
async fn outgrown(tls: Option<&Tls>, door: Transport) {
    match (tls, door) {
        (Some(tls), Transport::Tls(roots)) => tls.outgrown(roots).await,
        (_, Transport::Tcp | Transport::Unix) | (None, Transport::Tls(_)) => {
            std::future::pending().await
        }
    }
}

/// Why a connection is served no longer.
enum End {
    /// It ended, well or not.
    Over,
    /// A head took longer than the limit, or an answer was not read for longer.
    TooSlow,
    /// No request came for longer than the limit.
    Idle,
    /// The gateway is ending, or does not let in any more what came this way.
    Draining,
}

/// Drives the connection until it ends or runs out of patience. The timer is set again only when it
/// has fired or would fire too late: seldom more than once in the time of the shorter limit.
async fn timed<C: Future>(
    mut connection: Pin<&mut C>,
    patience: &ConnectionTimers,
    timer: Pin<&mut Sleep>,
) -> End {
    let mut timer = WakeFilter::new(timer);
    let mut moment = None;
    std::future::poll_fn(|cx| {
        patience.wake(Instant::now());
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Over);
        }
        while let Some(limit) = patience.deadline() {
            let deadline = moment.map_or(limit, |until| limit.max(until));
            let sleep = timer.get_mut();
            if sleep.is_elapsed() || deadline < sleep.deadline() {
                sleep.as_mut().reset(deadline);
                timer.disturb();
            }
            ready!(Pin::new(&mut timer).poll(cx));
            let now = Instant::now();
            if now >= deadline + LATE && deadline == limit {
                moment = Some(now + MOMENT);
            } else if now >= deadline {
                let waiting = patience.waiting();
                return Poll::Ready(match waiting {
                    Waiting::Idle(_) => End::Idle,
                    Waiting::Head(_) | Waiting::Answers { .. } => End::TooSlow,
                });
            }
        }
        Poll::Pending
    })
    .await
}
