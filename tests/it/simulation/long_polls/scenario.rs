//! A scenario: which requests wait for which resource, when the resources become final, and how the upstream
//! replies to polls.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepgate::coalesce::{PollEvent, PollResult};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use crate::simulation::generate::Choices;
use crate::simulation::schedule::Ms;

#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) final_at: [Option<Ms>; 2],
    pub(super) waiters: Vec<Waiter>,
    /// The replies of the upstream to the polls, in order, over and over.
    pub(super) polls: Vec<Poll>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) at: Ms,
    /// How many times it yields when its time has come.
    pub(super) turn: usize,
    pub(super) resource: usize,
    pub(super) timeout_ms: Ms,
    /// Whether it comes after a purge, so that it accepts no fetch from before.
    pub(super) purged: bool,
    pub(super) drained: Option<Ms>,
    pub(super) disconnects_after: Option<Ms>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Poll {
    /// The poll reports the state that the resource has when the poll ends.
    pub(super) latency: Ms,
    pub(super) interval: Ms,
    pub(super) reply: Reply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Truth,
    Failure,
    /// The response cannot be shared.
    Unshareable,
    Panic,
}

/// What a request is answered with, and the sequence number of the poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Final(u64),
    Live(u64),
    Transient(u64),
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
    Arrived(usize),
    Answered(usize, Option<Answer>),
    Disconnected(usize),
    LoopStarts {
        resource: usize,
    },
    LoopEnds {
        resource: usize,
    },
    PollStarts {
        resource: usize,
        seq: u64,
    },
    /// The answer is `None` if the loop ends, because the response is unshareable or the poll panics.
    PollEnds {
        resource: usize,
        answer: Option<Answer>,
        interval: Ms,
    },
}

pub(super) struct World {
    pub(super) scenario: Scenario,
    start: Instant,
    last_seq: AtomicU64,
    polled: AtomicUsize,
    log: Mutex<Vec<Entry>>,
}

impl World {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            scenario: scenario.clone(),
            start: Instant::now(),
            last_seq: AtomicU64::new(0),
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

    pub(super) fn answer(&self) -> Vec<Entry> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    pub(super) fn instant(&self, at: Ms) -> Instant {
        self.start + Duration::from_millis(at)
    }

    /// Waits until `at`, then yields `turn` times.
    pub(super) async fn until(&self, at: Ms, turn: usize) {
        sleep_until(self.instant(at)).await;
        for _ in 0..turn {
            yield_now().await;
        }
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.last_seq.load(Ordering::Relaxed) + 1
    }

    async fn poll_once(&self, resource: usize) -> PollResult<Answer> {
        let seq = 1 + self.last_seq.fetch_add(1, Ordering::Relaxed);
        let nth = self.polled.fetch_add(1, Ordering::Relaxed);
        let poll = self.scenario.polls[nth % self.scenario.polls.len()];
        self.note(Event::PollStarts { resource, seq });
        sleep(Duration::from_millis(poll.latency)).await;
        let over = self.scenario.final_at[resource].is_some_and(|end| end <= self.now());
        let (event, answer) = match poll.reply {
            Reply::Truth if over => (PollEvent::Final, Answer::Final(seq)),
            Reply::Truth => (PollEvent::Live, Answer::Live(seq)),
            Reply::Failure => (PollEvent::Transient, Answer::Transient(seq)),
            Reply::Unshareable | Reply::Panic => (PollEvent::Unshareable, Answer::Transient(seq)),
        };
        self.note(Event::PollEnds {
            resource,
            answer: (event != PollEvent::Unshareable).then_some(answer),
            interval: poll.interval,
        });
        if poll.reply == Reply::Panic {
            resume_unwind(Box::new("a poll panics"));
        }
        PollResult {
            seq,
            event,
            result: answer,
            interval: Duration::from_millis(poll.interval),
        }
    }
}

struct Loop {
    world: Arc<World>,
    resource: usize,
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.world.note(Event::LoopEnds {
            resource: self.resource,
        });
    }
}

/// Returns what a loop calls for each poll.
pub(super) fn poll(
    world: &Arc<World>,
    resource: usize,
) -> impl FnMut() -> std::pin::Pin<Box<dyn Future<Output = PollResult<Answer>> + Send>> + Send + 'static
{
    world.note(Event::LoopStarts { resource });
    let own = Loop {
        world: Arc::clone(world),
        resource,
    };
    move || {
        let (world, resource) = (Arc::clone(&own.world), own.resource);
        Box::pin(async move { world.poll_once(resource).await })
    }
}

impl Scenario {
    pub(super) fn generated(seed: u64) -> Self {
        let mut choices = Choices::new(seed);
        let span = 10_000;
        let moment =
            |choices: &mut Choices| 100 * choices.below(span / 100) + choices.pick(&[0, 0, 1, 50]);
        let final_at = [0, 1].map(|_| choices.chance(70).then(|| moment(&mut choices)));
        let resources = choices.pick(&[1, 2]);
        let leaving = choices.pick(&[0, 20, 60]);
        let trouble = choices.pick(&[0, 10, 50]);
        let waiter = |choices: &mut Choices| Waiter {
            at: moment(choices),
            turn: choices.pick(&[0, 0, 1, 3]),
            resource: usize::try_from(choices.below(resources)).unwrap(),
            timeout_ms: choices.pick(&[0, 100, 1000, 3000, 60_000]),
            purged: choices.chance(20),
            drained: choices.chance(leaving / 4).then(|| moment(choices)),
            disconnects_after: choices.chance(leaving).then(|| moment(choices) / 4),
        };
        let poll = |choices: &mut Choices| Poll {
            latency: choices.pick(&[0, 10, 100, 800]),
            interval: choices.pick(&[100, 1000, 1000, 3000]),
            reply: if choices.chance(trouble) {
                choices.pick(&[Reply::Failure, Reply::Unshareable, Reply::Panic])
            } else {
                Reply::Truth
            },
        };
        Self {
            final_at,
            waiters: (0..1 + choices.below(12))
                .map(|_| waiter(&mut choices))
                .collect(),
            polls: (0..1 + choices.below(6))
                .map(|_| poll(&mut choices))
                .collect(),
        }
    }
}
