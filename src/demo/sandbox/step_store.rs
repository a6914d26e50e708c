//! The steps that have come to be, and where each stands now. Knows no HTTP.
//!
//! Bounded: beyond [`MAX_STEPS`] the oldest is forgotten, and would start a new life when polled
//! again.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use super::body::Ids;
use super::step_spec::{Status, StepSpec};

/// About 30 MB of steps: more than a demo polls in a day.
pub(super) const MAX_STEPS: usize = 100_000;

/// Where a step was first polled.
struct Birth {
    at: Instant,
    thread: Box<str>,
    run: Box<str>,
}

#[derive(Default)]
struct Entry {
    /// None: steered before anyone polled it.
    birth: Option<Birth>,
    /// What a test decided, which then stands above time.
    steered: Option<Status>,
    fetches: u64,
}

/// All steps, by id.
pub(super) struct Book {
    lifetime: RangeInclusive<Duration>,
    steps: HashMap<Box<str>, Entry>,
    /// Oldest first: the order in which they are listed and forgotten.
    order: VecDeque<Box<str>>,
}

impl Book {
    pub(super) fn new(lifetime: RangeInclusive<Duration>) -> Self {
        Self {
            lifetime,
            steps: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// A poll arrived: counts it, and the step comes to be if it was not.
    pub(super) fn polled(&mut self, ids: Ids<'_>, now: Instant) {
        let entry = self.entry(ids.step);
        entry.fetches += 1;
        entry.birth.get_or_insert_with(|| Birth {
            at: now,
            thread: ids.thread.into(),
            run: ids.run.into(),
        });
    }

    /// From now on the step stands there.
    pub(super) fn steer(&mut self, step: &str, status: Status) {
        self.entry(step).steered = Some(status);
    }

    /// Where the step stands; one that nobody polled yet is in progress.
    pub(super) fn status(&self, step: &str, now: Instant) -> Status {
        let Some(entry) = self.steps.get(step) else {
            return Status::InProgress;
        };
        let lived = |birth: &Birth| {
            let nature = StepSpec::of(step);
            (now - birth.at >= nature.lifetime(&self.lifetime)).then_some(nature.ending)
        };
        entry
            .steered
            .or_else(|| entry.birth.as_ref().and_then(lived))
            .unwrap_or(Status::InProgress)
    }

    /// Polls of the step so far.
    pub(super) fn fetches(&self, step: &str) -> u64 {
        self.steps.get(step).map_or(0, |entry| entry.fetches)
    }

    /// The run's steps, oldest first. Walks the whole book: lists are rare, an index would cost
    /// every step.
    pub(super) fn of_run<'a>(
        &'a self,
        thread: &'a str,
        run: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        self.order.iter().map(|step| &**step).filter(move |step| {
            let birth = self.steps.get(*step).and_then(|entry| entry.birth.as_ref());
            birth.is_some_and(|birth| *birth.thread == *thread && *birth.run == *run)
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

    fn book(seconds: u64) -> Book {
        let life = Duration::from_secs(seconds);
        Book::new(life..=life)
    }

    #[test]
    fn a_step_lives_from_its_first_poll_for_its_lifetime() {
        let (mut book, start) = (book(5), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(book.status("step_abc123", at(100)), Status::InProgress);
        book.polled(ids("step_abc123"), at(100));
        book.polled(ids("step_abc123"), at(104));
        assert_eq!(book.status("step_abc123", at(104)), Status::InProgress);
        assert_eq!(book.status("step_abc123", at(105)), Status::Completed);
        assert_eq!(book.fetches("step_abc123"), 2);
    }

    #[test]
    fn a_steered_step_stands_where_it_was_put() {
        let (mut book, start) = (book(5), Instant::now());
        let later = start + Duration::from_secs(60);
        book.steer("step_1", Status::InProgress);
        book.polled(ids("step_1"), start);
        assert_eq!(book.status("step_1", later), Status::InProgress);
        book.steer("step_1", Status::Failed);
        assert_eq!(book.status("step_1", start), Status::Failed);
    }

    #[test]
    fn a_run_lists_its_own_polled_steps() {
        let (mut book, now) = (book(5), Instant::now());
        book.polled(ids("step_1"), now);
        book.steer("step_2", Status::Completed);
        book.polled(ids("step_3"), now);
        assert!(book.of_run("thread_1", "run_1").eq(["step_1", "step_3"]));
        assert_eq!(book.of_run("thread_1", "run_2").count(), 0);
    }

    #[test]
    fn the_oldest_steps_are_forgotten() {
        let (mut book, now) = (book(5), Instant::now());
        for n in 0..MAX_STEPS + 10 {
            book.polled(ids(&format!("step_{n}")), now);
        }
        assert_eq!(book.steps.len(), MAX_STEPS);
        assert_eq!((book.fetches("step_9"), book.fetches("step_10")), (0, 1));
    }
}
