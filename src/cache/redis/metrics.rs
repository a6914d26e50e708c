//! The metrics of the shared tier.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// The bounds of the histogram, in seconds. The default command timeout is 50 ms.
const BUCKETS: [f64; 9] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];

/// Counts the look-ups in the shared tier and the writes to it, by their result.
#[derive(Debug, Clone)]
pub struct SharedMetrics {
    lookups: Family<ResultLabel, Counter>,
    pub(super) hit: Counter,
    pub(super) miss: Counter,
    pub(super) lookup_error: Counter,
    pub(super) circuit_open: Counter,
    writes: Family<ResultLabel, Counter>,
    pub(super) stored: Counter,
    pub(super) refused: Counter,
    pub(super) dropped: Counter,
    pub(super) write_error: Counter,
    duration: Histogram,
    pub(super) up: Gauge,
}

impl Default for SharedMetrics {
    fn default() -> Self {
        let lookups = Family::<ResultLabel, Counter>::default();
        let writes = Family::<ResultLabel, Counter>::default();
        let lookup = |result| lookups.get_or_create(&ResultLabel { result }).clone();
        let write = |result| writes.get_or_create(&ResultLabel { result }).clone();
        Self {
            hit: lookup("hit"),
            miss: lookup("miss"),
            lookup_error: lookup("error"),
            circuit_open: lookup("circuit_open"),
            stored: write("stored"),
            refused: write("refused"),
            dropped: write("dropped"),
            write_error: write("error"),
            duration: Histogram::new(BUCKETS),
            up: Gauge::default(),
            lookups,
            writes,
        }
    }
}

impl SharedMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "shared_lookups",
            "Look-ups in the shared tier, by result",
            self.lookups.clone(),
        );
        registry.register(
            "shared_writes",
            "Writes to the shared tier, by result",
            self.writes.clone(),
        );
        registry.register_with_unit(
            "shared_duration",
            "Look-ups in the shared tier, until the reply or the command timeout",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register(
            "shared_up",
            "1 while the shared tier is in use; 0 while the circuit is open or no tier is configured",
            self.up.clone(),
        );
    }

    pub(super) fn observe_lookup(&self, elapsed: Duration) {
        self.duration.observe(elapsed.as_secs_f64());
    }
}
