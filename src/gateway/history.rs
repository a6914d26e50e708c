//! What the last minutes brought, so that whoever looks sees at once where it comes from.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;

use super::Gateway;
use super::metrics::RuleFigures;
use super::outcome::Outcome;
use crate::policy::rule::NO_RULE;

/// Fine enough to see a spike, coarse enough to count something in it.
const EVERY: Duration = Duration::from_secs(5);

/// Ten minutes.
const SAMPLES: usize = 120;

/// What was asked, and what it cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Requests of rules that got a body or what the upstream said: by a fetch or without one. Neither
    /// what was held or refused, nor what failed: to save the upstream those is no merit.
    pub(super) polls: u64,
    /// Fetches of rules, however they ended.
    pub(super) fetches: u64,
}

impl Traffic {
    /// Of these rules together. What matched none was no poll.
    pub(super) fn of(rules: &[RuleFigures]) -> Self {
        let mut sum = Self::default();
        for figures in rules.iter().filter(|figures| figures.rule != NO_RULE) {
            let answered = Outcome::ALL.iter().filter(|outcome| outcome.is_answered());
            sum.polls += answered.map(|o| figures.requests[o.index()]).sum::<u64>();
            sum.fetches += figures.fetches;
        }
        sum
    }

    /// What came after `earlier`.
    fn since(self, earlier: Self) -> Self {
        Self {
            polls: self.polls.saturating_sub(earlier.polls),
            fetches: self.fetches.saturating_sub(earlier.fetches),
        }
    }
}

/// A ring of samples, oldest first: what each of the last intervals brought.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    samples: VecDeque<Traffic>,
    /// Since the start, at the last sample.
    until_now: Traffic,
}

impl History {
    /// Another interval is over; `total` is what there was since the start.
    fn sample(&self, total: Traffic) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.samples.len() == SAMPLES {
            ring.samples.pop_front();
        }
        let sample = total.since(ring.until_now);
        ring.samples.push_back(sample);
        ring.until_now = total;
    }

    /// For the status.
    pub(super) fn status(&self) -> serde_json::Value {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |figure: fn(&Traffic) -> u64| ring.samples.iter().map(figure).collect::<Vec<_>>();
        json!({
            "interval_seconds": EVERY.as_secs(),
            "polls": of(|sample| sample.polls),
            "fetches": of(|sample| sample.fetches),
        })
    }
}

impl Gateway {
    /// Takes a sample at the end of each interval, until `end`. One that is late is taken at once, so
    /// that as many are taken as time has passed.
    pub(crate) async fn keep_history(self: Arc<Self>, end: CancellationToken) {
        let mut ends = interval_at(Instant::now() + EVERY, EVERY);
        while end.run_until_cancelled(ends.tick()).await.is_some() {
            let total = Traffic::of(&self.metrics.by_rule());
            self.metrics.history.sample(total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(polls: u64, fetches: u64) -> Traffic {
        Traffic { polls, fetches }
    }

    #[test]
    fn a_sample_is_what_came_since_the_last() {
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
    fn the_oldest_goes_when_ten_minutes_are_full() {
        let history = History::default();
        for minute in 1..=SAMPLES as u64 + 2 {
            history.sample(total(minute * minute, 0));
        }
        let polls = &history.status()["polls"];
        assert_eq!(polls.as_array().unwrap().len(), SAMPLES);
        assert_eq!(polls[0], 3 * 3 - 2 * 2);
    }
}
