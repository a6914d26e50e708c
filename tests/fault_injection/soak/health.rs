//! What the gateway weighs: memory and descriptors at the start, after a tenth, and at the end, each
//! in a calm spell: else it would show what the last outage left open.

use std::ops::Range;
use std::time::Duration;

use crate::gateway::Gateway;

/// In a soak of seconds so many samples, else one a second.
const SAMPLES: u32 = 400;

/// A tenth is the most that it may grow after the first tenth. In a shorter soak not every kind of
/// outage has come by then, and memory is still finding its level: so much more is not taken for
/// growth.
const SHORT: Duration = Duration::from_secs(600);
const SHORT_BYTES: u64 = 12 << 20;
const SHORT_DESCRIPTORS: u64 = 60;

/// How long neither outages nor reloads come before a figure is taken, or a tenth of a shorter soak.
/// Longer than an idle upstream connection is kept.
const CALM: Duration = Duration::from_secs(90);

/// Of a calm spell, the last part of so many is looked at.
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
    is_short: bool,
}

/// When it is calm, from the start: after the first tenth, and at the end.
pub(super) fn calm(duration: Duration) -> [Range<Duration>; 2] {
    let (tenth, length) = (duration / 10, CALM.min(duration / 10));
    [tenth..tenth + length, duration - length..duration]
}

/// How often to look.
pub(super) fn pace(duration: Duration) -> Duration {
    (duration / SAMPLES).min(Duration::from_secs(1))
}

impl Health {
    pub(super) fn new(gateway: &Gateway, duration: Duration) -> Self {
        Self {
            start: look(gateway),
            samples: Vec::new(),
            duration,
            is_short: duration < SHORT,
        }
    }

    pub(super) fn sample(&mut self, gateway: &Gateway) {
        self.samples.push(look(gateway));
    }

    /// Whether it has grown, and lines of a table.
    pub(super) fn report(&self) -> (bool, String) {
        let [then, end] = calm(self.duration).map(|spell| {
            let nth = |at: Duration| at.as_micros() / pace(self.duration).as_micros();
            let nth = |at| usize::try_from(nth(at)).unwrap_or(usize::MAX);
            let last = nth(spell.end).min(self.samples.len());
            let count = (last.saturating_sub(nth(spell.start)) / PARTS).max(1);
            usual(&self.samples[last.saturating_sub(count)..last])
        });
        let limit = |then: u64, more: u64| {
            let limit = then + then / 10;
            if self.is_short {
                limit.max(then + more)
            } else {
                limit
            }
        };
        let grown = end.bytes > limit(then.bytes, SHORT_BYTES)
            || end.descriptors > limit(then.descriptors, SHORT_DESCRIPTORS);
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
        (grown, lines)
    }
}

fn look(gateway: &Gateway) -> Sample {
    Sample {
        bytes: gateway.memory(),
        descriptors: gateway.descriptors(),
    }
}

fn usual(samples: &[Sample]) -> Sample {
    let median = |figure: fn(&Sample) -> u64| {
        let mut figures: Vec<u64> = samples.iter().map(figure).collect();
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied().unwrap_or(0)
    };
    Sample {
        bytes: median(|sample| sample.bytes),
        descriptors: median(|sample| sample.descriptors),
    }
}
