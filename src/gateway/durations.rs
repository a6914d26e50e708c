//! How long things took: counts on a fine scale, for percentiles, and on a coarse one, for a scrape.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Steps of a decade, in tenths: each at most a third above the one before.
const DECADE: [u64; 10] = [10, 12, 15, 20, 25, 30, 40, 50, 60, 80];

/// From 1 µs (a hit takes some microseconds) to 10 s, and up to a deadline (a minute).
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

/// Upper bounds of the coarse scale, in seconds: each is one of the fine scale's, so that both count
/// alike.
const SCRAPED: [f64; 16] = [
    0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 60.0,
];

/// A histogram without a lock: who measures waits for nobody.
#[derive(Clone)]
pub(super) struct Durations(Arc<Counts>);

struct Counts {
    /// By step, then what is above the last.
    counts: [AtomicU64; STEPS + 1],
    nanoseconds: AtomicU64,
}

impl Default for Durations {
    fn default() -> Self {
        Self(Arc::new(Counts {
            counts: [const { AtomicU64::new(0) }; STEPS + 1],
            nanoseconds: AtomicU64::new(0),
        }))
    }
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Durations({})", self.count())
    }
}

impl Durations {
    pub(super) fn observe(&self, took: Duration) {
        // After 584 years it would count too little.
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let step = BOUNDS.partition_point(|bound| *bound < took);
        self.0.counts[step].fetch_add(1, Ordering::Relaxed);
        self.0.nanoseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// So many of a hundred took at most as long as what is returned: the step of the scale that they
    /// reach, so it is up to a third above the truth. None where there were none, and where they reach
    /// beyond the scale.
    pub(super) fn percentile(&self, percent: u64) -> Option<Duration> {
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

    /// One look at everything, since the counts go on meanwhile.
    fn counts(&self) -> [u64; STEPS + 1] {
        self.0
            .counts
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.counts();
        let sum = Duration::from_nanos(self.0.nanoseconds.load(Ordering::Relaxed));
        let uppers = SCRAPED.into_iter().chain([f64::INFINITY]);
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

    fn of(microseconds: impl IntoIterator<Item = u64>) -> Durations {
        let durations = Durations::default();
        for took in microseconds {
            durations.observe(Duration::from_micros(took));
        }
        durations
    }

    #[test]
    fn a_percentile_is_at_most_a_third_above_the_truth_and_never_below_it() {
        for took in [1_u64, 7, 99, 100, 101, 2_499, 2_501, 130_000, 59_999_999] {
            let durations = of([took]);
            let told = durations.percentile(50).unwrap().as_micros();
            let took = u128::from(took);
            assert!(
                (took..=(took * 4).div_ceil(3)).contains(&told),
                "{took}: {told}"
            );
        }
    }

    #[test]
    fn percentiles_are_by_rank() {
        let durations = of((1..=98).map(|_| 20).chain([3_000, 40_000]));
        let told = |percent| durations.percentile(percent).unwrap().as_micros();
        assert_eq!([50, 98, 99, 100].map(told), [20, 20, 3_000, 40_000]);
        assert_eq!(durations.count(), 100);
    }

    #[test]
    fn nothing_has_no_percentile_and_neither_has_what_is_beyond_the_scale() {
        assert_eq!(of([]).percentile(50), None);
        let durations = of([10, 61_000_000]);
        assert_eq!(durations.percentile(50), Some(Duration::from_micros(10)));
        assert_eq!(durations.percentile(99), None);
    }

    #[test]
    fn a_scrape_counts_what_the_fine_scale_counts() {
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
    fn every_step_of_the_coarse_scale_is_one_of_the_fine_scale() {
        for seconds in SCRAPED {
            let bound = Duration::from_secs_f64(seconds).as_nanos();
            assert!(
                BOUNDS.iter().any(|step| u128::from(*step) == bound),
                "{seconds}"
            );
        }
    }
}
