//! What is counted. Labels are closed sets: rules, outcomes, reasons; never an id, never a text
//! from upstream.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::durations::Durations;
use super::history::History;
use super::outcome::Outcome;
use crate::cache::redis::SharedMetrics;
use crate::policy::NoStoreReason;
use crate::policy::rule::NO_RULE;

const OUTCOMES: usize = Outcome::ALL.len();

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
struct OfResult {
    result: &'static str,
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
    Cancelled,
}

impl Class {
    const ALL: [&'static str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "error", "cancelled"];

    fn index(self) -> usize {
        match self {
            Self::Status(status) => usize::from(status.as_u16() / 100).clamp(1, 5) - 1,
            Self::Error => 5,
            Self::Cancelled => 6,
        }
    }
}

/// One rule's counters, looked up once in a configuration's time.
#[derive(Debug)]
pub(super) struct RuleCounters {
    name: String,
    is_a_rules: bool,
    requests: [Counter; OUTCOMES],
    upstream: [Counter; 7],
    polls_avoided: Counter,
    regressions: Counter,
}

/// All counters of a gateway.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    families: Families,
    /// Of every rule that there has been, in the order of their coming.
    rules: Mutex<Vec<Arc<RuleCounters>>>,
    durations: [Durations; OUTCOMES],
    upstream_duration: Durations,
    not_stored: Vec<Counter>,
    /// Succeeded and failed.
    reloads: [Counter; 2],
    /// Of the shared tier, whether there is one or not.
    pub(super) shared: SharedMetrics,
    pub(super) history: History,
    /// Read at the moment of a scrape.
    pub(crate) gauges: Gauges,
}

/// What is counted by rule.
#[derive(Debug, Default)]
struct Families {
    requests: Family<ByOutcome, Counter>,
    upstream: Family<ByClass, Counter>,
    polls_avoided: Family<OfRule, Counter>,
    regressions: Family<OfRule, Counter>,
}

impl Families {
    /// Every series of a rule, at zero.
    fn of_rule(&self, name: &str) -> RuleCounters {
        let rule = || name.to_owned();
        let of = || OfRule { rule: rule() };
        RuleCounters {
            name: rule(),
            is_a_rules: name != NO_RULE,
            requests: Outcome::ALL.map(|outcome| {
                let outcome = outcome.as_str();
                let labels = ByOutcome {
                    rule: rule(),
                    outcome,
                };
                self.requests.get_or_create(&labels).clone()
            }),
            upstream: Class::ALL.map(|class| {
                let labels = ByClass {
                    rule: rule(),
                    class,
                };
                self.upstream.get_or_create(&labels).clone()
            }),
            polls_avoided: self.polls_avoided.get_or_create(&of()).clone(),
            regressions: self.regressions.get_or_create(&of()).clone(),
        }
    }
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
    /// Registers everything.
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("stepgate");
        let families = Families::default();
        let reloads = Family::<OfResult, Counter>::default();
        let not_stored = Family::<OfReason, Counter>::default();
        let durations = Family::<OfOutcome, Durations>::default();
        let upstream_duration = Durations::default();
        let gauges = Gauges::default();

        registry.register(
            "requests",
            "Requests by how they were answered",
            families.requests.clone(),
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
            families.upstream.clone(),
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
            families.polls_avoided.clone(),
        );
        registry.register(
            "regressions",
            "Steps found live again after they were final",
            families.regressions.clone(),
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
            "reloads",
            "Configurations and secrets read anew, by whether they could be used",
            reloads.clone(),
        );
        registry.register(
            "secrets_loaded_timestamp_seconds",
            "When the secrets in use were read, in seconds since 1970",
            gauges.secrets_loaded.clone(),
        );
        let shared = SharedMetrics::default();
        shared.register(&mut registry);
        let build = Family::<OfVersion, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&OfVersion { version }).set(1);
        registry.register("build_info", "The version that runs", build);

        Self {
            families,
            rules: Mutex::default(),
            reloads: ["success", "failure"]
                .map(|result| reloads.get_or_create(&OfResult { result }).clone()),
            durations: Outcome::ALL.map(|outcome| {
                durations
                    .get_or_create(&OfOutcome {
                        outcome: outcome.as_str(),
                    })
                    .clone()
            }),
            not_stored: NoStoreReason::ALL
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
            shared,
            history: History::default(),
            registry,
            gauges,
        }
    }

    /// A rule's counters; there from now on, though a later configuration may not have the rule.
    pub(super) fn of_rule(&self, name: &str) -> Arc<RuleCounters> {
        let mut rules = self.rules();
        if let Some(known) = rules.iter().find(|known| known.name == name) {
            return Arc::clone(known);
        }
        let counters = Arc::new(self.families.of_rule(name));
        rules.push(Arc::clone(&counters));
        counters
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Arc<RuleCounters>>> {
        // A push is whole or did not happen.
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answered(&self, of: &RuleCounters, outcome: Outcome, took: Duration) {
        of.requests[outcome.index()].inc();
        match outcome {
            Outcome::Hit | Outcome::SharedHit | Outcome::Coalesced | Outcome::LongPoll => {
                of.polls_avoided.inc();
            }
            Outcome::Miss
            | Outcome::RateLimited
            | Outcome::Bypass
            | Outcome::Rejected
            | Outcome::Error => {}
        }
        self.durations[outcome.index()].observe(took);
    }

    /// What was forwarded has no rule, and a length of its own: it is counted, not timed.
    pub(super) fn fetched(&self, of: &RuleCounters, class: Class, took: Duration) {
        of.upstream[class.index()].inc();
        if of.is_a_rules {
            self.upstream_duration.observe(took);
        }
    }

    pub(super) fn secrets_loaded(&self, at: f64) {
        self.gauges.secrets_loaded.set(at);
    }

    pub(super) fn reloaded(&self, succeeded: bool) {
        self.reloads[usize::from(!succeeded)].inc();
    }

    pub(super) fn not_stored(&self, reason: NoStoreReason) {
        let index = NoStoreReason::ALL.iter().position(|known| *known == reason);
        if let Some(counter) = index.and_then(|index| self.not_stored.get(index)) {
            counter.inc();
        }
    }

    /// OpenMetrics text.
    pub(super) fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }

    /// How long requests took that were answered so.
    pub(super) fn durations(&self, outcome: Outcome) -> &Durations {
        &self.durations[outcome.index()]
    }

    /// How long fetches took.
    pub(super) fn fetch_durations(&self) -> &Durations {
        &self.upstream_duration
    }

    /// The figures of every rule that there has been, and of none.
    pub(super) fn by_rule(&self) -> Vec<RuleFigures> {
        let figures = |counters: &Arc<RuleCounters>| RuleFigures {
            rule: counters.name.clone(),
            requests: counters.requests.each_ref().map(Counter::get),
            fetches: counters.upstream.iter().map(Counter::get).sum(),
            polls_avoided: counters.polls_avoided.get(),
            regressions: counters.regressions.get(),
        };
        self.rules().iter().map(figures).collect()
    }
}

impl RuleCounters {
    pub(super) fn regressed(&self) {
        self.regressions.inc();
    }
}

/// One rule's figures, for the status.
pub(super) struct RuleFigures {
    pub(super) rule: String,
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
