//! Serves one connection: the TLS handshake if there is one, then HTTP/1.1 or HTTP/2, by ALPN or with prior
//! knowledge.
//!
//! The timeouts are not hyper's. hyper's header timeout also counts the idle time between two requests, and
//! does not cover a client that sends nothing at all. Here [`ConnectionTimers`] follows the bytes: from accept
//! to the end of the first head, including the handshake; from the first byte of a later head to its end; and
//! between requests.

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
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep};

use super::drain::{Phase, PhaseReceiver};
use super::listener::Accepted;
use super::timeouts::{ConnState, ConnectionTimers, Timeouts};
use super::tls::{H2, Tls, TlsConnection};
use super::tracked_body::{MAX_FRAME, ResponseFuture, TrackedBody};
use super::tracked_io::{Stream, TrackedIo};
use super::wake_filter::WakeFilter;
use crate::gateway::{ConnectionState, Gateway, Handled, Transport};

/// Limits an HTTP/1.1 head in bytes. A head with a 64 KiB target fits, so that hyper responds with 414 and not
/// with 431.
const MAX_HEAD: usize = 128 * 1024;

/// Limits the open HTTP/2 streams of a connection. Many pollers can share a connection. The limit is below
/// `upstream.max_in_flight`, so that one connection alone cannot use all permits.
const MAX_STREAMS: u32 = 250;

/// Limits an HTTP/2 head in bytes. Honest heads are below 2 KiB. All heads of a connection stay within 4 MiB,
/// and hyper derives from this limit how many CONTINUATION frames it reads.
const MAX_HTTP2_HEAD: u32 = 16 * 1024;

/// Limits the streams that a client resets before they are accepted (rapid reset, CVE-2023-44487). Streams are
/// accepted as they arrive, so honest clients rarely leave more than one or two.
const MAX_PENDING_RESETS: usize = 20;

/// Limits the streams that hyper resets for the client's protocol errors (MadeYouReset, CVE-2025-8671), in the
/// life of a connection. Honest clients cause none, and each may cost a fetch.
const MAX_ERROR_RESETS: usize = 64;

/// Limits the unread bytes of one request body. This is the smallest initial window of HTTP/2. A body is
/// dropped unless its request is forwarded, and a forwarded one is read at the upstream's pace.
const STREAM_WINDOW: u32 = 65_535;

/// Limits the unread bytes of all request bodies of a connection, so that stalled ones do not stop the others.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// An HTTP/2 client that is gone is noticed after this interval and this timeout.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Limits how long a client may take to complete a graceful shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The time in which bytes that may have arrived are read before a connection is closed.
const LAST_READ: Duration = Duration::from_millis(20);

/// If a timeout is noticed later than this, the process was stopped or starved. Bytes that arrived in time may
/// then be unread.
const LATE: Duration = Duration::from_millis(100);

/// Limits a TLS handshake during which a drain begins: a few round trips of a distant client.
const HANDSHAKE_IN_DRAIN: Duration = Duration::from_secs(1);

/// Answers the requests of one connection.
pub(super) trait Handler: Send + 'static {
    fn respond(&mut self, request: Request<Incoming>, arrived: Instant) -> Handled;
}

/// Answers requests by the gateway.
pub(super) struct ProxyHandler {
    pub(super) gateway: Arc<Gateway>,
    pub(super) state: ConnectionState,
}

impl Handler for ProxyHandler {
    fn respond(&mut self, request: Request<Incoming>, arrived: Instant) -> Handled {
        self.gateway.handle(request, &mut self.state, arrived)
    }
}

struct ConnectionService<H> {
    /// A cell, because hyper calls a service by shared reference. Calls do not overlap.
    handler: RefCell<H>,
    timers: Arc<ConnectionTimers>,
}

