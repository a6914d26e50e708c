//! The gateway's memory and descriptors at the start, after a tenth of the soak, and at its end. Each
//! figure is of a calm time, since it would else show what the last outage left open.

use std::ops::Range;
use std::time::Duration;

use crate::fixtures::process::Process;

/// The number of samples of a short soak. A long one has one a second.
const SAMPLES: u32 = 400;

/// A soak that is shorter has not seen every outage after its first tenth, and its memory has not
/// settled. This much more is then not taken for growth.
const SHORT: Duration = Duration::from_secs(600);
const SHORT_BYTES: u64 = 12 << 20;
const SHORT_DESCRIPTORS: u64 = 60;

/// The time without outages and reloads before a figure is taken, at most a tenth of the soak. It is
/// longer than an idle upstream connection is kept.
const CALM: Duration = Duration::from_secs(90);

/// A figure is the median over the last third of a calm time.
const PARTS: usize = 3;

#[derive(Debug, Clone, Copy)]
struct Sample {
    bytes: u64,
    descriptors: u64,
}

#[derive(Debug)]
pub(super) struct Health {
    start: Sample,
    samples: Vec<Sample>,
    duration: Duration,
}

/// Returns the calm times of a soak: after the first tenth, and at the end.
pub(super) fn calm_times(duration: Duration) -> [Range<Duration>; 2] {
    let (tenth, length) = (duration / 10, CALM.min(duration / 10));
    [tenth..tenth + length, duration - length..duration]
}

pub(super) fn sample_interval(duration: Duration) -> Duration {
    (duration / SAMPLES).min(Duration::from_secs(1))
}

impl Health {
    pub(super) fn new(gateway: &Process, duration: Duration) -> Self {
        Self {
            start: Sample::of(gateway),
            samples: Vec::new(),
            duration,
        }
    }

    pub(super) fn sample(&mut self, gateway: &Process) {
        self.samples.push(Sample::of(gateway));
    }

    /// Returns whether the gateway has grown by more than a tenth after the first tenth, and lines of
    /// the table.
    pub(super) fn report(&self) -> (bool, String) {
        let interval = sample_interval(self.duration).as_micros();
        let [then, end] = calm_times(self.duration).map(|calm| {
            let nth = |at: Duration| usize::try_from(at.as_micros() / interval);
            let nth = |at| nth(at).unwrap_or(usize::MAX);
            let last = nth(calm.end).min(self.samples.len());
            let count = (last.saturating_sub(nth(calm.start)) / PARTS).max(1);
            Sample::median(&self.samples[last.saturating_sub(count)..last])
        });
        let has_grown = |then: u64, end: u64, tolerated: u64| {
            let is_short = self.duration < SHORT;
            end > then + (then / 10).max(if is_short { tolerated } else { 0 })
        };
        let has_grown = has_grown(then.bytes, end.bytes, SHORT_BYTES)
            || has_grown(then.descriptors, end.descriptors, SHORT_DESCRIPTORS);
        let mebibytes =
            |bytes: u64| format!("{}.{}", bytes >> 20, (bytes >> 10) % 1024 * 10 / 1024);
        let lines = format!(
            "| memory (RSS) at the start, after a tenth, at the end | {}, {}, {} MiB |\n\
             | descriptors at the start, after a tenth, at the end | {}, {}, {} |\n",
            mebibytes(self.start.bytes),
            mebibytes(then.bytes),
            mebibytes(end.bytes),
            self.start.descriptors,
            then.descriptors,
            end.descriptors,
        );
        (has_grown, lines)
    }
}

impl Sample {
    fn of(gateway: &Process) -> Self {
        Self {
            bytes: gateway.memory("VmRSS:"),
            descriptors: gateway.descriptors() as u64,
        }
    }

    fn median(samples: &[Self]) -> Self {
        let median = |figure: fn(&Self) -> u64| {
            let mut figures: Vec<u64> = samples.iter().map(figure).collect();
            figures.sort_unstable();
            figures.get(figures.len() / 2).copied().unwrap_or(0)
        };
        Self {
            bytes: median(|sample| sample.bytes),
            descriptors: median(|sample| sample.descriptors),
        }
    }
}
