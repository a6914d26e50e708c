//! A histogram of durations, with a fine scale for percentiles and a coarse one for a scrape.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The bounds within a decade, in tenths. Each is at most a third above the one before.
const DECADE: [u64; 10] = [10, 12, 15, 20, 25, 30, 40, 50, 60, 80];

/// How many bounds the fine scale has, from 1 µs (a hit takes some microseconds) to 60 s (the default
/// deadline of a request).
const STEPS: usize = 7 * DECADE.len() + 9;

/// Upper bounds of the fine scale, in nanoseconds.
const BOUNDS: [u64; STEPS] = {
    let mut bounds = [0; STEPS];
    let (mut step, mut unit) = (0, 100);
    while step < STEPS {
        bounds[step] = DECADE[step % DECADE.len()] * unit;
        step += 1;
        if step.is_multiple_of(DECADE.len()) {
            unit *= 10;
        }
    }
    bounds
};

/// Upper bounds of the coarse scale, in seconds. Each is a bound of the fine scale, too, so that both
/// scales agree.
const BUCKETS: [f64; 16] = [
    0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 60.0,
];

/// A histogram without a lock.
#[derive(Clone)]
pub(crate) struct Histogram(Arc<Counts>);

struct Counts {
    /// By bound, then the durations above the last bound.
    counts: [AtomicU64; STEPS + 1],
    nanoseconds: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self(Arc::new(Counts {
            counts: [const { AtomicU64::new(0) }; STEPS + 1],
            nanoseconds: AtomicU64::new(0),
        }))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Histogram({})", self.count())
    }
}

impl Histogram {
    pub(crate) fn observe(&self, took: Duration) {
        // Histogram above 584 years do not occur.
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let step = BOUNDS.partition_point(|bound| *bound < took);
        self.0.counts[step].fetch_add(1, Ordering::Relaxed);
        self.0.nanoseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// Returns how many durations were observed.
    pub(crate) fn count(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// Returns a duration that `percent` of a hundred observations did not exceed: a bound of the fine
    /// scale, so it is up to a third above the true percentile. `None` if nothing was observed, or if
    /// the percentile is above the scale.
    pub(crate) fn percentile(&self, percent: u64) -> Option<Duration> {
        let counts = self.counts();
        let all: u64 = counts.iter().sum();
        let rank = (u128::from(all) * u128::from(percent)).div_ceil(100).max(1);
        let mut reached = 0;
        let step = counts.iter().position(|count| {
            reached += u128::from(*count);
            reached >= rank
        })?;
        BOUNDS.get(step).copied().map(Duration::from_nanos)
    }

    /// Returns a snapshot of the counts.
    fn counts(&self) -> [u64; STEPS + 1] {
        self.0
            .counts
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.counts();
        let sum = Duration::from_nanos(self.0.nanoseconds.load(Ordering::Relaxed));
        let uppers = BUCKETS.into_iter().chain([f64::INFINITY]);
        let mut buckets: Vec<(f64, u64)> = uppers.map(|upper| (upper, 0)).collect();
        for (step, count) in counts.iter().enumerate() {
            let bound = BOUNDS.get(step).map_or(f64::INFINITY, |nanoseconds| {
                Duration::from_nanos(*nanoseconds).as_secs_f64()
            });
            let bucket = buckets.partition_point(|(upper, _)| *upper < bound);
            buckets[bucket].1 += count;
        }
        encoder.encode_histogram::<NoLabelSet>(
            sum.as_secs_f64(),
            counts.iter().sum(),
            &buckets,
            None,
        )
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    fn of(microseconds: impl IntoIterator<Item = u64>) -> Histogram {
        let durations = Histogram::default();
        for took in microseconds {
            durations.observe(Duration::from_micros(took));
        }
        durations
    }

    #[test]
    fn a_percentile_is_at_most_a_third_above_the_true_one_and_never_below() {
        for took in [1_u64, 7, 99, 100, 101, 2_499, 2_501, 130_000, 59_999_999] {
            let durations = of([took]);
            let percentile_us = durations.percentile(50).unwrap().as_micros();
            let took = u128::from(took);
            assert!(
                (took..=(took * 4).div_ceil(3)).contains(&percentile_us),
                "{took}: {percentile_us}"
            );
        }
    }

    #[test]
    fn percentiles_follow_the_rank() {
        let durations = of((1..=98).map(|_| 20).chain([3_000, 40_000]));
        let percentile_us = |percent| durations.percentile(percent).unwrap().as_micros();
        assert_eq!(
            [50, 98, 99, 100].map(percentile_us),
            [20, 20, 3_000, 40_000]
        );
        assert_eq!(durations.count(), 100);
    }

    #[test]
    fn an_empty_histogram_and_a_duration_above_the_scale_have_no_percentile() {
        assert_eq!(of([]).percentile(50), None);
        let durations = of([10, 61_000_000]);
        assert_eq!(durations.percentile(50), Some(Duration::from_micros(10)));
        assert_eq!(durations.percentile(99), None);
    }

    #[test]
    fn both_scales_count_the_same() {
        assert!(BOUNDS.is_sorted());
        let mut registry = Registry::default();
        registry.register("took", "How long", of([100, 101, 500, 2_500, 61_000_000]));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for sample in [
            "took_bucket{le=\"0.0001\"} 1",
            "took_bucket{le=\"0.0005\"} 3",
            "took_bucket{le=\"0.001\"} 3",
            "took_bucket{le=\"0.0025\"} 4",
            "took_bucket{le=\"60.0\"} 4",
            "took_bucket{le=\"+Inf\"} 5",
            "took_count 5",
            "took_sum 61.003201",
        ] {
            assert!(
                text.lines().any(|line| line == sample),
                "{sample} in\n{text}"
            );
        }
    }

    #[test]
    fn every_bucket_is_a_bound_of_the_fine_scale() {
        for seconds in BUCKETS {
            let bound = Duration::from_secs_f64(seconds).as_nanos();
            assert!(
                BOUNDS.iter().any(|step| u128::from(*step) == bound),
                "{seconds}"
            );
        }
    }
}
