//! What is counted of the tier.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

/// Bounds of the histogram, in seconds: a command_timeout is some ten milliseconds.
const SECONDS: [f64; 9] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];

/// Counters of the shared tier, by what came of asking it and of writing to it.
#[derive(Debug, Clone)]
pub struct SharedMetrics {
    family: Family<OfResult, Counter>,
    pub(super) hit: Counter,
    pub(super) miss: Counter,
    pub(super) error: Counter,
    pub(super) resting: Counter,
    pub(super) stored: Counter,
    pub(super) refused: Counter,
    pub(super) dropped: Counter,
    took: Histogram,
    pub(super) is_up: Gauge,
}

impl Default for SharedMetrics {
    fn default() -> Self {
        let family = Family::<OfResult, Counter>::default();
        let of = |result| family.get_or_create(&OfResult { result }).clone();
        Self {
            hit: of("hit"),
            miss: of("miss"),
            error: of("error"),
            resting: of("resting"),
            stored: of("stored"),
            refused: of("refused"),
            dropped: of("dropped"),
            took: Histogram::new(SECONDS),
            is_up: Gauge::default(),
            family,
        }
    }
}

impl SharedMetrics {
    /// Makes them part of a scrape.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "shared_requests",
            "Look-ups in the shared tier and writes to it, by result",
            self.family.clone(),
        );
        registry.register_with_unit(
            "shared_duration",
            "Look-ups in the shared tier, until their answer or the end of their command_timeout",
            Unit::Seconds,
            self.took.clone(),
        );
        registry.register(
            "shared_up",
            "1 while the shared tier is in use, 0 while it rests or is off",
            self.is_up.clone(),
        );
    }

    pub(super) fn took(&self, took: Duration) {
        self.took.observe(took.as_secs_f64());
    }
}