impl<H: Handler> Service<Request<Incoming>> for ConnectionService<H> {
    type Response = Response<TrackedBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        let has_body = !request.body().is_end_stream();
        let active = Arc::clone(&self.timers).begin(request.version(), has_body);
        // Only a forwarded request needs its body. After any other request with a chunked body the connection
        // is closed, so that the rest of the body is not taken for a request.
        let close = has_body && request.headers().contains_key(TRANSFER_ENCODING);
        let arrived = self.timers.now();
        let (response, close) = match self.handler.borrow_mut().respond(request, arrived) {
            Handled::Ready(response) => return ResponseFuture::ready(response, active, close),
            Handled::Fetch(response) => (response, close),
            Handled::Forward(response) => (response, false),
        };
        ResponseFuture::Pending {
            response,
            request: Some(active),
            close,
        }
    }
}

/// Serves a connection to its end, over TLS if `tls` is given and the connection is a TCP one. `handler` builds
/// the handler, once the transport is known.
pub(super) async fn serve<H: Handler>(
    accepted: Accepted,
    tls: Option<Arc<Tls>>,
    handler: impl FnOnce(Transport) -> H,
    timeouts: Timeouts,
    phase: PhaseReceiver,
) {
    tracing::trace!("connection accepted");
    let timers = ConnectionTimers::new(timeouts);
    let mut timer = pin!(sleep(timeouts.header));
    let established = establish(accepted, tls.as_deref(), timer.as_mut(), &phase).await;
    let (stream, transport, is_http2) = match established {
        Ok(Some(established)) => established,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "connection closed: it cannot be served");
            return;
        }
    };
    let service = ConnectionService {
        handler: RefCell::new(handler(transport)),
        timers: Arc::clone(&timers),
    };
    let io = TokioIo::new(TrackedIo {
        stream,
        timers: Arc::clone(&timers),
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
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // This limit counts for each stream. `TrackedBody` hands over no more at once.
        .max_send_buf_size(MAX_FRAME)
        // SETTINGS and PING need no limit: h2 owes one acknowledgement of each at a time, and does not read on
        // before it has room for it.
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    match is_http2 {
        Some(true) => builder = builder.http2_only(),
        Some(false) => builder = builder.http1_only(),
        None => {}
    }
    let mut connection = pin!(builder.serve_connection(io, service));

    let drain = pin!(phase.reached(Phase::Draining));
    let rejected = pin!(rejected(tls.as_deref(), transport));
    let reason = tokio::select! {
        biased;
        reason = run(connection.as_mut(), &timers, timer.as_mut()) => reason,
        () = WakeFilter::new(drain) => {
            // Bytes that arrived before the drain may be unread.
            let last_read = run(connection.as_mut(), &timers, timer.as_mut());
            match timers.state() {
                ConnState::Responding { .. } => CloseReason::Draining,
                ConnState::ReadingHead(_) | ConnState::Idle(_) => {
                    tokio::time::timeout(LAST_READ, last_read)
                        .await
                        .unwrap_or(CloseReason::Draining)
                }
            }
        }
        () = WakeFilter::new(rejected) => CloseReason::Draining,
    };
    match reason {
        CloseReason::Finished => {}
        // No graceful shutdown follows, because this client does not send or does not read.
        CloseReason::TooSlow => tracing::debug!("connection closed: the client took too long"),
        CloseReason::Idle => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, connection).await;
        }
        CloseReason::Draining => {
            connection.as_mut().graceful_shutdown();
            // The timeouts go on, so that a partial head or an unread response does not block the drain. An
            // idle client has less time, because it only has to complete the shutdown.
            let rest = run(connection, &timers, timer);
            let _ = match timers.state() {
                ConnState::Idle(_) => tokio::time::timeout(SHUTDOWN_TIMEOUT, rest).await,
                ConnState::ReadingHead(_) | ConnState::Responding { .. } => Ok(rest.await),
            };
        }
    }
}

/// A stream, its transport, and whether ALPN chose HTTP/2. Without TLS the first bytes decide that.
type Established = (Box<dyn Stream>, Transport, Option<bool>);

