//! The connections to one upstream: idle HTTP/1.1 ones, newest first, or one shared HTTP/2 connection.
//!
//! It is built on hyper's connection API, because the retry needs two facts that a general client hides:
//! whether a connection was used before, and whether any byte was received since the request was sent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::connect::{Connector, ReceiveTracker, UpstreamIo};
use super::error::FetchError;
use super::request_body::{RequestBody, UploadProgress};

/// Limits how long a connection may be idle and still be reused. It is below the usual idle limits of load
/// balancers (60 s and more), so that an upstream rarely closes a connection while a request takes it.
const MAX_IDLE: Duration = Duration::from_secs(50);

/// Limits the time until an HTTP/2 connection that died silently is noticed, after a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Limits the bytes of an HTTP/1.1 response that are read ahead.
const READ_BUFFER: usize = 128 * 1024;

/// The HTTP/2 flow-control windows of a stream and of a connection, in bytes. `None` keeps hyper's defaults.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Windows(Option<(u32, u32)>);

impl Windows {
    /// A small window for each stream, because many streams may last long. The largest window for the
    /// connection, so that a slow client does not block the streams of others.
    pub(super) const FOR_FORWARDING: Self = Self(Some((256 * 1024, i32::MAX.unsigned_abs())));
}

#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    windows: Windows,
    state: Arc<Mutex<PoolState>>,
    /// Locked while a connection is opened that other requests may be able to share.
    opening: tokio::sync::Mutex<()>,
    /// Whether the last handshake chose HTTP/1.1, so that requests need not wait for each other's connection.
    http1_only: AtomicBool,
    /// Counts the connections that could not be opened.
    failures: AtomicU64,
    drivers: TaskTracker,
}

#[derive(Debug, Default)]
struct PoolState {
    /// Sorted by the time of their return, the oldest first.
    idle: Vec<IdleConnection>,
    shared: Option<(u64, http2::SendRequest<RequestBody>)>,
    last_generation: u64,
    /// Whether connections are no longer kept.
    is_retired: bool,
}

impl PoolState {
    /// Removes the connection that was used last, preferably one of this worker. A connection of another
    /// worker would have to wake that worker for each byte.
    fn pop_newest(&mut self) -> Option<IdleConnection> {
        let worker = thread::current().id();
        match self.idle.iter().rposition(|idle| idle.worker == worker) {
            Some(index) => Some(self.idle.remove(index)),
            None => self.idle.pop(),
        }
    }
}

#[derive(Debug)]
struct IdleConnection {
    connection: Http1Connection,
    since: Instant,
    /// The worker that returned the connection, which usually is the one that drives it.
    worker: ThreadId,
}

/// An HTTP/1.1 connection, owned by one request until its response body has ended.
#[derive(Debug)]
pub(super) struct Http1Connection {
    sender: http1::SendRequest<RequestBody>,
    received: Arc<ReceiveTracker>,
    driver: AbortHandle,
}

/// A connection on which a request can be sent.
#[derive(Debug)]
pub(super) enum Connection {
    Http1(Http1Connection),
    /// A stream of the shared HTTP/2 connection.
    Http2 {
        sender: http2::SendRequest<RequestBody>,
        generation: u64,
    },
}

impl Connection {
    /// Sends the request that `request` builds for this HTTP version. The request is built here, so that the
    /// caller's future does not hold it.
    pub(super) async fn send(
        &mut self,
        request: impl FnOnce(Version) -> Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let sent = match self {
            Self::Http1(Http1Connection {
                sender, received, ..
            }) => {
                received.begin_request();
                let response = sender.try_send_request(request(Version::HTTP_11)).await;
                if response.is_ok() {
                    received.end_head();
                }
                response
            }
            Self::Http2 { sender, .. } => sender.try_send_request(request(Version::HTTP_2)).await,
        };
        sent.map_err(SendError::new)
    }

