//! What the gateway says of itself: a log line, metrics, the status; and a purge, which an operator
//! asks for in the same place.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};
use serde_json::json;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::metrics::Gauges;
use super::outcome::{Outcome, Record};
use super::setup::Setup;
use super::{Gateway, Refusal};
use crate::config::Access;
use crate::step::{NotStored, Scope};

/// Why nothing was purged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PurgeError {
    /// No rule has this name.
    #[error("there is no rule `{0}`")]
    NoRule(String),
    /// More ids than the rule's path has, which are so many.
    #[error("the paths of this rule have {0} ids; write /cache/RULE/ID[/ID…] with at most as many")]
    TooManyIds(usize),
}

/// How a request was answered.
pub(super) struct Told<'a> {
    pub(super) outcome: Outcome,
    pub(super) status: StatusCode,
    pub(super) refusal: Option<&'a Refusal>,
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

/// What a purge did.
#[derive(Debug)]
pub struct Purge {
    /// Bodies removed from this gateway's memory.
    pub purged: usize,
    /// Ends when the fleet knows; none without one.
    pub told: Option<oneshot::Receiver<()>>,
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
            | Outcome::Fetched
            | Outcome::Joined
            | Outcome::Waited => false,
            Outcome::Held | Outcome::Forwarded | Outcome::Refused | Outcome::Failed => true,
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
            Some(Refusal::Fetch(error)) => Some(tracing::field::display(Causes(&**error))),
            _ => None,
        };
        tracing::info!(
            outcome = outcome.as_str(),
            rule = record.rule.map(|rule| setup.rules[rule].name()),
            client = record.client.as_deref(),
            status = told.status.as_u16(),
            not_stored = record.not_stored.map(NotStored::as_str),
            code = refusal.map(Refusal::code),
            error,
            ms = milliseconds(told.took),
            fetch_ms = record.fetch.map(milliseconds),
            trace_id = trace_id(&head.headers),
            "{}",
            head.method,
        );
    }

    /// Removes what a rule stored below these leading ids, and tells the fleet, if there is one.
    ///
    /// # Errors
    /// [`PurgeError`]; nothing is removed then.
    pub fn purge(&self, rule: &str, ids: &[&str]) -> Result<Purge, PurgeError> {
        let setup = self.setup.load();
        let known = setup.rules.iter().find(|known| known.name() == rule);
        let known = known.ok_or_else(|| PurgeError::NoRule(rule.to_owned()))?;
        let most = known.path().parameters().count();
        if ids.len() > most {
            return Err(PurgeError::TooManyIds(most));
        }
        // First: what is read from the tier after the wall is up would be kept.
        let told = self.cache.tell(known.name(), ids);
        let purged = self.cache.purge(&Scope::below(known.name(), ids));
        tracing::info!(rule, ids = ids.len(), purged, "purged");
        Ok(Purge { purged, told })
    }

    /// OpenMetrics text, for a scrape.
    pub fn metrics(&self) -> String {
        let gauges = self.gauges();
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        gauges.cache_entries.set(signed(self.cache.entries()));
        gauges.cache_bytes.set(signed(self.cache.bytes()));
        gauges
            .in_flight
            .set(signed(self.book.berths().taken() as u64));
        let waiting = self.max_waiters - self.waiters.available_permits();
        gauges.waiters.set(signed(waiting as u64));
        self.metrics.encode()
    }

    /// What an operator wants to know at a glance.
    pub fn status(&self) -> serde_json::Value {
        let rules: Vec<_> = self
            .metrics
            .by_rule()
            .into_iter()
            .map(|figures| {
                let requests: serde_json::Map<_, _> = Outcome::ALL
                    .iter()
                    .map(|o| (o.as_str().to_owned(), figures.requests[o.index()].into()))
                    .collect();
                json!({
                    "rule": figures.rule,
                    "requests": requests,
                    "fetches": figures.fetches,
                    "polls_avoided": figures.polls_avoided,
                    "regressions": figures.regressions,
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "rules": rules,
            "cache": {
                "entries": self.cache.entries(),
                "bytes": self.cache.bytes(),
                "max_bytes": self.max_bytes,
            },
            "waiters": self.max_waiters - self.waiters.available_permits(),
            "steps_live": self.book.steps(),
            "holds": self.setup.load().holds.len(),
            "in_flight": self.book.berths().taken(),
            "connections": self.gauges().connections.get(),
            "last_reload": self.last_reload(),
            "shared": self.cache.tier().map_or_else(
                || json!({ "state": "off" }),
                |tier| tier.status(),
            ),
        })
    }

    pub(crate) fn gauges(&self) -> &Gauges {
        &self.metrics.gauges
    }
}

/// An error and what caused it, on one line.
struct Causes<'e>(&'e dyn Error);

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

pub(super) fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// The trace id of a W3C `traceparent`, if it is well formed.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let parent = headers.get("traceparent")?.to_str().ok()?;
    let id = parent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}
