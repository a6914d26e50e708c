//! What the pollers have seen, and whether the gateway kept its promises: a step seen final is
//! never seen live by a poll that was asked later, and every body is the upstream's, byte for byte.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::line::{Answer, PollError};
use crate::demo::sandbox::Status;

/// Latencies remembered of each kind: enough for a p99, and a few seconds of traffic.
const MAX_SAMPLES: usize = 2048;

/// Final steps remembered: far longer than any poller goes on reading one.
const MAX_FINAL: usize = 10_000;

/// Everything that was seen so far, to be shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// Polls answered with 200.
    pub(crate) polls: u64,
    /// Those of them that the gateway answered from memory.
    pub(crate) hits: u64,
    /// Polls that got anything else, or nothing.
    pub(crate) errors: u64,
    /// What the latest of those got.
    pub(crate) last_error: Option<String>,
    /// Answers that said live after the step had been seen final.
    pub(crate) stale: u64,
    /// Answers whose bytes are not the upstream's.
    pub(crate) wrong: u64,
    /// Steps under way.
    pub(crate) live: u64,
    /// Steps seen final, by how they ended.
    pub(crate) finished: HashMap<Status, u64>,
    /// How long hits took.
    pub(crate) hit: Option<Spread>,
    /// How long all other answers took.
    pub(crate) fetch: Option<Spread>,
    /// What all polls waited, together.
    pub(crate) waited: Duration,
    /// What those of them waited that were no hits.
    pub(crate) waited_for_fetches: Duration,
}

/// How long the latest answers of one kind took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Half took less.
    pub(crate) median: Duration,
    /// One in a hundred took longer.
    pub(crate) p99: Duration,
}

#[derive(Default)]
struct Samples(VecDeque<Duration>);

impl Samples {
    fn add(&mut self, took: Duration) {
        if self.0.len() == MAX_SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(took);
    }

    fn spread(&self) -> Option<Spread> {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        let at = |percent: usize| sorted.get(sorted.len() * percent / 100).copied();
        Some(Spread {
            median: at(50)?,
            p99: at(99)?,
        })
    }
}

/// A poll that was answered.
pub(super) struct Seen<'a> {
    pub(super) step: &'a str,
    /// When its request was sent.
    pub(super) asked: Instant,
    pub(super) answer: &'a Answer,
    /// What the body says, if it is the upstream's body for that.
    pub(super) status: Option<Status>,
}

/// Collects what the pollers see. Bounded, however long the demo runs.
#[derive(Default)]
pub(super) struct Checker {
    figures: Figures,
    hits: Samples,
    fetches: Samples,
    /// When each step was first seen final; none while it is live.
    steps: HashMap<Box<str>, Option<Instant>>,
    /// Oldest first.
    finals: VecDeque<Box<str>>,
}

impl Checker {
    pub(super) fn failed(&mut self, error: &PollError) {
        self.figures.errors += 1;
        self.figures.last_error = Some(error.to_string());
    }

    pub(super) fn answered(&mut self, seen: &Seen<'_>, now: Instant) {
        let figures = &mut self.figures;
        figures.polls += 1;
        figures.waited += seen.answer.took;
        if seen.answer.hit {
            figures.hits += 1;
            self.hits.add(seen.answer.took);
        } else {
            figures.waited_for_fetches += seen.answer.took;
            self.fetches.add(seen.answer.took);
        }
        let Some(status) = seen.status else {
            figures.wrong += 1;
            return;
        };
        let known = self.steps.get(seen.step).copied();
        match (known, status.is_final()) {
            (Some(Some(since)), false) => figures.stale += u64::from(since < seen.asked),
            (Some(Some(_)), true) | (Some(None), false) => {}
            (Some(None) | None, true) => self.finished(seen.step, status, now),
            (None, false) => {
                self.steps.insert(seen.step.into(), None);
            }
        }
    }

    fn finished(&mut self, step: &str, status: Status, now: Instant) {
        *self.figures.finished.entry(status).or_default() += 1;
        if self.finals.len() == MAX_FINAL
            && let Some(oldest) = self.finals.pop_front()
        {
            self.steps.remove(&oldest);
        }
        self.finals.push_back(step.into());
        self.steps.insert(step.into(), Some(now));
    }

    pub(super) fn figures(&self) -> Figures {
        let live = self.steps.len() - self.finals.len();
        Figures {
            live: live as u64,
            hit: self.hits.spread(),
            fetch: self.fetches.spread(),
            ..self.figures.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn enter(
        ledger: &mut Checker,
        step: &str,
        status: Option<Status>,
        asked: Instant,
        now: Instant,
    ) {
        let answer = Answer {
            hit: status.is_some_and(Status::is_final),
            took: now - asked,
            body: Bytes::new(),
        };
        let seen = Seen {
            step,
            asked,
            answer: &answer,
            status,
        };
        ledger.answered(&seen, now);
    }

    #[test]
    fn live_after_final_is_stale_unless_it_was_asked_before() {
        let (mut ledger, start) = (Checker::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let live = Some(Status::InProgress);
        enter(&mut ledger, "step_1", live, at(0), at(10));
        enter(
            &mut ledger,
            "step_1",
            Some(Status::Completed),
            at(20),
            at(30),
        );
        enter(&mut ledger, "step_1", live, at(25), at(40));
        assert_eq!(ledger.figures().stale, 0);
        enter(&mut ledger, "step_1", live, at(31), at(45));
        assert_eq!(ledger.figures().stale, 1);
    }

    #[test]
    fn a_step_is_live_or_finished_once() {
        let (mut ledger, now) = (Checker::default(), Instant::now());
        enter(&mut ledger, "step_1", Some(Status::InProgress), now, now);
        enter(&mut ledger, "step_2", Some(Status::InProgress), now, now);
        assert_eq!(ledger.figures().live, 2);
        for _ in 0..3 {
            enter(&mut ledger, "step_1", Some(Status::Failed), now, now);
        }
        let figures = ledger.figures();
        assert_eq!((figures.live, figures.polls, figures.hits), (1, 5, 3));
        assert_eq!(figures.finished, HashMap::from([(Status::Failed, 1)]));
    }

    #[test]
    fn foreign_bytes_are_counted_as_wrong() {
        let (mut ledger, now) = (Checker::default(), Instant::now());
        enter(&mut ledger, "step_1", None, now, now);
        assert_eq!((ledger.figures().wrong, ledger.figures().polls), (1, 1));
    }

    #[test]
    fn samples_are_bounded_and_the_latest_count() {
        let mut samples = Samples::default();
        assert_eq!(samples.spread(), None);
        for ms in 0..5000 {
            samples.add(Duration::from_millis(ms));
        }
        assert_eq!(samples.0.len(), MAX_SAMPLES);
        let spread = samples.spread().unwrap();
        assert_eq!(spread.median, Duration::from_millis(5000 - 1024));
        assert!(spread.p99 > Duration::from_millis(4970));
    }

    #[test]
    fn finished_steps_are_forgotten_in_the_end() {
        let (mut ledger, now) = (Checker::default(), Instant::now());
        for n in 0..MAX_FINAL + 5 {
            enter(
                &mut ledger,
                &format!("step_{n}"),
                Some(Status::Completed),
                now,
                now,
            );
        }
        assert_eq!(ledger.steps.len(), MAX_FINAL);
        assert_eq!(ledger.figures().finished[&Status::Completed], 10_005);
    }
}