    /// Reports whether any byte of a response to the failed request was received. A failed HTTP/2 stream has
    /// no response head, and therefore no such byte.
    pub(super) fn has_received(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.received.has_received(),
            Self::Http2 { .. } => false,
        }
    }

    /// Returns the number of the shared connection, or `None` if it is not shared.
    pub(super) fn generation(&self) -> Option<u64> {
        match self {
            Self::Http1(_) => None,
            Self::Http2 { generation, .. } => Some(*generation),
        }
    }
}

/// The reason why a request has no response.
#[derive(Debug)]
pub(super) struct SendError {
    pub(super) error: hyper::Error,
    /// The body of the request, if nothing of the request was sent.
    pub(super) unsent: Option<RequestBody>,
}

impl SendError {
    fn new(mut error: TrySendError<Request<RequestBody>>) -> Self {
        Self {
            unsent: error.take_message().map(Request::into_body),
            error: error.into_error(),
        }
    }
}

/// Returns a connection to its pool once the response body has ended. If the guard is dropped without that,
/// the connection is closed.
#[derive(Debug)]
pub(super) struct ReturnGuard {
    connection: Connection,
    /// The upload of the request on this connection.
    upload: Option<Arc<UploadProgress>>,
    state: Arc<Mutex<PoolState>>,
}

impl ReturnGuard {
    pub(super) fn return_connection(self) {
        let Connection::Http1(connection) = self.connection else {
            return;
        };
        if self.upload.is_some_and(|upload| !upload.is_complete()) {
            // The upstream responded before the upload ended. The next request would have to wait for the
            // rest of the upload, and only this task would end it.
            connection.driver.abort();
            return;
        }
        if connection.sender.is_closed() {
            return;
        }
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.is_retired {
            return;
        }
        let expired = state
            .idle
            .iter()
            .take_while(|idle| now - idle.since > MAX_IDLE)
            .count();
        state.idle.drain(..expired);
        state.idle.push(IdleConnection {
            connection,
            since: now,
            worker: thread::current().id(),
        });
    }
}

impl Pool {
    pub(super) fn new(connector: Connector, windows: Windows) -> Self {
        Self {
            connector,
            windows,
            state: Arc::default(),
            opening: tokio::sync::Mutex::default(),
            http1_only: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            drivers: TaskTracker::new(),
        }
    }

    /// Closes idle connections, and from now on each connection after the request for which it was opened.
    pub(super) fn retire(&self) {
        let mut state = lock(&self.state);
        state.is_retired = true;
        state.idle.clear();
        state.shared = None;
    }

    pub(super) fn return_guard(
        &self,
        connection: Connection,
        upload: Option<Arc<UploadProgress>>,
    ) -> ReturnGuard {
        ReturnGuard {
            connection,
            upload,
            state: Arc::clone(&self.state),
        }
    }

    /// Takes a used connection that seems alive, or returns `None`.
    pub(super) async fn take(&self) -> Option<Connection> {
        loop {
            if let Some(shared) = self.shared(None) {
                return Some(shared);
            }
            let mut idle = lock(&self.state).pop_newest()?;
            // The last body has ended, but the connection's task may not have noticed yet.
            if idle.since.elapsed() <= MAX_IDLE && idle.connection.sender.ready().await.is_ok() {
                return Some(Connection::Http1(idle.connection));
            }
        }
    }

    /// Returns the shared connection, unless it is closed or of the `lost` generation.
    fn shared(&self, lost: Option<u64>) -> Option<Connection> {
        let state = lock(&self.state);
        let (generation, sender) = state.shared.as_ref()?;
        let is_usable = !sender.is_closed() && Some(*generation) != lost;
        is_usable.then(|| Connection::Http2 {
            sender: sender.clone(),
            generation: *generation,
        })
    }

