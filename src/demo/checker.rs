//! Checks what the pollers receive against the gateway's promises: a poll that is sent after a step was
//! seen final never sees it live, and every body is the upstream's, byte for byte.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::{PollError, Response};
use crate::demo::sandbox::Status;

/// How many latencies of each kind are kept: enough for a p99, and some seconds of traffic.
const MAX_SAMPLES: usize = 2048;

/// How many final steps are kept. A poller rereads each of them at most 12 times.
const MAX_FINAL: usize = 10_000;

/// Holds everything that was counted so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    /// Polls answered with 200.
    pub(super) polls: u64,
    /// Polls that the gateway answered from memory.
    pub(super) hits: u64,
    /// Polls without an answer, or with another status.
    pub(super) errors: u64,
    pub(super) last_error: Option<String>,
    /// Answers that were live although the step had been seen final.
    pub(super) stale: u64,
    /// Answers whose bytes are not the upstream's.
    pub(super) wrong: u64,
    /// Steps that are live.
    pub(super) live: u64,
    /// Steps that are final, by status.
    pub(super) finished: HashMap<Status, u64>,
    /// Latency of the latest hits; `None` before the first.
    pub(super) hit: Option<Latency>,
    /// Latency of the latest answers that were no hits; `None` before the first.
    pub(super) fetch: Option<Latency>,
    /// Sum of the latencies of all polls.
    pub(super) waited: Duration,
    /// Sum of the latencies of all polls that were no hits.
    pub(super) waited_for_fetches: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) median: Duration,
    pub(super) p99: Duration,
}

/// Keeps the latest [`MAX_SAMPLES`] latencies.
#[derive(Default)]
struct Samples(VecDeque<Duration>);

impl Samples {
    fn add(&mut self, latency: Duration) {
        if self.0.len() == MAX_SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(latency);
    }

    fn latency(&self) -> Option<Latency> {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        let at = |percent: usize| sorted.get(sorted.len() * percent / 100).copied();
        Some(Latency {
            median: at(50)?,
            p99: at(99)?,
        })
    }
}

/// Counts and checks every poll. Its memory is bounded, however long the demo runs.
#[derive(Default)]
pub(super) struct Checker {
    figures: Figures,
    hits: Samples,
    fetches: Samples,
    /// When each step was first seen final; `None` while it is live.
    steps: HashMap<Box<str>, Option<Instant>>,
    /// The final steps, oldest first.
    final_steps: VecDeque<Box<str>>,
}

impl Checker {
    pub(super) fn record_error(&mut self, error: &PollError) {
        self.figures.errors += 1;
        self.figures.last_error = Some(error.to_string());
    }

    /// Records a response. `status` is `None` if its body is not the upstream's.
    pub(super) fn record(&mut self, step: &str, response: &Response, status: Option<Status>) {
        let figures = &mut self.figures;
        let latency = response.received - response.sent;
        figures.polls += 1;
        figures.waited += latency;
        if response.is_hit {
            figures.hits += 1;
            self.hits.add(latency);
        } else {
            figures.waited_for_fetches += latency;
            self.fetches.add(latency);
        }
        let Some(status) = status else {
            figures.wrong += 1;
            return;
        };
        match (self.steps.get(step).copied(), status.is_final()) {
            (Some(Some(since)), false) => figures.stale += u64::from(since < response.sent),
            (Some(Some(_)), true) | (Some(None), false) => {}
            (Some(None) | None, true) => self.finish(step, status, response.received),
            (None, false) => {
                self.steps.insert(step.into(), None);
            }
        }
    }

    fn finish(&mut self, step: &str, status: Status, since: Instant) {
        *self.figures.finished.entry(status).or_default() += 1;
        if self.final_steps.len() == MAX_FINAL
            && let Some(oldest) = self.final_steps.pop_front()
        {
            self.steps.remove(&oldest);
        }
        self.final_steps.push_back(step.into());
        self.steps.insert(step.into(), Some(since));
    }

    pub(super) fn figures(&self) -> Figures {
        let live = self.steps.len() - self.final_steps.len();
        Figures {
            live: live as u64,
            hit: self.hits.latency(),
            fetch: self.fetches.latency(),
            ..self.figures.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Records a response that was sent and received so many milliseconds after `start`.
    fn record(
        checker: &mut Checker,
        step: &str,
        status: Option<Status>,
        start: Instant,
        [sent, received]: [u64; 2],
    ) {
        let response = Response {
            is_hit: status.is_some_and(Status::is_final),
            sent: start + Duration::from_millis(sent),
            received: start + Duration::from_millis(received),
            body: Bytes::new(),
        };
        checker.record(step, &response, status);
    }

    #[test]
    fn a_live_answer_is_stale_if_its_request_was_sent_after_a_final_answer() {
        let (mut checker, start) = (Checker::default(), Instant::now());
        let (live, completed) = (Some(Status::InProgress), Some(Status::Completed));
        record(&mut checker, "step_1", live, start, [0, 10]);
        record(&mut checker, "step_1", completed, start, [20, 30]);
        record(&mut checker, "step_1", live, start, [25, 40]);
        assert_eq!(checker.figures().stale, 0);
        record(&mut checker, "step_1", live, start, [31, 45]);
        assert_eq!(checker.figures().stale, 1);
    }

    #[test]
    fn a_step_counts_once_as_live_or_finished() {
        let (mut checker, now) = (Checker::default(), Instant::now());
        let (live, failed) = (Some(Status::InProgress), Some(Status::Failed));
        record(&mut checker, "step_1", live, now, [0, 0]);
        record(&mut checker, "step_2", live, now, [0, 0]);
        assert_eq!(checker.figures().live, 2);
        for _ in 0..3 {
            record(&mut checker, "step_1", failed, now, [0, 0]);
        }
        let figures = checker.figures();
        assert_eq!((figures.live, figures.polls, figures.hits), (1, 5, 3));
        assert_eq!(figures.finished, HashMap::from([(Status::Failed, 1)]));
    }

    #[test]
    fn a_body_that_is_not_the_upstreams_counts_as_wrong() {
        let (mut checker, now) = (Checker::default(), Instant::now());
        record(&mut checker, "step_1", None, now, [0, 0]);
        assert_eq!((checker.figures().wrong, checker.figures().polls), (1, 1));
    }

    #[test]
    fn latency_is_of_the_latest_samples() {
        let mut samples = Samples::default();
        assert_eq!(samples.latency(), None);
        for ms in 0..5000 {
            samples.add(Duration::from_millis(ms));
        }
        assert_eq!(samples.0.len(), MAX_SAMPLES);
        let latency = samples.latency().unwrap();
        assert_eq!(latency.median, Duration::from_millis(5000 - 1024));
        assert!(latency.p99 > Duration::from_millis(4970));
    }

    #[test]
    fn the_oldest_final_steps_are_dropped() {
        let (mut checker, now) = (Checker::default(), Instant::now());
        for n in 0..MAX_FINAL + 5 {
            let step = format!("step_{n}");
            record(&mut checker, &step, Some(Status::Completed), now, [0, 0]);
        }
        assert_eq!(checker.steps.len(), MAX_FINAL);
        assert_eq!(checker.figures().finished[&Status::Completed], 10_005);
    }
}
