//! The lines of the log: one a fetch, one a request. Their fields have the same names and the same
//! order in both, as text and as JSON; what does not apply is left out.
//!
//! No body and no header is in them, and ids only where the operator wants them. What an error or
//! the caller says is escaped where it is written.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;
use tracing::Level;
use tracing::field::display;

use super::news::Errand;
use super::outcome::{Outcome, Record};
use super::setup::Setup;
use super::trace::trace_id;
use super::{Gateway, GatewayError};
use crate::config::Access;
use crate::policy::route::Ids;
use crate::policy::{NoStoreReason, Route};

/// How a request was answered.
pub(super) struct Told<'a> {
    pub(super) outcome: Outcome,
    pub(super) status: StatusCode,
    pub(super) refusal: Option<&'a GatewayError>,
    /// From its head to the answer's.
    pub(super) took: Duration,
}

impl Told<'_> {
    /// Of a request that `arrived` then and is answered now.
    pub(super) fn of(outcome: Outcome, status: StatusCode, arrived: Instant) -> Self {
        Self {
            outcome,
            status,
            refusal: None,
            took: arrived.elapsed(),
        }
    }
}

/// How a fetch ended.
pub(super) enum Ended<'a> {
    /// With an answer, which was stored or not.
    Answered(StatusCode, Result<(), NoStoreReason>),
    /// Without one.
    Failed(&'a (dyn Error + 'static)),
    /// Everybody who waited for it had left, or had an answer already.
    Dropped,
    /// The last deadline of those who waited for it had passed.
    Late,
}

impl Gateway {
    /// A request's line, where it is wanted, and the counters. A fetch has a line of its own, so here
    /// `log.access = "upstream"` means what was forwarded or went wrong.
    pub(super) fn note(&self, setup: &Setup, head: &Parts, record: &Record, told: &Told<'_>) {
        let (outcome, refusal) = (told.outcome, told.refusal);
        self.metrics
            .answered(setup.counters(record.rule), outcome, told.took);
        let is_the_only_line = match outcome {
            Outcome::Hit
            | Outcome::SharedHit
            | Outcome::Miss
            | Outcome::Coalesced
            | Outcome::LongPoll => false,
            Outcome::RateLimited | Outcome::Bypass | Outcome::Rejected | Outcome::Error => true,
        };
        let wanted = match setup.access {
            Access::Off => false,
            Access::Upstream => is_the_only_line,
            Access::All => true,
        };
        if !wanted {
            return;
        }
        let error = match refusal {
            Some(GatewayError::Fetch(error)) => Some(display(Causes(&**error))),
            _ => None,
        };
        let path = head.uri.path();
        let (ids, path) = match Route::parse(&setup.rules, path) {
            _ if !shows_ids(setup) => (None, None),
            Route::Resource { ids, .. } | Route::List { ids, .. } => (Some(joined(&ids)), None),
            Route::Invalid(_) | Route::Other => (None, Some(path)),
        };
        tracing::info!(
            outcome = outcome.as_str(),
            rule = record.rule.map(|rule| setup.rules[rule].name()),
            client = record.client.as_deref(),
            ids = ids.map(display),
            path = path.map(display),
            status = told.status.as_u16(),
            not_stored = record.not_stored.map(NoStoreReason::as_str),
            code = refusal.map(GatewayError::code),
            error,
            ms = milliseconds(told.took),
            fetch_ms = record.fetch.map(milliseconds),
            trace_id = trace_id(&head.headers).map(display),
            "{}",
            word(&head.method),
        );
    }
}

impl Errand {
    /// The line of a fetch that was for it.
    pub(super) fn note(&self, ended: &Ended<'_>, took: Duration) {
        let sent = Sent {
            setup: &self.setup,
            rule: Some(self.rule().name()),
            client: self.account.name.as_deref(),
            ids: Some(self.ids()),
            headers: &self.passing,
        };
        sent.note(ended, took);
    }
}

/// What went up.
pub(super) struct Sent<'a> {
    pub(super) setup: &'a Setup,
    pub(super) rule: Option<&'a str>,
    pub(super) client: Option<&'a str>,
    pub(super) ids: Option<Ids<'a>>,
    /// Of the caller that caused it.
    pub(super) headers: &'a HeaderMap,
}

impl Sent<'_> {
    /// The line of a fetch.
    pub(super) fn note(&self, ended: &Ended<'_>, took: Duration) {
        if self.setup.access == Access::Off {
            return;
        }
        let (status, stored, error): (_, _, Option<&dyn fmt::Display>) = match ended {
            Ended::Answered(status, stored) => (Some(status.as_u16()), *stored, None),
            Ended::Failed(error) => (None, Ok(()), Some(&Causes(*error))),
            Ended::Dropped => (None, Ok(()), Some(&"cancelled: no waiters left")),
            Ended::Late => (None, Ok(()), Some(&"deadline passed")),
        };
        let ids = self
            .ids
            .as_ref()
            .filter(|_| shows_ids(self.setup))
            .map(joined);
        tracing::info!(
            rule = self.rule,
            client = self.client,
            ids = ids.map(display),
            status,
            not_stored = stored.err().map(NoStoreReason::as_str),
            error = error.map(display),
            ms = milliseconds(took),
            trace_id = trace_id(self.headers).map(display),
            "fetch",
        );
    }
}

/// As long as any method that has a meaning: it is the caller's to choose.
fn word(method: &Method) -> &str {
    const LONGEST: usize = 20;
    method.as_str().get(..LONGEST).unwrap_or(method.as_str())
}

/// Whether lines carry ids: they name customers' threads, so only if asked for.
pub(super) fn shows_ids(setup: &Setup) -> bool {
    setup.log_ids || tracing::enabled!(Level::DEBUG)
}

fn joined(ids: &Ids<'_>) -> String {
    ids.join("/")
}

/// An error and what caused it, on one line.
struct Causes<'e>(&'e (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
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
