//! A schedule: who asks when, how the upstream replies, when the steps turn, what is purged. Made
//! smaller when it fails. Times are milliseconds from its start.

use std::fmt;

/// Milliseconds from the start of a schedule.
pub(super) type Ms = u64;

/// What can be asked for: two variants of one step, and another step of another partition.
pub(super) const PLACES: usize = 3;

#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) window: Ms,
    pub(super) berths: usize,
    /// How long a fetch waits for a berth.
    pub(super) patience: Ms,
    /// When each of the two steps turns: first to final, then back to live, and so on.
    pub(super) turns: [Vec<Ms>; 2],
    pub(super) requests: Vec<Request>,
    pub(super) purges: Vec<Purge>,
    /// How the upstream replies to the departures, in their order, over and over.
    pub(super) replies: Vec<Reply>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) at: Ms,
    /// How far back in the queue of its instant.
    pub(super) turn: usize,
    pub(super) place: usize,
    pub(super) fresh: bool,
    pub(super) store: bool,
    /// From its arrival to its deadline.
    pub(super) patience: Ms,
    /// From its arrival.
    pub(super) hangs_up: Option<Ms>,
    /// Hangs up before it looks whether its answer is there.
    pub(super) hasty: bool,
}

impl Request {
    pub(super) fn deadline(&self) -> Ms {
        self.at + self.patience
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Purge {
    pub(super) at: Ms,
    pub(super) turn: usize,
    pub(super) reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// What a reload purges.
    Everything,
    /// One step, by its thread.
    Step(usize),
}

impl Reach {
    pub(super) fn covers(self, place: usize) -> bool {
        match self {
            Self::Everything => true,
            Self::Step(step) => step == step_of(place),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Reply {
    /// From the departure to the moment whose truth it tells.
    pub(super) looks: Ms,
    /// From that moment to the landing; none: never.
    pub(super) takes: Option<Ms>,
    pub(super) turn: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The step's true state.
    Truth,
    Failure,
    /// A body too large to share, and how long it streams.
    TooLarge(Ms),
    /// Too many requests, and for how long.
    Refusal(Ms),
    /// The flight panics where it would land.
    Panic,
    /// The flight panics as it departs.
    PanicAtOnce,
}

/// The step that a place is a variant of; also its partition.
pub(super) fn step_of(place: usize) -> usize {
    place / 2
}

impl Schedule {
    /// The oracle's knowledge: whether the step at `place` is final at `at`.
    pub(super) fn is_final(&self, place: usize, at: Ms) -> bool {
        let turns = &self.turns[step_of(place)];
        turns.iter().filter(|turn| **turn <= at).count() % 2 == 1
    }

    /// Schedules like this one with a little less in them.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut smaller = self.clone();
            change(&mut smaller);
            all.push(smaller);
        };
        for half in [self.requests.len() / 2, 1] {
            for from in (0..self.requests.len()).step_by(half.max(1)) {
                let to = (from + half.max(1)).min(self.requests.len());
                add(&|s| drop(s.requests.drain(from..to)));
            }
        }
        for n in 0..self.purges.len() {
            add(&|s| {
                s.purges.remove(n);
            });
        }
        for n in 0..self.replies.len() {
            if self.replies.len() > 1 {
                add(&|s| {
                    s.replies.remove(n);
                });
            }
            if self.replies[n].kind != Kind::Truth {
                add(&|s| s.replies[n].kind = Kind::Truth);
            }
            if self.replies[n].turn > 0 {
                add(&|s| s.replies[n].turn = 0);
            }
        }
        for step in 0..self.turns.len() {
            if !self.turns[step].is_empty() {
                add(&|s| {
                    s.turns[step].pop();
                });
            }
        }
        for n in 0..self.requests.len() {
            if self.requests[n].hangs_up.is_some() {
                add(&|s| s.requests[n].hangs_up = None);
            }
            if self.requests[n].turn > 0 {
                add(&|s| s.requests[n].turn = 0);
            }
            if self.requests[n].fresh {
                add(&|s| s.requests[n].fresh = false);
            }
        }
        if self.berths < 64 {
            add(&|s| s.berths = 64);
        }
        all
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            window,
            berths,
            patience,
            turns,
            ..
        } = self;
        writeln!(
            f,
            "window {window}, berths {berths}, patience {patience}, turns {turns:?}"
        )?;
        for (id, request) in self.requests.iter().enumerate() {
            writeln!(f, "{id}: {request:?}")?;
        }
        for purge in &self.purges {
            writeln!(f, "{purge:?}")?;
        }
        self.replies
            .iter()
            .try_for_each(|reply| writeln!(f, "{reply:?}"))
    }
}
