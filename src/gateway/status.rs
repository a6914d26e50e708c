//! What an operator wants to know at a glance. Counts and closed words: no id, no secret, no text from
//! upstream.

use serde_json::{Value, json};

use super::Gateway;
use super::durations::Durations;
use super::history::Traffic;
use super::metrics::RuleFigures;
use super::outcome::Outcome;

impl Gateway {
    /// The figures, as an object; all since the start, but for what is now and for `history`.
    pub fn status(&self) -> Value {
        let setup = self.setup.load();
        let rules = self.metrics.by_rule();
        let traffic = Traffic::of(&rules);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "polls": traffic.polls,
            "fetches": traffic.fetches,
            "history": self.metrics.history.status(),
            "rules": rules.iter().map(of_rule).collect::<Vec<_>>(),
            "latency": {
                "hit": percentiles(self.metrics.durations(Outcome::Hit)),
                "fetch": percentiles(self.metrics.fetch_durations()),
            },
            "cache": {
                "entries": self.cache.entries(),
                "bytes": self.cache.bytes(),
                "max_bytes": self.max_bytes,
            },
            "clients": setup.clients(),
            "long_polls": self.max_long_polls - self.waiters.available_permits(),
            "active_keys": self.book.steps(),
            "retry_after_blocks": setup.holds.len(),
            "in_flight": self.book.berths().taken(),
            "connections": self.gauges().connections.get(),
            "last_reload": self.last_reload(),
            "shared": self.cache.tier().map_or_else(
                || json!({ "state": "off" }),
                |tier| tier.status(),
            ),
        })
    }
}

fn of_rule(figures: &RuleFigures) -> Value {
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

/// In seconds, up to a third too long ([`Durations::percentile`]); null where there is nothing to tell.
fn percentiles(durations: &Durations) -> Value {
    let seconds = |percent| durations.percentile(percent).map(|took| took.as_secs_f64());
    json!({
        "count": durations.count(),
        "p50_seconds": seconds(50),
        "p99_seconds": seconds(99),
    })
}
