//! What the gateway says of itself: a log line, metrics, the status; and a purge, which an operator
//! asks for in the same place.

use std::time::Duration;

use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use super::metrics::Gauges;
use super::outcome::{Outcome, Record};
use super::{Gateway, Refusal};
use crate::config::Access;
use crate::step::{NotStored, Scope};

impl Gateway {
    /// One line and the counters.
    pub(super) fn note(
        &self,
        head: &Parts,
        record: &Record,
        outcome: Outcome,
        status: StatusCode,
        arrived: Instant,
        refusal: Option<&Refusal>,
    ) {
        let took = arrived.elapsed();
        self.metrics.answered(record.rule, outcome, took);
        let cost_nothing = match outcome {
            Outcome::Hit | Outcome::Joined | Outcome::Waited | Outcome::Held => true,
            Outcome::Fetched | Outcome::Refused | Outcome::Failed => false,
        };
        let wanted = match self.access {
            Access::Off => false,
            Access::Upstream => !cost_nothing,
            Access::All => true,
        };
        if !wanted {
            return;
        }
        let error: Option<&dyn std::error::Error> = match refusal {
            Some(Refusal::Fetch(error)) => Some(error),
            _ => None,
        };
        tracing::info!(
            outcome = outcome.as_str(),
            rule = record.rule.map(|rule| self.setup.rules[rule].name()),
            client = record.client,
            status = status.as_u16(),
            not_stored = record.not_stored.map(NotStored::as_str),
            code = refusal.map(Refusal::code),
            error,
            ms = milliseconds(took),
            fetch_ms = record.fetch.map(milliseconds),
            trace_id = trace_id(&head.headers),
            "{}",
            head.method,
        );
    }

    /// Removes what a rule stored below these leading ids; `None`: there is no such rule.
    pub fn purge(&self, rule: &str, ids: &[&str]) -> Option<usize> {
        let known = self.setup.rules.iter().find(|known| known.name() == rule)?;
        let purged = self.cache.purge(&Scope::below(known.name(), ids));
        tracing::info!(rule, ids = ids.len(), purged, "purged");
        Some(purged)
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
        self.metrics.encode()
    }

    /// What an operator wants to know at a glance.
    pub fn status(&self) -> serde_json::Value {
        let rules: Vec<_> = self
            .metrics
            .by_rule()
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
            "holds": self.holds.len(),
            "in_flight": self.book.berths().taken(),
            "connections": self.gauges().connections.get(),
        })
    }

    pub(crate) fn gauges(&self) -> &Gauges {
        &self.metrics.gauges
    }
}

fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// The trace id of a W3C `traceparent`, if it is well formed.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let parent = headers.get("traceparent")?.to_str().ok()?;
    let id = parent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}
