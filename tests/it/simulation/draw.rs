//! Schedules by chance that repeats: each is drawn from its seed.

use super::schedule::{Kind, Ms, Purge, Reach, Reply, Request, Schedule};

impl Schedule {
    pub(super) fn drawn(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let window = dice.pick(&[0, 1, 3, 10, 50, 100, 100, 100, 100, 1000]);
        let mut draw = Draw {
            unit: window.max(10),
            windows: dice.pick(&[3, 8, 20]),
            places: dice.pick(&[1, 1, 1, 2, 2, 3]),
            slowness: dice.pick(&[1, 1, 3, 8]),
            trouble: dice.pick(&[0, 0, 10, 40]),
            favourite: dice.chance(50).then(|| dice.below(5)),
            fresh: dice.pick(&[0, 10, 50]),
            leaving: dice.pick(&[0, 20, 60]),
            later: dice.chance(10),
            dice,
        };
        let turns = [draw.turns(), draw.turns()];
        let requests = draw.many(&[4, 12, 12, 36], Draw::request);
        let purges = draw.many(&[0, 0, 1, 4], Draw::purge);
        let replies = draw.many(&[2, 8, 16], Draw::reply);
        let narrow = draw.dice.chance(40);
        Self {
            window,
            berths: if narrow { draw.count(4) } else { 64 },
            patience: draw.moment(3),
            turns,
            requests,
            purges,
            replies,
        }
    }
}

/// The temper of one schedule.
struct Draw {
    dice: Dice,
    unit: Ms,
    windows: u64,
    places: u64,
    slowness: u64,
    /// Chances in a hundred.
    trouble: u64,
    /// The one trouble that there is.
    favourite: Option<u64>,
    fresh: u64,
    leaving: u64,
    /// Some come when what could not be shared is forgotten.
    later: bool,
}

impl Draw {
    fn many<T>(&mut self, up_to: &[u64], one: impl Fn(&mut Self) -> T) -> Vec<T> {
        let count = self.dice.pick(up_to);
        (0..self.count(count)).map(|_| one(self)).collect()
    }

    /// 1 to `most`, or none if that is 0.
    fn count(&mut self, most: u64) -> usize {
        let count = if most == 0 {
            0
        } else {
            1 + self.dice.below(most)
        };
        usize::try_from(count).unwrap()
    }

    /// A moment in the first `units`; often just where a window begins or ends.
    fn moment(&mut self, units: u64) -> Ms {
        if self.dice.chance(40) {
            self.unit * self.dice.below(units + 1)
        } else {
            self.dice.below(self.unit * units + 1)
        }
    }

    fn turn(&mut self) -> usize {
        self.dice.pick(&[0, 0, 0, 1, 2, 5])
    }

    fn turns(&mut self) -> Vec<Ms> {
        let count = self.dice.pick(&[0, 1, 1, 2, 3]);
        let mut turns: Vec<Ms> = (0..count).map(|_| self.moment(self.windows)).collect();
        turns.sort_unstable();
        turns
    }

    fn request(&mut self) -> Request {
        let later = if self.later {
            self.dice.pick(&[0, 60_000])
        } else {
            0
        };
        let short = self.dice.chance(25);
        Request {
            at: later + self.moment(self.windows),
            turn: self.turn(),
            place: usize::try_from(self.dice.below(self.places)).unwrap(),
            fresh: self.dice.chance(self.fresh),
            store: !self.dice.chance(30),
            patience: if short {
                self.moment(4)
            } else {
                100 * self.unit
            },
            hangs_up: self.dice.chance(self.leaving).then(|| self.moment(4)),
            hasty: self.dice.chance(30),
        }
    }

    fn purge(&mut self) -> Purge {
        Purge {
            at: self.moment(self.windows),
            turn: self.turn(),
            reach: self
                .dice
                .pick(&[Reach::Everything, Reach::Step(0), Reach::Step(1)]),
        }
    }

    fn reply(&mut self) -> Reply {
        let trouble = self.dice.chance(self.trouble);
        let wait = self.moment(5);
        let kinds = [
            Kind::Failure,
            Kind::TooLarge(wait),
            Kind::Refusal(wait),
            Kind::Panic,
            Kind::PanicAtOnce,
        ];
        let never = self.dice.chance(3);
        let nth = self.favourite.unwrap_or_else(|| self.dice.below(5));
        let trouble = trouble.then(|| kinds[usize::try_from(nth).unwrap()]);
        Reply {
            looks: self.moment(self.slowness),
            takes: (!never).then(|| self.moment(self.slowness)),
            turn: self.turn(),
            kind: trouble.unwrap_or(Kind::Truth),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): drawing
/// ten thousand schedules takes no time, also without optimisation.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 up to, but not including, `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn chance(&mut self, in_a_hundred: u64) -> bool {
        self.below(100) < in_a_hundred
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let count = u64::try_from(from.len()).expect("a list this short");
        from[usize::try_from(self.below(count)).expect("an index into it")]
    }
}
