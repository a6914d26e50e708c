//! What is remembered of steps that departed, for a window.
//!
//! By the hash of their keys only: a busy gateway remembers thousands. Two steps of one hash, which 64
//! bits make rare, would at worst wait a window for each other.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

#[derive(Default)]
pub(super) struct RecentFetches {
    steps: HashMap<u64, Step, RandomState>,
    /// When to look whether a step can be forgotten: within a window, so that their order is near
    /// enough to that of these times.
    due: VecDeque<(Instant, u64)>,
}

#[derive(Default)]
struct Step {
    last_departure: Option<Instant>,
    alone_until: Option<Instant>,
}

impl RecentFetches {
    /// Steps that are remembered.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn knows(&self, step: u64) -> bool {
        self.steps.contains_key(&step)
    }

    pub(super) fn last_departure(&self, step: u64) -> Option<Instant> {
        self.steps.get(&step)?.last_departure
    }

    /// Whether everybody fetches alone.
    pub(super) fn is_alone(&self, step: u64, now: Instant) -> bool {
        let alone_until = self.steps.get(&step).and_then(|known| known.alone_until);
        alone_until.is_some_and(|until| now < until)
    }

    pub(super) fn departed(&mut self, step: u64, now: Instant, window: Duration) {
        self.known(step, now + window).last_departure = Some(now);
    }

    pub(super) fn alone(&mut self, step: u64, now: Instant, window: Duration, until: Instant) {
        self.known(step, now + window).alone_until = Some(until);
    }

    fn known(&mut self, step: u64, due: Instant) -> &mut Step {
        self.steps.entry(step).or_insert_with(|| {
            self.due.push_back((due, step));
            Step::default()
        })
    }

    /// Forgets the steps whose time is over.
    pub(super) fn sweep(&mut self, now: Instant, window: Duration) {
        while let Some((_, step)) = self.due.pop_front_if(|(due, _)| *due <= now) {
            let Some(known) = self.steps.get(&step) else {
                continue;
            };
            let again = known.last_departure.map(|at| at + window);
            match again.max(known.alone_until).filter(|until| *until > now) {
                Some(until) => self.due.push_back((until.min(now + window), step)),
                None => {
                    self.steps.remove(&step);
                }
            }
        }
    }
}
