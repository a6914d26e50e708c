//! What is counted. Labels are closed sets: rules, outcomes, reasons; never an id, never a text
//! from upstream.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::outcome::Outcome;
use super::wall_clock;
use crate::step::rule::NO_RULE;
use crate::step::{NotStored, Rule};

const OUTCOMES: usize = Outcome::ALL.len();

/// From a hit in memory (tens of microseconds) to a deadline (a minute).
const SECONDS: [f64; 16] = [
    0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 60.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    rule: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByClass {
    rule: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRule {
    rule: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVersion {
    version: &'static str,
}

/// How an upstream answered, for the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Status(hyper::StatusCode),
    /// It failed.
    Error,
    /// Everybody had left, or had an answer already.
    Dropped,
}

impl Class {
    const ALL: [&'static str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "error", "dropped"];

    fn index(self) -> usize {
        match self {
            Self::Status(status) => usize::from(status.as_u16() / 100).clamp(1, 5) - 1,
            Self::Error => 5,
            Self::Dropped => 6,
        }
    }
}

/// One rule's counters, looked up once.
#[derive(Debug)]
struct RuleCounters {
    name: String,
    requests: [Counter; OUTCOMES],
    upstream: [Counter; 7],
    polls_avoided: Counter,
    regressions: Counter,
}

/// All counters of a gateway.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    /// One a rule, then one for [`NO_RULE`].
    rules: Vec<RuleCounters>,
    durations: [Histogram; OUTCOMES],
    upstream_duration: Histogram,
    not_stored: Vec<Counter>,
    /// Read at the moment of a scrape.
    pub(crate) gauges: Gauges,
}

/// What is now, rather than what was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauges {
    pub(crate) cache_entries: Gauge,
    pub(crate) cache_bytes: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) in_flight: Gauge,
    pub(crate) waiters: Gauge,
    secrets_loaded: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Registers everything; a rule has its series from the start, at zero.
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut registry = Registry::with_prefix("stepgate");
        let requests = Family::<ByOutcome, Counter>::default();
        let upstream = Family::<ByClass, Counter>::default();
        let avoided = Family::<OfRule, Counter>::default();
        let regressions = Family::<OfRule, Counter>::default();
        let not_stored = Family::<OfReason, Counter>::default();
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let durations = Family::<OfOutcome, Histogram>::new_with_constructor(histogram);
        let upstream_duration = histogram();
        let gauges = Gauges::default();

        registry.register(
            "requests",
            "Requests by how they were answered",
            requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "From a request's head to the head of its answer",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register(
            "upstream_requests",
            "Fetches by how they ended",
            upstream.clone(),
        );
        registry.register_with_unit(
            "upstream_duration",
            "From a fetch's departure to the end of its body, or of what is held of it",
            Unit::Seconds,
            upstream_duration.clone(),
        );
        registry.register(
            "not_stored",
            "Answers not stored, by reason",
            not_stored.clone(),
        );
        registry.register(
            "polls_avoided",
            "Requests that cost no fetch of their own",
            avoided.clone(),
        );
        registry.register(
            "regressions",
            "Steps found live again after they were final",
            regressions.clone(),
        );
        registry.register(
            "cache_entries",
            "Steps of which a final body is stored",
            gauges.cache_entries.clone(),
        );
        registry.register(
            "cache_bytes",
            "Bytes of bodies, keys and overhead stored",
            gauges.cache_bytes.clone(),
        );
        registry.register(
            "connections",
            "Connections open on the data listeners",
            gauges.connections.clone(),
        );
        registry.register("in_flight", "Fetches under way", gauges.in_flight.clone());
        registry.register(
            "waiters",
            "Requests held by their wait preference",
            gauges.waiters.clone(),
        );
        registry.register(
            "secrets_loaded_timestamp_seconds",
            "When the secrets in use were read, in seconds since 1970",
            gauges.secrets_loaded.clone(),
        );
        let build = Family::<OfVersion, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&OfVersion { version }).set(1);
        registry.register("build_info", "The version that runs", build);

        // Secrets are read right before a gateway is built.
        gauges.secrets_loaded.set(wall_clock::seconds_since_1970());
        let names = rules.iter().map(Rule::name).chain([NO_RULE]);
        Self {
            rules: names
                .map(|name| {
                    let rule = || name.to_owned();
                    let of = || OfRule { rule: rule() };
                    RuleCounters {
                        name: rule(),
                        requests: Outcome::ALL.map(|outcome| {
                            let labels = ByOutcome {
                                rule: rule(),
                                outcome: outcome.as_str(),
                            };
                            requests.get_or_create(&labels).clone()
                        }),
                        upstream: Class::ALL.map(|class| {
                            upstream
                                .get_or_create(&ByClass {
                                    rule: rule(),
                                    class,
                                })
                                .clone()
                        }),
                        polls_avoided: avoided.get_or_create(&of()).clone(),
                        regressions: regressions.get_or_create(&of()).clone(),
                    }
                })
                .collect(),
            durations: Outcome::ALL.map(|outcome| {
                durations
                    .get_or_create(&OfOutcome {
                        outcome: outcome.as_str(),
                    })
                    .clone()
            }),
            not_stored: NotStored::ALL
                .iter()
                .map(|reason| {
                    not_stored
                        .get_or_create(&OfReason {
                            reason: reason.as_str(),
                        })
                        .clone()
                })
                .collect(),
            upstream_duration,
            registry,
            gauges,
        }
    }

    fn of_rule(&self, rule: Option<usize>) -> Option<&RuleCounters> {
        rule.and_then(|index| self.rules.get(index))
            .or(self.rules.last())
    }

    pub(super) fn answered(&self, rule: Option<usize>, outcome: Outcome, took: Duration) {
        if let Some(counters) = self.of_rule(rule) {
            counters.requests[outcome.index()].inc();
            match outcome {
                Outcome::Hit | Outcome::Joined | Outcome::Waited => {
                    counters.polls_avoided.inc();
                }
                Outcome::Fetched | Outcome::Held | Outcome::Refused | Outcome::Failed => {}
            }
        }
        self.durations[outcome.index()].observe(took.as_secs_f64());
    }

    pub(super) fn fetched(&self, rule: usize, class: Class, took: Duration) {
        if let Some(counters) = self.of_rule(Some(rule)) {
            counters.upstream[class.index()].inc();
        }
        self.upstream_duration.observe(took.as_secs_f64());
    }

    pub(super) fn not_stored(&self, reason: NotStored) {
        let index = NotStored::ALL.iter().position(|known| *known == reason);
        if let Some(counter) = index.and_then(|index| self.not_stored.get(index)) {
            counter.inc();
        }
    }

    pub(super) fn regressed(&self, rule: usize) {
        if let Some(counters) = self.of_rule(Some(rule)) {
            counters.regressions.inc();
        }
    }

    /// OpenMetrics text.
    pub(super) fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }

    /// Name, requests by outcome, fetches, and polls avoided of each rule (the last: of none).
    pub(super) fn by_rule(&self) -> impl Iterator<Item = RuleFigures<'_>> {
        self.rules.iter().map(|counters| RuleFigures {
            rule: &counters.name,
            requests: counters.requests.each_ref().map(Counter::get),
            fetches: counters.upstream.iter().map(Counter::get).sum(),
            polls_avoided: counters.polls_avoided.get(),
            regressions: counters.regressions.get(),
        })
    }
}

/// One rule's figures, for the status.
pub(super) struct RuleFigures<'a> {
    pub(super) rule: &'a str,
    pub(super) requests: [u64; OUTCOMES],
    pub(super) fetches: u64,
    pub(super) polls_avoided: u64,
    pub(super) regressions: u64,
}

/// Counts something that is there for as long as this is.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Arc<Self> {
        gauge.inc();
        Arc::new(Self(gauge.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
