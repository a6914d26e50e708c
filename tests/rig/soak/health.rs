//! What the gateway weighs: memory and descriptors at the start, after a tenth, and at the end.

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

#[derive(Debug, Clone, Copy)]
struct Sample {
    bytes: u64,
    descriptors: u64,
}

#[derive(Debug)]
pub(super) struct Health {
    start: Sample,
    samples: Vec<Sample>,
    is_short: bool,
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
            is_short: duration < SHORT,
        }
    }

    pub(super) fn sample(&mut self, gateway: &Gateway) {
        self.samples.push(look(gateway));
    }

    /// Whether it has grown, and lines of a table.
    pub(super) fn report(&self) -> (bool, String) {
        // From the tenth after the first, and from the last: a single sample would show what is open
        // at that moment.
        let tenth = (self.samples.len() / 10).max(1);
        let late = self.samples.len().saturating_sub(tenth);
        let then = settled(&self.samples[tenth.min(late)..][..tenth]);
        let end = settled(&self.samples[late..]);
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

/// The usual memory, and the descriptors that are left when a burst is over: what leaks, stays.
fn settled(samples: &[Sample]) -> Sample {
    let mut bytes: Vec<u64> = samples.iter().map(|sample| sample.bytes).collect();
    bytes.sort_unstable();
    let descriptors = samples.iter().map(|sample| sample.descriptors).min();
    Sample {
        bytes: bytes.get(bytes.len() / 2).copied().unwrap_or(0),
        descriptors: descriptors.unwrap_or(0),
    }
}