    /// Opens a connection within `upstream.connect_timeout`. If another request opens a shared connection in
    /// the meantime, this returns that one, unless it is of the `lost` generation.
    pub(super) async fn open(&self, lost: Option<u64>) -> Result<Connection, FetchError> {
        // Requests that arrive at once wait for one shared connection. Once it turns out that HTTP/1.1 was
        // chosen or that connecting failed, each request opens its own.
        let failures = self.failures.load(Ordering::Relaxed);
        let may_share = || {
            self.connector.is_tls()
                && !self.http1_only.load(Ordering::Relaxed)
                && self.failures.load(Ordering::Relaxed) == failures
        };
        let mut _opening = None;
        if may_share() {
            _opening = Some(self.opening.lock().await).filter(|_| may_share());
        }
        if let Some(shared) = self.shared(lost) {
            return Ok(shared);
        }
        let opened = timeout(self.connector.timeout(), async {
            let io = self.connector.connect().await?;
            self.http1_only.store(!io.is_http2(), Ordering::Relaxed);
            if io.is_http2() {
                self.http2(io).await
            } else {
                self.http1(io).await
            }
        });
        let opened = opened
            .await
            .unwrap_or(Err(FetchError::ConnectTimeout(None)));
        if opened.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        opened
    }

    async fn http1(&self, io: UpstreamIo) -> Result<Connection, FetchError> {
        let received = io.receive_tracker();
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(io))
            .await
            .map_err(FetchError::ConnectionLost)?;
        Ok(Connection::Http1(Http1Connection {
            sender,
            received,
            driver: self.drive(driver),
        }))
    }

    async fn http2(&self, io: UpstreamIo) -> Result<Connection, FetchError> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        if let Windows(Some((stream, connection))) = self.windows {
            builder
                .initial_stream_window_size(stream)
                .initial_connection_window_size(connection);
        }
        let (sender, driver) = builder
            .handshake(TokioIo::new(io))
            .await
            .map_err(FetchError::ConnectionLost)?;
        self.drive(driver);
        Ok(self.share(sender))
    }

    fn share(&self, sender: http2::SendRequest<RequestBody>) -> Connection {
        let mut state = lock(&self.state);
        state.last_generation += 1;
        let generation = state.last_generation;
        if !state.is_retired {
            state.shared = Some((generation, sender.clone()));
        }
        Connection::Http2 { sender, generation }
    }

    fn drive(
        &self,
        driver: impl Future<Output = hyper::Result<()>> + Send + 'static,
    ) -> AbortHandle {
        let task = self.drivers.spawn(async move {
            // The error also reaches each request that waits for a response on this connection.
            if let Err(error) = driver.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        task.abort_handle()
    }
}

fn lock(state: &Mutex<PoolState>) -> MutexGuard<'_, PoolState> {
    // Poisoning is ignored, because nothing panics between two dependent changes of the state.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use tokio::io::DuplexStream;
    use tokio::time::advance;

    const TICK: Duration = Duration::from_millis(1);

    fn pool() -> Pool {
        let mut config = config::Upstream::default();
        config.base_url.https = false;
        Pool::new(Connector::new(&config).unwrap(), Windows::default())
    }

    /// Returns an HTTP/1.1 connection to the pool. It lives as long as its peer.
    async fn add_idle(pool: &Pool) -> (Arc<ReceiveTracker>, DuplexStream) {
        let (io, peer) = tokio::io::duplex(64);
        let (sender, driver) = http1::handshake(TokioIo::new(io)).await.unwrap();
        let received = Arc::<ReceiveTracker>::default();
        let connection = Connection::Http1(Http1Connection {
            sender,
            received: Arc::clone(&received),
            driver: pool.drive(driver),
        });
        pool.return_guard(connection, None).return_connection();
        (received, peer)
    }

    async fn takes(pool: &Pool, expected: &Arc<ReceiveTracker>) -> bool {
        match pool.take().await {
            Some(Connection::Http1(taken)) => Arc::ptr_eq(&taken.received, expected),
            Some(Connection::Http2 { .. }) | None => false,
        }
    }

    async fn until_closed(connection: &Connection) {
        let Connection::Http1(connection) = connection else {
            return;
        };
        while !connection.sender.is_closed() {
            tokio::task::yield_now().await;
        }
    }

    fn idle_count(pool: &Pool) -> usize {
        lock(&pool.state).idle.len()
    }

    /// Opens a shared connection. It lives as long as its peer.
    async fn share(pool: &Pool) -> (Connection, DuplexStream) {
        let (io, peer) = tokio::io::duplex(4096);
        let http2 = http2::Builder::new(TokioExecutor::new());
        let (sender, driver) = http2.handshake(TokioIo::new(io)).await.unwrap();
        pool.drive(driver);
        (pool.share(sender), peer)
    }

    #[tokio::test]
    async fn lost_shared_connection_is_not_used_again_by_the_request_that_lost_it() {
        let pool = pool();
        let shared = |lost| pool.shared(lost).and_then(|c| c.generation());
        assert_eq!(shared(None), None);
        let (first, _peer) = share(&pool).await;
        assert!(first.generation().is_some());
        assert_eq!(shared(None), first.generation());
        assert_eq!(shared(first.generation()), None);
        let (second, _second_peer) = share(&pool).await;
        assert_eq!(shared(first.generation()), second.generation());
        assert_eq!(shared(second.generation()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn newest_idle_connection_is_taken_first() {
        let pool = pool();
        let (first, _peer) = add_idle(&pool).await;
        let (second, _second_peer) = add_idle(&pool).await;
        assert!(takes(&pool, &second).await);
        assert!(takes(&pool, &first).await);
        assert!(pool.take().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_of_the_same_worker_is_taken_before_another_workers() {
        let pool = pool();
        let (own, _peer) = add_idle(&pool).await;
        let (other, _other_peer) = add_idle(&pool).await;
        let other_worker = thread::spawn(|| thread::current().id()).join().unwrap();
        for idle in &mut lock(&pool.state).idle {
            if Arc::ptr_eq(&idle.connection.received, &other) {
                idle.worker = other_worker;
            }
        }
        assert!(takes(&pool, &own).await);
        assert!(
            takes(&pool, &other).await,
            "another worker's connection is taken before a new one is opened"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_was_idle_for_too_long_is_not_reused() {
        let pool = pool();
        let (connection, _peer) = add_idle(&pool).await;
        advance(MAX_IDLE).await;
        assert!(takes(&pool, &connection).await);
        let _peer = add_idle(&pool).await;
        advance(MAX_IDLE + TICK).await;
        assert!(pool.take().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn returning_a_connection_closes_expired_ones() {
        let pool = pool();
        let _expired = (add_idle(&pool).await, add_idle(&pool).await);
        advance(TICK).await;
        let (fresh, _peer) = add_idle(&pool).await;
        assert_eq!(idle_count(&pool), 3);
        advance(MAX_IDLE).await;
        let _newest = add_idle(&pool).await;
        assert_eq!(idle_count(&pool), 2);
        drop(pool.take().await);
        assert!(takes(&pool, &fresh).await);
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_the_upstream_closed_is_neither_kept_nor_taken() {
        let pool = pool();
        let (connection, _peer) = add_idle(&pool).await;
        let (_, closed) = add_idle(&pool).await;
        drop(closed);
        assert!(takes(&pool, &connection).await);
        assert_eq!(idle_count(&pool), 0);
        let (_, closed) = add_idle(&pool).await;
        let taken = pool.take().await.unwrap();
        drop(closed);
        until_closed(&taken).await;
        pool.return_guard(taken, None).return_connection();
        assert_eq!(idle_count(&pool), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn retired_pool_keeps_no_connection() {
        let pool = pool();
        let (_, _peer) = add_idle(&pool).await;
        let taken = pool.take().await.unwrap();
        let (_, _second_peer) = add_idle(&pool).await;
        let _shared = share(&pool).await;
        pool.retire();
        assert_eq!(idle_count(&pool), 0);
        pool.return_guard(taken, None).return_connection();
        assert_eq!(idle_count(&pool), 0);
        let _opened_late = share(&pool).await;
        assert!(pool.take().await.is_none());
    }
}
