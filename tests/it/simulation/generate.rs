//! Generates schedules: the same seed gives the same schedule.

use super::schedule::{Kind, Ms, Purge, Reply, Request, Schedule, Scope};

impl Schedule {
    pub(super) fn generated(seed: u64) -> Self {
        let mut choices = Choices::new(seed);
        let window = choices.pick(&[0, 1, 3, 10, 50, 100, 100, 100, 100, 1000]);
        let mut draw = Draw {
            unit: window.max(10),
            windows: choices.pick(&[3, 8, 20]),
            targets: choices.pick(&[1, 1, 1, 2, 2, 3]),
            max_latency: choices.pick(&[1, 1, 3, 8]),
            fault_chance: choices.pick(&[0, 0, 10, 40]),
            only_fault: choices.chance(50).then(|| choices.below(5)),
            force_fresh: choices.pick(&[0, 10, 50]),
            disconnect_chance: choices.pick(&[0, 20, 60]),
            later: choices.chance(10),
            choices,
        };
        let turns = [draw.turns(), draw.turns()];
        let requests = draw.many(&[4, 12, 12, 36], Draw::request);
        let purges = draw.many(&[0, 0, 1, 4], Draw::purge);
        let replies = draw.many(&[2, 8, 16], Draw::reply);
        let narrow = draw.choices.chance(40);
        Self {
            window,
            permits: if narrow { draw.count(4) } else { 64 },
            queue_timeout: draw.moment(3),
            turns,
            requests,
            purges,
            replies,
        }
    }
}

/// The character of one schedule.
struct Draw {
    choices: Choices,
    unit: Ms,
    windows: u64,
    targets: u64,
    max_latency: u64,
    /// Chances in a hundred.
    fault_chance: u64,
    /// The only kind of fault in the schedule. `None` if all kinds occur.
    only_fault: Option<u64>,
    force_fresh: u64,
    disconnect_chance: u64,
    /// Whether some requests come when an unshareable key is forgotten.
    later: bool,
}

impl Draw {
    fn many<T>(&mut self, up_to: &[u64], one: impl Fn(&mut Self) -> T) -> Vec<T> {
        let count = self.choices.pick(up_to);
        (0..self.count(count)).map(|_| one(self)).collect()
    }

    /// Returns 1 to `most`; 0 if `most` is 0.
    fn count(&mut self, most: u64) -> usize {
        let count = if most == 0 {
            0
        } else {
            1 + self.choices.below(most)
        };
        usize::try_from(count).unwrap()
    }

    /// Returns a time in the first `units`; often exactly where a window begins or ends.
    fn moment(&mut self, units: u64) -> Ms {
        if self.choices.chance(40) {
            self.unit * self.choices.below(units + 1)
        } else {
            self.choices.below(self.unit * units + 1)
        }
    }

    fn turn(&mut self) -> usize {
        self.choices.pick(&[0, 0, 0, 1, 2, 5])
    }

    fn turns(&mut self) -> Vec<Ms> {
        let count = self.choices.pick(&[0, 1, 1, 2, 3]);
        let mut turns: Vec<Ms> = (0..count).map(|_| self.moment(self.windows)).collect();
        turns.sort_unstable();
        turns
    }

    fn request(&mut self) -> Request {
        let later = if self.later {
            self.choices.pick(&[0, 60_000])
        } else {
            0
        };
        let short = self.choices.chance(25);
        Request {
            at: later + self.moment(self.windows),
            turn: self.turn(),
            target: usize::try_from(self.choices.below(self.targets)).unwrap(),
            force_fresh: self.choices.chance(self.force_fresh),
            may_store: !self.choices.chance(30),
            patience: if short {
                self.moment(4)
            } else {
                100 * self.unit
            },
            disconnects_after: self
                .choices
                .chance(self.disconnect_chance)
                .then(|| self.moment(4)),
            disconnects_first: self.choices.chance(30),
        }
    }

    fn purge(&mut self) -> Purge {
        Purge {
            at: self.moment(self.windows),
            turn: self.turn(),
            scope: self
                .choices
                .pick(&[Scope::All, Scope::Resource(0), Scope::Resource(1)]),
        }
    }

    fn reply(&mut self) -> Reply {
        let fault_chance = self.choices.chance(self.fault_chance);
        let wait = self.moment(5);
        let kinds = [
            Kind::Failure,
            Kind::TooLarge(wait),
            Kind::RateLimit(wait),
            Kind::Panic,
            Kind::PanicAtOnce,
        ];
        let never = self.choices.chance(3);
        let nth = self.only_fault.unwrap_or_else(|| self.choices.below(5));
        let fault_chance = fault_chance.then(|| kinds[usize::try_from(nth).unwrap()]);
        Reply {
            observed_after: self.moment(self.max_latency),
            latency: (!never).then(|| self.moment(self.max_latency)),
            turn: self.turn(),
            kind: fault_chance.unwrap_or(Kind::Truth),
        }
    }
}

/// Random choices that repeat with their seed.
pub(super) struct Choices(fastrand::Rng);

impl Choices {
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Returns a number from 0 up to, but not including, `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0.u64(..end)
    }

    pub(super) fn chance(&mut self, in_a_hundred: u64) -> bool {
        self.below(100) < in_a_hundred
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *self.0.choice(from).expect("no list of choices is empty")
    }
}
