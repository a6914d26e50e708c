//! The connections to the one upstream: idle HTTP/1.1 ones, newest first, or one shared HTTP/2.
//!
//! Our own, on hyper's connection API, because the retry needs to know what a general client hides:
//! whether a connection was used before, and whether it has said anything since. A pool for a
//! single address is small.

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

use super::FetchError;
use super::connect::{Connector, ReceiveTracker, UpstreamIo};
use super::request_body::{RequestBody, UploadProgress};

/// Below the idle limits that are usual at load balancers (60 s and more), so that we rather than
/// they close, and a connection is seldom lost on reuse.
const IDLE: Duration = Duration::from_secs(50);

/// An HTTP/2 connection that died silently is found out after a ping and this.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Bytes of an HTTP/1.1 answer that are read ahead.
const READ_AT_ONCE: usize = 128 * 1024;

/// Bytes of HTTP/2 answers that may lie here unread; none: as many as hyper lets.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Windows(Option<(u32, u32)>);

impl Windows {
    /// Of a stream little, for many may last; of a connection as much as HTTP/2 knows, so that who reads
    /// slowly keeps nothing from the others.
    pub(super) const OF_STREAMS: Self = Self(Some((256 * 1024, i32::MAX.unsigned_abs())));
}

#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    windows: Windows,
    state: Arc<Mutex<State>>,
    /// Held while a connection is opened that others may be able to share.
    opening: tokio::sync::Mutex<()>,
    /// The last handshake chose HTTP/1.1: no use in waiting for others to open.
    http1_only: AtomicBool,
    /// Connections that could not be opened.
    failures: AtomicU64,
    drivers: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Idle>,
    shared: Option<(u64, http2::SendRequest<RequestBody>)>,
    generations: u64,
    /// No connection is kept any more.
    retired: bool,
}

impl State {
    /// The connection that was last used; of this worker's own, if it has any: another's would have to
    /// be woken for every byte.
    fn newest(&mut self) -> Option<Idle> {
        let here = thread::current().id();
        let own = self.idle.iter().rposition(|idle| idle.home == here);
        match own {
            Some(index) => Some(self.idle.remove(index)),
            None => self.idle.pop(),
        }
    }
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<RequestBody>,
    heard: Arc<ReceiveTracker>,
    driver: AbortHandle,
    since: Instant,
    /// The worker that gave it back, which mostly is the one that drives it.
    home: ThreadId,
}

/// A connection that a request can be sent on.
#[derive(Debug)]
pub(super) enum Connection {
    /// HTTP/1.1, ours until the body has ended.
    Exclusive {
        sender: http1::SendRequest<RequestBody>,
        heard: Arc<ReceiveTracker>,
        driver: AbortHandle,
    },
    /// HTTP/2, one stream of many.
    Shared {
        sender: http2::SendRequest<RequestBody>,
        generation: u64,
    },
}

impl Connection {
    /// Sends what `request` makes for its version. (Made here, it is not held beside what is sent.)
    pub(super) async fn send(
        &mut self,
        request: impl FnOnce(Version) -> Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let sent = match self {
            Self::Exclusive { sender, heard, .. } => {
                heard.reset();
                let response = sender.try_send_request(request(Version::HTTP_11)).await;
                if response.is_ok() {
                    heard.head();
                }
                response
            }
            Self::Shared { sender, .. } => sender.try_send_request(request(Version::HTTP_2)).await,
        };
        sent.map_err(SendError::of)
    }

    /// Whether the failed request may have been answered in part. A failed HTTP/2 stream has no
    /// head, and so no byte of an answer.
    pub(super) fn has_answered(&self) -> bool {
        match self {
            Self::Exclusive { heard, .. } => heard.anything(),
            Self::Shared { .. } => false,
        }
    }

