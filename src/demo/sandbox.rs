//! A stand-in for the upstream: run steps over real HTTP, without a key and without a cost.
//!
//! It owns what an outsider sees of the real service: paths, wire form, sizes, latency, errors. Any
//! id works: a step comes to be on its first poll, is in progress for a while and ends. All of it
//! follows from the ids, so that tests know each body beforehand; time alone decides which one it
//! is, and a test may decide that instead. It refuses whoever lacks the injected credentials, and
//! forwards nothing anywhere.

mod body;
mod schema;
mod server;
mod step_spec;
mod step_store;
mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderMap;
use hyper::{Method, Uri};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::body::Ids;
use self::server::Shared;
pub use self::step_spec::Status;

/// How the sandbox behaves. The default is a test's: no latency, nothing recorded.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a step is in progress from its first poll; its id decides where in the range.
    pub lifetime: RangeInclusive<Duration>,
    /// The median time to an answer, jittered; zero: at once.
    pub latency: Duration,
    /// Whether request heads are kept for [`Sandbox::heads`].
    pub record: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(2)..=Duration::from_secs(8),
            latency: Duration::ZERO,
            record: false,
        }
    }
}

impl Settings {
    /// Like the real service, seen from another continent; steps a little hastier than real ones,
    /// so that whoever watches sees them end.
    pub fn wan() -> Self {
        Self {
            lifetime: Duration::from_secs(1)..=Duration::from_secs(6),
            latency: Duration::from_millis(120),
            ..Self::default()
        }
    }
}

/// A request as it arrived, without its body.
#[derive(Debug, Clone)]
pub struct Head {
    /// `GET`
    pub method: Method,
    /// Path and query, as they came.
    pub uri: Uri,
    /// Everything that was sent, in lower case.
    pub headers: HeaderMap,
}

/// A running sandbox. Dropping it ends it.
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<Shared>,
    tracker: TaskTracker,
    stop: DropGuard,
}

impl Sandbox {
    /// Binds a free loopback port and serves from now on.
    ///
    /// # Errors
    /// That no port could be bound.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(settings));
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        tracker.spawn(server::accept(
            listener,
            Arc::clone(&shared),
            tracker.clone(),
            token.clone(),
        ));
        Ok(Self {
            address,
            shared,
            tracker,
            stop: token.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a gateway takes as its upstream.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Requests that arrived so far, of every kind.
    pub fn fetches(&self) -> u64 {
        self.shared.fetches()
    }

    /// Requests for this step that arrived so far, on whatever thread and run.
    pub fn fetches_of(&self, step: &str) -> u64 {
        self.shared.book().fetches(step)
    }

    /// The latest request heads, oldest first; empty unless [`Settings::record`].
    pub fn heads(&self) -> Vec<Head> {
        self.shared.heads().iter().cloned().collect()
    }

    /// Puts the step there for good, whatever its time; it need not have been polled.
    pub fn finish(&self, step: &str, status: Status) {
        self.shared.book().steer(step, status);
    }

    /// Keeps the step in progress until [`finish`](Self::finish).
    pub fn hold_live(&self, step: &str) {
        self.finish(step, Status::InProgress);
    }

    /// Where the step stands now.
    pub fn status(&self, step: &str) -> Status {
        self.shared.book().status(step, Instant::now())
    }

    /// The body that an answer decided now would carry; `include` is whether `include[]` asks for
    /// content. A final step's never changes.
    pub fn expected_body(&self, thread: &str, run: &str, step: &str, include: bool) -> Bytes {
        self.shared.body(Ids { thread, run, step }, include)
    }

    /// The body of a step that stands there, on any sandbox.
    pub fn body_as(thread: &str, run: &str, step: &str, status: Status, include: bool) -> Bytes {
        body::written(&body::step(Ids { thread, run, step }, status, include))
    }

    /// Ends every connection and waits until nothing runs any more.
    pub async fn stop(self) {
        drop(self.stop);
        self.tracker.close();
        self.tracker.wait().await;
    }
}
