//! Plays the upstream: run steps over real HTTP, without a key and without cost.
//!
//! The sandbox looks like the real service from outside: paths, wire format, sizes, latency, errors.
//! Any id works. A step is created by its first poll, is in progress for a while and then ends. All of
//! this follows from the ids, so a test can compute each body. Only time decides the status, and a test
//! can set the status instead. Requests without the injected credentials are refused. Nothing is
//! forwarded.

mod body;
mod http;
mod server;
mod step_spec;
mod step_store;

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
use self::server::State;
pub use self::step_spec::Status;

/// Sets how the sandbox behaves. The default suits tests: no latency, and no recorded requests.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a step is in progress after its first poll. The id decides where in the range.
    pub lifetime: RangeInclusive<Duration>,
    /// The median time to a response, with jitter. Zero: responses come at once.
    pub latency: Duration,
    /// Whether requests are kept for [`Sandbox::recorded_requests`].
    pub record_requests: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(2)..=Duration::from_secs(8),
            latency: Duration::ZERO,
            record_requests: false,
        }
    }
}

impl Settings {
    /// Returns the latency of the real service from another continent. Steps end a little faster than
    /// real ones, so that a user of the demo sees them end.
    pub fn wan() -> Self {
        Self {
            lifetime: Duration::from_secs(1)..=Duration::from_secs(6),
            latency: Duration::from_millis(120),
            ..Self::default()
        }
    }
}

/// Holds a request as it arrived, without its body.
#[derive(Debug, Clone)]
pub struct RecordedRequest {
    /// The method.
    pub method: Method,
    /// Path and query, byte for byte.
    pub uri: Uri,
    /// All headers, with names in lower case.
    pub headers: HeaderMap,
}

/// Runs a sandbox until it is dropped.
pub struct Sandbox {
    address: SocketAddr,
    state: Arc<State>,
    tracker: TaskTracker,
    stop: DropGuard,
}

impl Sandbox {
    /// Binds a free loopback port and starts to serve.
    ///
    /// # Errors
    /// Returns an error if no port can be bound.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::new(settings));
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        tracker.spawn(server::accept(
            listener,
            Arc::clone(&state),
            tracker.clone(),
            token.clone(),
        ));
        Ok(Self {
            address,
            state,
            tracker,
            stop: token.drop_guard(),
        })
    }

    /// Returns the address that the sandbox listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the `upstream.base_url` of a gateway in front of the sandbox.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Returns how many requests of any kind arrived so far.
    pub fn request_count(&self) -> u64 {
        self.state.request_count()
    }

    /// Returns how many polls of this step arrived so far, on any thread and run.
    pub fn polls_of(&self, step: &str) -> u64 {
        self.state.steps().polls_of(step)
    }

    /// Returns the latest requests, oldest first. Empty unless [`Settings::record_requests`] is set.
    pub fn recorded_requests(&self) -> Vec<RecordedRequest> {
        self.state.recorded().iter().cloned().collect()
    }

    /// Sets the status of the step, whatever its age, until the next call. The step need not have been
    /// polled.
    pub fn set_status(&self, step: &str, status: Status) {
        self.state.steps().set_status(step, status);
    }

    /// Returns the current status of the step.
    pub fn status(&self, step: &str) -> Status {
        self.state.steps().status(step, Instant::now())
    }

    /// Returns the body that a response would have now. `include` says whether `include[]` asks for
    /// content. The body of a final step never changes.
    pub fn current_body(&self, thread: &str, run: &str, step: &str, include: bool) -> Bytes {
        self.state.body(Ids { thread, run, step }, include)
    }

    /// Returns the body of a step with this status, on any sandbox.
    pub fn body_for(thread: &str, run: &str, step: &str, status: Status, include: bool) -> Bytes {
        body::to_json(&body::step(Ids { thread, run, step }, status, include))
    }

    /// Closes every connection and waits until all tasks have ended.
    pub async fn stop(self) {
        drop(self.stop);
        self.tracker.close();
        self.tracker.wait().await;
    }
}
