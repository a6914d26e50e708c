//! What the upstream knows: how often each step was fetched, and since when it is final.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::dice::Dice;
use crate::step::{Edition, Step};

/// How long steps live.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lives {
    /// Final with one of the first fetches, or never.
    Fetches,
    /// Final after a time of up to so long.
    Time(Duration),
}

/// A step as one account sees it.
#[derive(Debug, Clone, Copy)]
struct Life {
    fetches: u64,
    born: Instant,
    /// The version from which it is final.
    final_from: Option<u64>,
}

/// What was true at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Snapshot {
    pub(crate) fetches: u64,
    pub(crate) final_from: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Shelf {
    lives: Lives,
    steps: Mutex<HashMap<(String, Step), Life>>,
}

impl Shelf {
    pub(crate) fn new(lives: Lives) -> Self {
        Self {
            lives,
            steps: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, Step), Life>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fetch has come: each one sees a version of its own, until the step is final.
    pub(crate) fn fetch(&self, account: &str, step: &Step) -> Edition {
        let now = Instant::now();
        let mut steps = self.lock();
        let life = steps
            .entry((account.to_owned(), step.clone()))
            .or_insert(Life {
                fetches: 0,
                born: now,
                final_from: None,
            });
        life.fetches += 1;
        if life.final_from.is_none() && self.ends(step, life, now) {
            life.final_from = Some(life.fetches);
        }
        Edition {
            version: life.final_from.unwrap_or(life.fetches),
            is_final: life.final_from.is_some(),
        }
    }

    fn ends(&self, step: &Step, life: &Life, now: Instant) -> bool {
        let Some(id) = &step.id else {
            return false;
        };
        let mut dice = Dice::of(0, &[id, "life"]);
        match self.lives {
            Lives::Fetches => match dice.below(5) {
                0 => false,
                fetches => life.fetches >= u64::try_from(fetches).unwrap_or(1),
            },
            Lives::Time(longest) => {
                let share = u32::try_from(dice.below(1000)).unwrap_or(0);
                now >= life.born + longest * share / 1000
            }
        }
    }

    pub(crate) fn now(&self, account: &str, step: &Step) -> Snapshot {
        let steps = self.lock();
        let life = steps.get(&(account.to_owned(), step.clone()));
        life.map_or_else(Snapshot::default, |life| Snapshot {
            fetches: life.fetches,
            final_from: life.final_from,
        })
    }

    /// What nobody asks for any more.
    pub(crate) fn forget(&self, step: &Step) {
        self.lock().retain(|(_, known), _| known != step);
    }
}