/// Registers the connection with this runtime, and performs the TLS handshake if there is one. Returns `None` if
/// the handshake does not succeed in time.
async fn establish(
    accepted: Accepted,
    tls: Option<&Tls>,
    timer: Pin<&mut Sleep>,
    phase: &PhaseReceiver,
) -> io::Result<Option<Established>> {
    let stream = match (accepted, tls) {
        (Accepted::Unix(stream), _) => {
            let stream = Box::new(UnixStream::from_std(stream)?);
            return Ok(Some((stream, Transport::Unix, None)));
        }
        (Accepted::Tcp(stream), None) => {
            let stream = Box::new(TcpStream::from_std(stream)?);
            return Ok(Some((stream, Transport::Tcp, None)));
        }
        (Accepted::Tcp(stream), Some(tls)) => {
            let stream = TcpStream::from_std(stream)?;
            // Boxed, so that the future of a plain connection has no room for it.
            Box::pin(handshake(stream, tls, timer, phase)).await
        }
    };
    Ok(stream.map(|TlsConnection { stream, client_ca }| {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        let stream: Box<dyn Stream> = Box::new(stream);
        (stream, Transport::Tls(client_ca), Some(is_http2))
    }))
}

/// Returns the connection after its handshake. Returns `None` if the handshake fails, or takes until `timer` or
/// too long for a drain.
async fn handshake(
    stream: TcpStream,
    tls: &Tls,
    timer: Pin<&mut Sleep>,
    phase: &PhaseReceiver,
) -> Option<TlsConnection> {
    let mut handshake = pin!(tls.handshake(stream));
    let result = tokio::select! {
        result = handshake.as_mut() => Some(result),
        () = timer => None,
        // The client may have sent its request already.
        () = phase.reached(Phase::Draining) => {
            tokio::time::timeout(HANDSHAKE_IN_DRAIN, handshake).await.ok()
        }
    };
    match result {
        Some(Ok(connection)) => return Some(connection),
        // A TCP health check that closes at once is logged at `debug` only.
        Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!(%error, "connection closed: no TLS handshake");
        }
        Some(Err(error)) => tracing::info!(%error, "connection closed: no TLS handshake"),
        None => tracing::debug!("connection closed: the TLS handshake took too long"),
    }
    None
}

/// Returns once the current configuration would not accept a connection of this transport.
async fn rejected(tls: Option<&Tls>, transport: Transport) {
    match (tls, transport) {
        (Some(tls), Transport::Tls(client_ca)) => tls.rejected(client_ca).await,
        (_, Transport::Tcp | Transport::Unix) | (None, Transport::Tls(_)) => {
            std::future::pending().await
        }
    }
}

/// The reason why a connection is no longer served.
enum CloseReason {
    /// The connection ended, with an error or without.
    Finished,
    /// The client did not send a head or did not read a response in time.
    TooSlow,
    /// The client sent no request in time.
    Idle,
    /// The gateway drains, or no longer accepts this transport.
    Draining,
}

/// Drives the connection until it ends or times out. The timer is reset only if it has fired or would fire too
/// late, which is rarely more than once in the shorter timeout.
async fn run<C: Future>(
    mut connection: Pin<&mut C>,
    timers: &ConnectionTimers,
    timer: Pin<&mut Sleep>,
) -> CloseReason {
    let mut timer = WakeFilter::new(timer);
    let mut extended = None;
    std::future::poll_fn(|cx| {
        timers.set_now(Instant::now());
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(CloseReason::Finished);
        }
        while let Some(timeout) = timers.deadline() {
            let deadline = extended.map_or(timeout, |until| timeout.max(until));
            let sleep = timer.get_mut();
            if sleep.is_elapsed() || deadline < sleep.deadline() {
                sleep.as_mut().reset(deadline);
                timer.force_poll();
            }
            ready!(Pin::new(&mut timer).poll(cx));
            let now = Instant::now();
            if now >= deadline + LATE && deadline == timeout {
                extended = Some(now + LAST_READ);
            } else if now >= deadline {
                return Poll::Ready(match timers.state() {
                    ConnState::Idle(_) => CloseReason::Idle,
                    ConnState::ReadingHead(_) | ConnState::Responding { .. } => {
                        CloseReason::TooSlow
                    }
                });
            }
        }
        Poll::Pending
    })
    .await
}
