//! The log lines: one a fetch, one a request. Both have the same fields in the same order, as text and
//! as JSON; a field that does not apply is left out.
//!
//! No line has a body or a header. Ids are in a line only if `log.ids` is set or the level is debug. Texts
//! of the upstream's and the client's are escaped where they are written.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;
use tracing::Level;

use super::metrics::Metrics;
use super::outcome::Outcome;
use super::trace_context::trace_id;
use crate::config::Access;
use crate::gateway::error::GatewayError;
use crate::gateway::runtime_config::RuntimeConfig;
use crate::policy::route::Ids;
use crate::policy::{NoStoreReason, Route};

/// What the log line and the metrics of one request say, filled in on its way.
#[derive(Debug)]
pub(crate) struct RequestLog {
    arrived: Instant,
    /// The index of the rule.
    pub(crate) rule: Option<usize>,
    pub(crate) client: Option<Arc<str>>,
    pub(crate) not_stored: Option<NoStoreReason>,
    /// How long the fetch took that answered the request.
    pub(crate) fetch_time: Option<Duration>,
}

impl RequestLog {
    pub(crate) fn new(arrived: Instant) -> Self {
        Self {
            arrived,
            rule: None,
            client: None,
            not_stored: None,
            fetch_time: None,
        }
    }

    /// Counts the request, and writes its line if `log.access` asks for one. A fetch has a line of its
    /// own, so with `log.access = "upstream"` only other requests have one here.
    pub(crate) fn finish(
        &self,
        metrics: &Metrics,
        config: &RuntimeConfig,
        head: &Parts,
        outcome: Outcome,
        status: StatusCode,
        error: Option<&GatewayError>,
    ) {
        let took = self.arrived.elapsed();
        metrics.record_request(config.counters(self.rule), outcome, took);
        let has_fetch_line = match outcome {
            Outcome::Hit
            | Outcome::SharedHit
            | Outcome::Miss
            | Outcome::Coalesced
            | Outcome::LongPoll => true,
            Outcome::RateLimited | Outcome::Bypass | Outcome::Rejected | Outcome::Error => false,
        };
        let wanted = match config.access_log {
            Access::Off => false,
            Access::Upstream => !has_fetch_line,
            Access::All => true,
        };
        if !wanted {
            return;
        }
        let cause = error.and_then(GatewayError::fetch_error);
        let path = head.uri.path();
        let (ids, path) = match Route::parse(&config.rules, path) {
            _ if !shows_ids(config) => (None, None),
            Route::Resource { ids, .. } | Route::List { ids, .. } => (Some(joined(&ids)), None),
            Route::Invalid(_) | Route::Other => (None, Some(path)),
        };
        tracing::info!(
            outcome = outcome.as_str(),
            rule = self.rule.map(|rule| config.rules[rule].name()),
            client = self.client.as_deref(),
            ids = ids.map(display),
            path = path.map(display),
            status = status.as_u16(),
            not_stored = self.not_stored.map(NoStoreReason::as_str),
            code = error.map(GatewayError::code),
            error = cause.map(|error| display(ErrorChain(error))),
            ms = milliseconds(took),
            fetch_ms = self.fetch_time.map(milliseconds),
            trace_id = trace_id(&head.headers).map(display),
            "{}",
            method_name(&head.method),
        );
    }
}

/// How a fetch ended.
pub(crate) enum FetchEnd<'a> {
    /// With a response, and whether it was stored.
    Response(StatusCode, Result<(), NoStoreReason>),
    Failed(&'a (dyn Error + 'static)),
    /// No request waited any more.
    Cancelled,
    /// The last deadline of the requests that waited had passed.
    TimedOut,
}

/// What the line of one fetch says.
pub(crate) struct FetchLog<'a> {
    pub(crate) config: &'a RuntimeConfig,
    /// The rule's name. `None` for a forwarded request.
    pub(crate) rule: Option<&'a str>,
    pub(crate) client: Option<&'a str>,
    pub(crate) ids: Option<Ids<'a>>,
    /// The headers of the request that started the fetch.
    pub(crate) headers: &'a HeaderMap,
}

impl FetchLog<'_> {
    pub(crate) fn write(&self, end: &FetchEnd<'_>, took: Duration) {
        if self.config.access_log == Access::Off {
            return;
        }
        let (status, stored, error): (_, _, Option<&dyn fmt::Display>) = match end {
            FetchEnd::Response(status, stored) => (Some(status.as_u16()), *stored, None),
            FetchEnd::Failed(error) => (None, Ok(()), Some(&ErrorChain(*error))),
            FetchEnd::Cancelled => (None, Ok(()), Some(&"cancelled: no waiters left")),
            FetchEnd::TimedOut => (None, Ok(()), Some(&"deadline exceeded")),
        };
        let ids = self.ids.as_ref().filter(|_| shows_ids(self.config));
        tracing::info!(
            rule = self.rule,
            client = self.client,
            ids = ids.map(joined).map(display),
            status,
            not_stored = stored.err().map(NoStoreReason::as_str),
            error = error.map(display),
            ms = milliseconds(took),
            trace_id = trace_id(self.headers).map(display),
            "fetch",
        );
    }
}

/// Returns the method, cut at the length of the longest method with a meaning: the client chooses it.
fn method_name(method: &Method) -> &str {
    const LONGEST: usize = 20;
    method.as_str().get(..LONGEST).unwrap_or(method.as_str())
}

/// Returns whether lines carry ids. They name customers' resources, so only if the operator asks for it.
pub(crate) fn shows_ids(config: &RuntimeConfig) -> bool {
    config.log_ids || tracing::enabled!(Level::DEBUG)
}

fn joined(ids: &Ids<'_>) -> String {
    ids.join("/")
}

/// Displays an error and its causes on one line.
struct ErrorChain<'e>(&'e (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}
