//! The traffic of the last ten minutes, for `/status` and the page.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::metrics::RuleFigures;
use super::outcome::Outcome;
use crate::policy::rule::NO_RULE;

/// The length of an interval: fine enough to show a spike, coarse enough to count something in it.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

/// How many intervals are kept: ten minutes.
const SAMPLES: usize = 120;

/// Polls, and the fetches that they cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Requests of rules that got the upstream's response, by a fetch or without one. Rate-limited,
    /// rejected and failed requests are not counted, so errors never look like a saving.
    pub(crate) polls: u64,
    /// Fetches of rules, however they ended.
    pub(crate) fetches: u64,
}

impl Traffic {
    /// Sums the figures of all rules. A request without a rule is no poll.
    pub(crate) fn of(rules: &[RuleFigures]) -> Self {
        let mut sum = Self::default();
        for figures in rules.iter().filter(|figures| figures.rule != NO_RULE) {
            let answered = Outcome::ALL.iter().filter(|outcome| outcome.is_answered());
            sum.polls += answered.map(|o| figures.requests[o.index()]).sum::<u64>();
            sum.fetches += figures.fetches;
        }
        sum
    }

    /// Returns the difference to `earlier`.
    fn since(self, earlier: Self) -> Self {
        Self {
            polls: self.polls.saturating_sub(earlier.polls),
            fetches: self.fetches.saturating_sub(earlier.fetches),
        }
    }
}

/// The traffic of each of the last intervals, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    samples: VecDeque<Traffic>,
    /// The total since the start, at the last sample.
    last_total: Traffic,
}

impl History {
    /// Adds an interval that has ended. `total` counts since the start.
    pub(crate) fn sample(&self, total: Traffic) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.samples.len() == SAMPLES {
            ring.samples.pop_front();
        }
        let sample = total.since(ring.last_total);
        ring.samples.push_back(sample);
        ring.last_total = total;
    }

    /// Returns the JSON for `/status`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |figure: fn(&Traffic) -> u64| ring.samples.iter().map(figure).collect::<Vec<_>>();
        json!({
            "interval_seconds": INTERVAL.as_secs(),
            "polls": of(|sample| sample.polls),
            "fetches": of(|sample| sample.fetches),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(polls: u64, fetches: u64) -> Traffic {
        Traffic { polls, fetches }
    }

    #[test]
    fn a_sample_counts_since_the_one_before() {
        let history = History::default();
        for sum in [total(10, 3), total(10, 3), total(25, 4)] {
            history.sample(sum);
        }
        assert_eq!(
            history.status(),
            json!({ "interval_seconds": 5, "polls": [10, 0, 15], "fetches": [3, 0, 1] })
        );
    }

    #[test]
    fn after_ten_minutes_the_oldest_sample_is_dropped() {
        let history = History::default();
        for minute in 1..=SAMPLES as u64 + 2 {
            history.sample(total(minute * minute, 0));
        }
        let polls = &history.status()["polls"];
        assert_eq!(polls.as_array().unwrap().len(), SAMPLES);
        assert_eq!(polls[0], 3 * 3 - 2 * 2);
    }
}
