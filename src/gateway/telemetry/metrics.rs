//! The metrics. Labels are closed sets (rules, outcomes, classes, reasons): never an id, never a text
//! of the upstream's.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::Histogram;
use super::outcome::Outcome;
use crate::cache::redis::SharedMetrics;
use crate::policy::NoStoreReason;
use crate::policy::rule::NO_RULE;

const OUTCOMES: usize = Outcome::ALL.len();

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleOutcomeLabels {
    rule: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleClassLabels {
    rule: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    rule: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    version: &'static str,
}

/// How a fetch ended, as the label `class`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchClass {
    /// The fetch brought a response.
    Status(hyper::StatusCode),
    /// The fetch brought no response.
    Error,
    /// No request waited any more.
    Cancelled,
}

impl FetchClass {
    const ALL: [&'static str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "error", "cancelled"];

    fn index(self) -> usize {
        match self {
            Self::Status(status) => usize::from(status.as_u16() / 100).clamp(1, 5) - 1,
            Self::Error => 5,
            Self::Cancelled => 6,
        }
    }
}

/// The counters of one rule, looked up once a configuration.
#[derive(Debug)]
pub(crate) struct RuleCounters {
    name: String,
    is_rule: bool,
    requests: [Counter; OUTCOMES],
    upstream: [Counter; 7],
    polls_avoided: Counter,
    regressions: Counter,
}

/// All metrics of a gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    families: Families,
    /// The counters of every rule since the start, in the order of their appearance.
    rules: Mutex<Vec<Arc<RuleCounters>>>,
    durations: [Histogram; OUTCOMES],
    upstream_duration: Histogram,
    not_stored: Vec<Counter>,
    /// Successes, then failures.
    reloads: [Counter; 2],
    /// The counters of the shared tier, whether one is configured or not.
    pub(crate) shared: SharedMetrics,
    /// Set at a scrape.
    pub(crate) gauges: Gauges,
}

/// The families with a label `rule`.
#[derive(Debug, Default)]
struct Families {
    requests: Family<RuleOutcomeLabels, Counter>,
    upstream: Family<RuleClassLabels, Counter>,
    polls_avoided: Family<RuleLabels, Counter>,
    regressions: Family<RuleLabels, Counter>,
}

