//! Stores the steps that were polled, and computes their status. Knows no HTTP.
//!
//! The store keeps at most [`MAX_STEPS`]. Beyond that the oldest step is dropped, and its next poll
//! creates it again.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use super::body::Ids;
use super::step_spec::{Status, StepSpec};

/// About 30 MB of steps, which is more than a demo polls in a day.
pub(super) const MAX_STEPS: usize = 100_000;

/// The first poll of a step.
struct FirstPoll {
    at: Instant,
    thread: Box<str>,
    run: Box<str>,
}

#[derive(Default)]
struct Entry {
    /// `None` if its status was set before a poll.
    first_poll: Option<FirstPoll>,
    /// Replaces the status that follows from the age.
    set_status: Option<Status>,
    polls: u64,
}

/// Holds all steps by id.
pub(super) struct StepStore {
    lifetime: RangeInclusive<Duration>,
    steps: HashMap<Box<str>, Entry>,
    /// The ids, oldest first: lists have this order, and the first is dropped first.
    order: VecDeque<Box<str>>,
}

impl StepStore {
    pub(super) fn new(lifetime: RangeInclusive<Duration>) -> Self {
        Self {
            lifetime,
            steps: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Counts a poll, and creates the step at its first poll.
    pub(super) fn record_poll(&mut self, ids: Ids<'_>, now: Instant) {
        let entry = self.entry(ids.step);
        entry.polls += 1;
        entry.first_poll.get_or_insert_with(|| FirstPoll {
            at: now,
            thread: ids.thread.into(),
            run: ids.run.into(),
        });
    }

    /// Sets the status until the next call.
    pub(super) fn set_status(&mut self, step: &str, status: Status) {
        self.entry(step).set_status = Some(status);
    }

    /// Returns the status at `now`. A step that was never polled is in progress.
    pub(super) fn status(&self, step: &str, now: Instant) -> Status {
        let Some(entry) = self.steps.get(step) else {
            return Status::InProgress;
        };
        let by_age = |first_poll: &FirstPoll| {
            let spec = StepSpec::of(step);
            (now - first_poll.at >= spec.lifetime(&self.lifetime)).then_some(spec.final_status)
        };
        entry
            .set_status
            .or_else(|| entry.first_poll.as_ref().and_then(by_age))
            .unwrap_or(Status::InProgress)
    }

    /// Returns how many polls of the step arrived.
    pub(super) fn polls_of(&self, step: &str) -> u64 {
        self.steps.get(step).map_or(0, |entry| entry.polls)
    }

    /// Returns the run's steps, oldest first. It walks over all steps, because lists are rare and an
    /// index would cost memory for every step.
    pub(super) fn of_run<'a>(
        &'a self,
        thread: &'a str,
        run: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        self.order.iter().map(|step| &**step).filter(move |step| {
            let entry = self.steps.get(*step);
            let first_poll = entry.and_then(|entry| entry.first_poll.as_ref());
            first_poll.is_some_and(|first| *first.thread == *thread && *first.run == *run)
        })
    }

    fn entry(&mut self, step: &str) -> &mut Entry {
        if !self.steps.contains_key(step) {
            if self.order.len() == MAX_STEPS
                && let Some(oldest) = self.order.pop_front()
            {
                self.steps.remove(&oldest);
            }
            self.order.push_back(step.into());
        }
        self.steps.entry(step.into()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(step: &str) -> Ids<'_> {
        Ids {
            thread: "thread_1",
            run: "run_1",
            step,
        }
    }

    fn store(seconds: u64) -> StepStore {
        let lifetime = Duration::from_secs(seconds);
        StepStore::new(lifetime..=lifetime)
    }

    #[test]
    fn a_step_is_in_progress_from_its_first_poll_for_its_lifetime() {
        let (mut store, start) = (store(5), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(store.status("step_abc123", at(100)), Status::InProgress);
        store.record_poll(ids("step_abc123"), at(100));
        store.record_poll(ids("step_abc123"), at(104));
        assert_eq!(store.status("step_abc123", at(104)), Status::InProgress);
        assert_eq!(store.status("step_abc123", at(105)), Status::Completed);
        assert_eq!(store.polls_of("step_abc123"), 2);
    }

    #[test]
    fn a_status_that_was_set_replaces_the_one_by_age() {
        let (mut store, start) = (store(5), Instant::now());
        let later = start + Duration::from_secs(60);
        store.set_status("step_1", Status::InProgress);
        store.record_poll(ids("step_1"), start);
        assert_eq!(store.status("step_1", later), Status::InProgress);
        store.set_status("step_1", Status::Failed);
        assert_eq!(store.status("step_1", start), Status::Failed);
    }

    #[test]
    fn a_run_lists_its_polled_steps() {
        let (mut store, now) = (store(5), Instant::now());
        store.record_poll(ids("step_1"), now);
        store.set_status("step_2", Status::Completed);
        store.record_poll(ids("step_3"), now);
        assert!(store.of_run("thread_1", "run_1").eq(["step_1", "step_3"]));
        assert_eq!(store.of_run("thread_1", "run_2").count(), 0);
    }

    #[test]
    fn the_oldest_steps_are_dropped() {
        let (mut store, now) = (store(5), Instant::now());
        for n in 0..MAX_STEPS + 10 {
            store.record_poll(ids(&format!("step_{n}")), now);
        }
        assert_eq!(store.steps.len(), MAX_STEPS);
        assert_eq!(
            (store.polls_of("step_9"), store.polls_of("step_10")),
            (0, 1)
        );
    }
}
