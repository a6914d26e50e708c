//! A vigil: who waits for which step, when the steps end, how the upstream bears the polling.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepgate::coalesce::{PollEvent, PollResult};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use crate::simulation::draw::Dice;
use crate::simulation::schedule::Ms;

#[derive(Debug, Clone)]
pub(super) struct Vigil {
    pub(super) ends: [Option<Ms>; 2],
    pub(super) waiters: Vec<Waiter>,
    /// How the upstream takes the polls, in their order, over and over.
    pub(super) polls: Vec<Poll>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) at: Ms,
    /// How far back in the queue of its instant.
    pub(super) turn: usize,
    pub(super) step: usize,
    pub(super) patience: Ms,
    /// It comes after a purge: not even an end counts that departed before.
    pub(super) purged: bool,
    pub(super) drained: Option<Ms>,
    pub(super) hangs_up: Option<Ms>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Poll {
    /// It tells the truth of its landing.
    pub(super) takes: Ms,
    pub(super) pace: Ms,
    pub(super) bearing: Bearing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bearing {
    Truth,
    Failure,
    /// The step cannot be waited for together.
    Nothing,
    Panic,
}

/// What a waiter is told, with the number of its poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    End(u64),
    Body(u64),
    Failure(u64),
}

#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) at: Ms,
    pub(super) event: Event,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} ms  {:?}", self.at, self.event)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Came(usize),
    Answered(usize, Option<Told>),
    HungUp(usize),
    LoopStarts {
        step: usize,
    },
    LoopEnds {
        step: usize,
    },
    Polls {
        step: usize,
        number: u64,
    },
    /// None: broken, by itself or by a panic.
    PollEnds {
        step: usize,
        told: Option<Told>,
        pace: Ms,
    },
}

pub(super) struct World {
    pub(super) vigil: Vigil,
    start: Instant,
    last_number: AtomicU64,
    polled: AtomicUsize,
    log: Mutex<Vec<Entry>>,
}

impl World {
    pub(super) fn new(vigil: &Vigil) -> Self {
        Self {
            vigil: vigil.clone(),
            start: Instant::now(),
            last_number: AtomicU64::new(0),
            polled: AtomicUsize::new(0),
            log: Mutex::default(),
        }
    }

    fn now(&self) -> Ms {
        u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    pub(super) fn note(&self, event: Event) {
        let at = self.now();
        self.log.lock().unwrap().push(Entry { at, event });
    }

    pub(super) fn told(&self) -> Vec<Entry> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    pub(super) fn instant(&self, at: Ms) -> Instant {
        self.start + Duration::from_millis(at)
    }

    /// Waits for a moment and then for its turn in it.
    pub(super) async fn until(&self, at: Ms, turn: usize) {
        sleep_until(self.instant(at)).await;
        for _ in 0..turn {
            yield_now().await;
        }
    }

    pub(super) fn next_number(&self) -> u64 {
        self.last_number.load(Ordering::Relaxed) + 1
    }

    async fn report(&self, step: usize) -> PollResult<Told> {
        let number = 1 + self.last_number.fetch_add(1, Ordering::Relaxed);
        let nth = self.polled.fetch_add(1, Ordering::Relaxed);
        let poll = self.vigil.polls[nth % self.vigil.polls.len()];
        self.note(Event::Polls { step, number });
        sleep(Duration::from_millis(poll.takes)).await;
        let over = self.vigil.ends[step].is_some_and(|end| end <= self.now());
        let (heard, news) = match poll.bearing {
            Bearing::Truth if over => (PollEvent::Final, Told::End(number)),
            Bearing::Truth => (PollEvent::Live, Told::Body(number)),
            Bearing::Failure => (PollEvent::Transient, Told::Failure(number)),
            Bearing::Nothing | Bearing::Panic => (PollEvent::Unshareable, Told::Failure(number)),
        };
        self.note(Event::PollEnds {
            step,
            told: (heard != PollEvent::Unshareable).then_some(news),
            pace: poll.pace,
        });
        if poll.bearing == Bearing::Panic {
            resume_unwind(Box::new("a poll panics"));
        }
        PollResult {
            seq: number,
            event: heard,
            result: news,
            interval: Duration::from_millis(poll.pace),
        }
    }
}

struct Loop {
    world: Arc<World>,
    step: usize,
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.world.note(Event::LoopEnds { step: self.step });
    }
}

/// A loop's poll, to be called as often as it polls.
pub(super) fn poll(
    world: &Arc<World>,
    step: usize,
) -> impl FnMut() -> std::pin::Pin<Box<dyn Future<Output = PollResult<Told>> + Send>> + Send + 'static
{
    world.note(Event::LoopStarts { step });
    let own = Loop {
        world: Arc::clone(world),
        step,
    };
    move || {
        let (world, step) = (Arc::clone(&own.world), own.step);
        Box::pin(async move { world.report(step).await })
    }
}

impl Vigil {
    pub(super) fn drawn(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let span = 10_000;
        let moment = |dice: &mut Dice| 100 * dice.below(span / 100) + dice.pick(&[0, 0, 1, 50]);
        let ends = [0, 1].map(|_| dice.chance(70).then(|| moment(&mut dice)));
        let steps = dice.pick(&[1, 2]);
        let leaving = dice.pick(&[0, 20, 60]);
        let trouble = dice.pick(&[0, 10, 50]);
        let waiter = |dice: &mut Dice| Waiter {
            at: moment(dice),
            turn: dice.pick(&[0, 0, 1, 3]),
            step: usize::try_from(dice.below(steps)).unwrap(),
            patience: dice.pick(&[0, 100, 1000, 3000, 60_000]),
            purged: dice.chance(20),
            drained: dice.chance(leaving / 4).then(|| moment(dice)),
            hangs_up: dice.chance(leaving).then(|| moment(dice) / 4),
        };
        let poll = |dice: &mut Dice| Poll {
            takes: dice.pick(&[0, 10, 100, 800]),
            pace: dice.pick(&[100, 1000, 1000, 3000]),
            bearing: if dice.chance(trouble) {
                dice.pick(&[Bearing::Failure, Bearing::Nothing, Bearing::Panic])
            } else {
                Bearing::Truth
            },
        };
        Self {
            ends,
            waiters: (0..1 + dice.below(12)).map(|_| waiter(&mut dice)).collect(),
            polls: (0..1 + dice.below(6)).map(|_| poll(&mut dice)).collect(),
        }
    }
}