impl Families {
    /// Creates every series of a rule, at zero.
    fn create(&self, name: &str) -> RuleCounters {
        let rule = || name.to_owned();
        let of = || RuleLabels { rule: rule() };
        RuleCounters {
            name: rule(),
            is_rule: name != NO_RULE,
            requests: Outcome::ALL.map(|outcome| {
                let outcome = outcome.as_str();
                let labels = RuleOutcomeLabels {
                    rule: rule(),
                    outcome,
                };
                self.requests.get_or_create(&labels).clone()
            }),
            upstream: FetchClass::ALL.map(|class| {
                let labels = RuleClassLabels {
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

/// The gauges.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauges {
    pub(crate) cache_entries: Gauge,
    pub(crate) cache_bytes: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) upstream_in_flight: Gauge,
    pub(crate) long_polls: Gauge,
    secrets_loaded: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Registers every metric.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("stepgate");
        let families = Families::default();
        let reloads = Family::<ResultLabels, Counter>::default();
        let not_stored = Family::<ReasonLabels, Counter>::default();
        let durations = Family::<OutcomeLabels, Histogram>::default();
        let upstream_duration = Histogram::default();
        let gauges = Gauges::default();

        registry.register(
            "requests",
            "Requests by how they were answered",
            families.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "From the end of a request's head to the head of its response",
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
            "From the start of a fetch to the end of its body, or of the part that is buffered",
            Unit::Seconds,
            upstream_duration.clone(),
        );
        registry.register(
            "not_stored",
            "Responses not stored, by reason",
            not_stored.clone(),
        );
        registry.register(
            "polls_avoided",
            "Requests answered without a fetch of their own",
            families.polls_avoided.clone(),
        );
        registry.register(
            "final_regressions",
            "Resources found live again after they were final",
            families.regressions.clone(),
        );
        registry.register(
            "cache_entries",
            "Resources with a stored body",
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
        registry.register(
            "upstream_in_flight",
            "Fetches in flight",
            gauges.upstream_in_flight.clone(),
        );
        registry.register(
            "long_polls",
            "Requests that wait because of `Prefer: wait`",
            gauges.long_polls.clone(),
        );
        registry.register(
            "reloads",
            "Reloads of the configuration and its secrets, by result",
            reloads.clone(),
        );
        registry.register(
            "secrets_loaded_timestamp_seconds",
            "When the secrets in use were read, in Unix seconds",
            gauges.secrets_loaded.clone(),
        );
        let shared = SharedMetrics::default();
        shared.register(&mut registry);
        let build = Family::<VersionLabels, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&VersionLabels { version }).set(1);
        registry.register("build_info", "The running version", build);

        Self {
            families,
            rules: Mutex::default(),
            reloads: ["success", "failure"]
                .map(|result| reloads.get_or_create(&ResultLabels { result }).clone()),
            durations: Outcome::ALL.map(|outcome| {
                durations
                    .get_or_create(&OutcomeLabels {
                        outcome: outcome.as_str(),
                    })
                    .clone()
            }),
            not_stored: NoStoreReason::ALL
                .iter()
                .map(|reason| {
                    not_stored
                        .get_or_create(&ReasonLabels {
                            reason: reason.as_str(),
                        })
                        .clone()
                })
                .collect(),
            upstream_duration,
            shared,
            registry,
            gauges,
        }
    }

    /// Returns the counters of a rule. They exist from now on, even if a later configuration lacks the
    /// rule.
    pub(crate) fn rule(&self, name: &str) -> Arc<RuleCounters> {
        let mut rules = self.rules();
        if let Some(known) = rules.iter().find(|known| known.name == name) {
            return Arc::clone(known);
        }
        let counters = Arc::new(self.families.create(name));
        rules.push(Arc::clone(&counters));
        counters
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Arc<RuleCounters>>> {
        // A push happens whole or not at all.
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request.
    pub(crate) fn record_request(&self, of: &RuleCounters, outcome: Outcome, took: Duration) {
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

    /// Counts a fetch. A forwarded request has no rule and may stream for long, so it is not timed.
    pub(crate) fn record_fetch(&self, of: &RuleCounters, class: FetchClass, took: Duration) {
        of.upstream[class.index()].inc();
        if of.is_rule {
            self.upstream_duration.observe(took);
        }
    }

    pub(crate) fn set_secrets_loaded(&self, at: f64) {
        self.gauges.secrets_loaded.set(at);
    }

    pub(crate) fn record_reload(&self, succeeded: bool) {
        self.reloads[usize::from(!succeeded)].inc();
    }

    pub(crate) fn record_not_stored(&self, reason: NoStoreReason) {
        let index = NoStoreReason::ALL.iter().position(|known| *known == reason);
        if let Some(counter) = index.and_then(|index| self.not_stored.get(index)) {
            counter.inc();
        }
    }

    /// Returns the OpenMetrics text.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }

    /// Returns how long requests with this outcome took.
    pub(crate) fn request_durations(&self, outcome: Outcome) -> &Histogram {
        &self.durations[outcome.index()]
    }

    /// Returns how long fetches took.
    pub(crate) fn fetch_durations(&self) -> &Histogram {
        &self.upstream_duration
    }

    /// Returns the figures of every rule since the start, and those of requests without a rule.
    pub(crate) fn rule_figures(&self) -> Vec<RuleFigures> {
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
    pub(crate) fn record_regression(&self) {
        self.regressions.inc();
    }
}

/// The figures of one rule, for `/status`.
pub(crate) struct RuleFigures {
    pub(crate) rule: String,
    pub(crate) requests: [u64; OUTCOMES],
    pub(crate) fetches: u64,
    pub(crate) polls_avoided: u64,
    pub(crate) regressions: u64,
}

/// Raises a gauge by one until it is dropped.
#[derive(Debug)]
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    pub(crate) fn new(gauge: &Gauge) -> Arc<Self> {
        gauge.inc();
        Arc::new(Self(gauge.clone()))
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