    pub(super) fn generation(&self) -> Option<u64> {
        match self {
            Self::Exclusive { .. } => None,
            Self::Shared { generation, .. } => Some(*generation),
        }
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct SendError {
    pub(super) error: hyper::Error,
    /// Nothing of it was sent: what would have followed its head.
    pub(super) unsent: Option<RequestBody>,
}

impl SendError {
    fn of(mut error: TrySendError<Request<RequestBody>>) -> Self {
        Self {
            unsent: error.take_message().map(Request::into_body),
            error: error.into_error(),
        }
    }
}

/// The right to give a connection back once its body has ended.
#[derive(Debug)]
pub(super) struct ReturnGuard {
    connection: Connection,
    /// Of what goes up on it.
    upload: Option<Arc<UploadProgress>>,
    state: Arc<Mutex<State>>,
}

impl ReturnGuard {
    pub(super) fn give_back(self) {
        if self.upload.is_some_and(|upload| !upload.has_gone()) {
            // Answered early: whoever came next would wait for the rest of it, and nobody else does.
            if let Connection::Exclusive { driver, .. } = self.connection {
                driver.abort();
            }
            return;
        }
        match self.connection {
            Connection::Exclusive {
                sender,
                heard,
                driver,
            } if !sender.is_closed() => {
                let now = Instant::now();
                let mut state = lock(&self.state);
                if state.retired {
                    return;
                }
                // The oldest are in front.
                let stale = state
                    .idle
                    .iter()
                    .take_while(|idle| now - idle.since > IDLE)
                    .count();
                state.idle.drain(..stale);
                state.idle.push(Idle {
                    sender,
                    heard,
                    driver,
                    since: now,
                    home: thread::current().id(),
                });
            }
            Connection::Exclusive { .. } | Connection::Shared { .. } => {}
        }
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

    /// From now on no connection outlives the request that it was opened for: few will still come.
    pub(super) fn retire(&self) {
        let mut state = lock(&self.state);
        state.retired = true;
        state.idle.clear();
        state.shared = None;
    }

    pub(super) fn lease(
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

    /// A connection that was used before, if one is there and seems alive.
    pub(super) async fn take(&self) -> Option<Connection> {
        loop {
            if let Some(shared) = self.shared(None) {
                return Some(shared);
            }
            let idle = lock(&self.state).newest()?;
            if idle.since.elapsed() > IDLE {
                continue;
            }
            let mut sender = idle.sender;
            // Its last body has ended; the connection's task may still have to notice.
            if sender.ready().await.is_ok() {
                return Some(Connection::Exclusive {
                    sender,
                    heard: idle.heard,
                    driver: idle.driver,
                });
            }
        }
    }

    /// The shared connection, unless it is closed or of the generation that was `lost`.
    fn shared(&self, lost: Option<u64>) -> Option<Connection> {
        let state = lock(&self.state);
        let (generation, sender) = state.shared.as_ref()?;
        let usable = !sender.is_closed() && Some(*generation) != lost;
        usable.then(|| Connection::Shared {
            sender: sender.clone(),
            generation: *generation,
        })
    }

    /// A new connection; or one that somebody else opened meanwhile, if it can be shared and is not
    /// of the generation that was `lost`. Opening takes at most `upstream.connect_timeout`.
    pub(super) async fn open(&self, lost: Option<u64>) -> Result<Connection, FetchError> {
        // Several requests at once must not open a connection each where one would do. Once it turns
        // out that there is nothing to share, or that it cannot be opened, each opens its own.
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
            let link = self.connector.connect().await?;
            self.http1_only.store(!link.is_http2(), Ordering::Relaxed);
            if link.is_http2() {
                self.http2(link).await
            } else {
                self.http1(link).await
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

    async fn http1(&self, link: UpstreamIo) -> Result<Connection, FetchError> {
        let heard = link.heard();
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(READ_AT_ONCE)
            .handshake(TokioIo::new(link))
            .await
            .map_err(FetchError::Lost)?;
        let driver = self.drive(driver);
        Ok(Connection::Exclusive {
            sender,
            heard,
            driver,
        })
    }

    async fn http2(&self, link: UpstreamIo) -> Result<Connection, FetchError> {
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
            .handshake(TokioIo::new(link))
            .await
            .map_err(FetchError::Lost)?;
        self.drive(driver);
        Ok(self.share(sender))
    }

    fn share(&self, sender: http2::SendRequest<RequestBody>) -> Connection {
        let mut state = lock(&self.state);
        state.generations += 1;
        let generation = state.generations;
        if !state.retired {
            state.shared = Some((generation, sender.clone()));
        }
        Connection::Shared { sender, generation }
    }

    fn drive(
        &self,
        driver: impl Future<Output = hyper::Result<()>> + Send + 'static,
    ) -> AbortHandle {
        let driven = self.drivers.spawn(async move {
            // Whoever waits for an answer on it learns of the error, too.
            if let Err(error) = driver.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        driven.abort_handle()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing that runs under the lock can panic half way.
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

    /// Puts a connection into the pool; it lives as long as its far end.
    async fn put_idle(pool: &Pool) -> (Arc<ReceiveTracker>, DuplexStream) {
        let (near, far) = tokio::io::duplex(64);
        let (sender, driver) = http1::handshake(TokioIo::new(near)).await.unwrap();
        let heard = Arc::<ReceiveTracker>::default();
        let connection = Connection::Exclusive {
            sender,
            heard: Arc::clone(&heard),
            driver: pool.drive(driver),
        };
        pool.lease(connection, None).give_back();
        (heard, far)
    }

    async fn takes(pool: &Pool, expected: &Arc<ReceiveTracker>) -> bool {
        match pool.take().await {
            Some(Connection::Exclusive { heard, .. }) => Arc::ptr_eq(&heard, expected),
            Some(Connection::Shared { .. }) | None => false,
        }
    }

    async fn until_closed(connection: &Connection) {
        let Connection::Exclusive { sender, .. } = connection else {
            return;
        };
        while !sender.is_closed() {
            tokio::task::yield_now().await;
        }
    }

    fn idle(pool: &Pool) -> usize {
        lock(&pool.state).idle.len()
    }

    /// Opens a connection that is shared; it lives as long as its far end.
    async fn share(pool: &Pool) -> (Connection, DuplexStream) {
        let (near, far) = tokio::io::duplex(4096);
        let http2 = http2::Builder::new(TokioExecutor::new());
        let (sender, driver) = http2.handshake(TokioIo::new(near)).await.unwrap();
        pool.drive(driver);
        (pool.share(sender), far)
    }

    #[tokio::test]
    async fn a_shared_connection_is_for_all_but_who_lost_it() {
        let pool = pool();
        let shared = |lost| pool.shared(lost).and_then(|c| c.generation());
        assert_eq!(shared(None), None);
        let (first, _far) = share(&pool).await;
        assert!(first.generation().is_some());
        assert_eq!(shared(None), first.generation());
        assert_eq!(shared(first.generation()), None);
        let (second, _far_too) = share(&pool).await;
        assert_eq!(shared(first.generation()), second.generation());
        assert_eq!(shared(second.generation()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_goes_first() {
        let pool = pool();
        let (first, _far) = put_idle(&pool).await;
        let (second, _far_too) = put_idle(&pool).await;
        assert!(takes(&pool, &second).await);
        assert!(takes(&pool, &first).await);
        assert!(pool.take().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_workers_own_the_newest_goes_before_anothers() {
        let pool = pool();
        let (own, _far) = put_idle(&pool).await;
        let (anothers, _far_too) = put_idle(&pool).await;
        let elsewhere = thread::spawn(|| thread::current().id()).join().unwrap();
        for idle in &mut lock(&pool.state).idle {
            if Arc::ptr_eq(&idle.heard, &anothers) {
                idle.home = elsewhere;
            }
        }
        assert!(takes(&pool, &own).await);
        assert!(takes(&pool, &anothers).await, "rather than open one");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_idle_for_too_long_is_not_used_again() {
        let pool = pool();
        let (heard, _far) = put_idle(&pool).await;
        advance(IDLE).await;
        assert!(takes(&pool, &heard).await);
        let _far = put_idle(&pool).await;
        advance(IDLE + TICK).await;
        assert!(pool.take().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_given_back_lets_the_stale_ones_go() {
        let pool = pool();
        let _stale = (put_idle(&pool).await, put_idle(&pool).await);
        advance(TICK).await;
        let (fresh, _far) = put_idle(&pool).await;
        assert_eq!(idle(&pool), 3);
        advance(IDLE).await;
        let _newest = put_idle(&pool).await;
        assert_eq!(idle(&pool), 2);
        drop(pool.take().await);
        assert!(takes(&pool, &fresh).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_upstream_has_closed_is_neither_kept_nor_taken() {
        let pool = pool();
        let (heard, _far) = put_idle(&pool).await;
        let (_, gone) = put_idle(&pool).await;
        drop(gone);
        assert!(takes(&pool, &heard).await);
        assert_eq!(idle(&pool), 0);
        let (_, gone) = put_idle(&pool).await;
        let taken = pool.take().await.unwrap();
        drop(gone);
        until_closed(&taken).await;
        pool.lease(taken, None).give_back();
        assert_eq!(idle(&pool), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_retired_keeps_nothing() {
        let pool = pool();
        let (_, _far) = put_idle(&pool).await;
        let taken = pool.take().await.unwrap();
        let (_, _far_too) = put_idle(&pool).await;
        let _shared = share(&pool).await;
        pool.retire();
        assert_eq!(idle(&pool), 0);
        pool.lease(taken, None).give_back();
        assert_eq!(idle(&pool), 0);
        let _opened_late = share(&pool).await;
        assert!(pool.take().await.is_none());
    }
}
