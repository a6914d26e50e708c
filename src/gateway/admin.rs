//! What an operator does with a gateway: `/status`, `/metrics`, purges, reloads; and its background tasks.
//!
//! The status consists of counts and of words from closed sets: no id, no secret, no text of the upstream's.

use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;

use super::Gateway;
use super::invalidate::{self, Purge, PurgeError};
use super::runtime_config::RuntimeConfig;
use super::telemetry::history::{INTERVAL, Traffic};
use super::telemetry::metrics::{Gauges, RuleFigures};
use super::telemetry::outcome::Outcome;
use super::telemetry::{histogram::Histogram, wall_clock};
use crate::config::Config;
use crate::upstream::SetupError;

/// The result of a reload.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reload {
    /// When, in Unix seconds.
    at: f64,
    /// What was wrong, one line each; then the old configuration stays. Never contains a secret.
    problems: Vec<String>,
    /// The changed keys that take effect at a restart only.
    needs_restart: Vec<&'static str>,
}

/// A configuration that is ready to be swapped in.
#[derive(Debug)]
pub struct PreparedConfig(RuntimeConfig);

impl Gateway {
    /// Prepares `config`, without any effect yet.
    ///
    /// # Errors
    /// [`SetupError`] if the upstream's TLS cannot be prepared.
    pub fn prepare(&self, config: &Config) -> Result<PreparedConfig, SetupError> {
        let version = self.context.config.load().version + 1;
        RuntimeConfig::new(config, &self.context.metrics, version).map(PreparedConfig)
    }

    /// Swaps the configuration for requests that arrive from now on. Earlier requests and their fetches
    /// keep their configuration, and store nothing.
    pub fn swap_config(&self, prepared: PreparedConfig) {
        // Order matters: see `UpstreamFetch::start`.
        let before = self.context.config.swap(prepared.0.into());
        self.context.cache.fence_in_flight();
        before.upstream.retire();
        let now = wall_clock::unix_seconds();
        self.context.metrics.set_secrets_loaded(now);
    }

    /// Counts a reload, and keeps its result for the status: the keys that need a restart, or what was
    /// wrong.
    pub fn record_reload(&self, result: Result<Vec<&'static str>, Vec<String>>) {
        self.context.metrics.record_reload(result.is_ok());
        let (needs_restart, problems) = match result {
            Ok(keys) => (keys, Vec::new()),
            Err(problems) => (Vec::new(), problems),
        };
        let mut last = self.last_reload.lock();
        let last = last.as_deref_mut().unwrap_or_else(|error| error.get_mut());
        *last = Some(Reload {
            at: wall_clock::unix_seconds(),
            problems,
            needs_restart,
        });
    }

    /// Removes what a rule stored below these leading ids, and announces it to the fleet, if there is
    /// one.
    ///
    /// # Errors
    /// [`PurgeError`]; then nothing is removed.
    pub fn purge(&self, rule: &str, ids: &[&str]) -> Result<Purge, PurgeError> {
        invalidate::purge(&self.context, rule, ids)
    }

    /// Returns the OpenMetrics text for a scrape.
    pub fn metrics(&self) -> String {
        let gauges = self.gauges();
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let context = &self.context;
        gauges.cache_entries.set(signed(context.cache.entries()));
        gauges.cache_bytes.set(signed(context.cache.bytes()));
        let in_flight = context.limit.in_flight() as u64;
        gauges.upstream_in_flight.set(signed(in_flight));
        gauges.long_polls.set(signed(self.long_polls() as u64));
        context.metrics.encode()
    }

    /// Returns the figures for `/status`. They count since the start, except for the gauges and `history`.
    pub fn status(&self) -> Value {
        let context = &self.context;
        let config = context.config.load();
        let rules = context.metrics.rule_figures();
        let traffic = Traffic::of(&rules);
        let metrics = &context.metrics;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "polls": traffic.polls,
            "fetches": traffic.fetches,
            "history": self.history.status(),
            "rules": rules.iter().map(rule_status).collect::<Vec<_>>(),
            "latency": {
                "hit": percentiles(metrics.request_durations(Outcome::Hit)),
                "fetch": percentiles(metrics.fetch_durations()),
            },
            "cache": {
                "entries": context.cache.entries(),
                "bytes": context.cache.bytes(),
                "max_bytes": self.max_bytes,
            },
            "clients": config.configured_clients(),
            "long_polls": self.long_polls(),
            "active_keys": self.coalescer.active_keys(),
            "retry_after_blocks": config.retry_after_gate.len(),
            "in_flight": context.limit.in_flight(),
            "connections": self.gauges().connections.get(),
            "last_reload": self.reload_status(),
            "shared": context.cache.tier().map_or_else(
                || json!({ "state": "off" }),
                |tier| tier.status(),
            ),
        })
    }

    /// Returns the last reload. Null if there was none.
    fn reload_status(&self) -> Value {
        let last = self.last_reload.lock();
        let last = last.unwrap_or_else(PoisonError::into_inner).clone();
        last.map_or(Value::Null, |reload| {
            json!({
                "result": if reload.problems.is_empty() { "success" } else { "failure" },
                "timestamp_seconds": reload.at,
                "problems": reload.problems,
                "needs_restart": reload.needs_restart,
            })
        })
    }

    pub(crate) fn gauges(&self) -> &Gauges {
        &self.context.metrics.gauges
    }

    /// Adds a sample to the history at the end of each interval, until `end`. A late sample is taken at
    /// once, so that there are as many samples as intervals have passed.
    pub(crate) async fn record_history(self: Arc<Self>, end: CancellationToken) {
        let mut ends = interval_at(Instant::now() + INTERVAL, INTERVAL);
        while end.run_until_cancelled(ends.tick()).await.is_some() {
            let total = Traffic::of(&self.context.metrics.rule_figures());
            self.history.sample(total);
        }
    }

    /// Keeps the connection to the shared tier, if there is one, and applies its purges, until `end`.
    pub(crate) async fn sync_shared_tier(self: Arc<Self>, end: CancellationToken) {
        if let Some(tier) = self.context.cache.tier() {
            let gateway = Arc::clone(&self);
            let apply = move |scope| gateway.context.cache.apply_purge(&scope);
            Arc::clone(tier).run(end, apply).await;
        }
    }

    /// Returns when the first attempt to connect to the shared tier has ended, or soon.
    pub(crate) async fn shared_tier_tried(&self) {
        if let Some(tier) = self.context.cache.tier() {
            tier.first_attempt().await;
        }
    }
}

fn rule_status(figures: &RuleFigures) -> Value {
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
}

/// Returns percentiles in seconds, up to a third too high ([`Histogram::percentile`]). Null if there is no
/// observation.
fn percentiles(durations: &Histogram) -> Value {
    let seconds = |percent| durations.percentile(percent).map(|took| took.as_secs_f64());
    json!({
        "count": durations.count(),
        "p50_seconds": seconds(50),
        "p99_seconds": seconds(99),
    })
}
