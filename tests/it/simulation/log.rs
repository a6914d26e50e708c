//! What happened, in its order: the material that the oracle judges.

use super::schedule::{Ms, Reach};

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) at: Ms,
    pub(super) event: Event,
}

/// The number of a departure.
pub(super) type Number = u64;

/// The place of a request in its schedule.
pub(super) type Id = usize;

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// A request has come, and looks whether its answer is stored.
    Asked(Id),
    /// It was not: it looks for a ride.
    Boards(Id),
    /// Nothing gathered: its own fetch will.
    Opens(Id),
    /// It fetches alone.
    Alone(Id),
    Answered(Id, Answer),
    HungUp(Id),
    /// A fetch may go if there is a berth.
    Cleared(Cause),
    /// It may not, and this is why.
    Denied(Cause, News),
    Departed {
        cause: Cause,
        number: Number,
        terms: WaitOptions,
    },
    /// It tells the truth of `looked`.
    Completion {
        number: Number,
        looked: Ms,
        what: What,
    },
    Panicked(Number),
    /// Its flight ended without landing.
    Dropped(Number),
    /// A berth is free again.
    Freed,
    Stored {
        number: Number,
        stored: bool,
    },
    Withdrew(Number),
    Purged(Reach),
    Held {
        partition: usize,
        number: Number,
        until: Ms,
    },
    ProbeOut(Cause),
    ProbeBack(Cause),
}

/// What a fetch is made for: a request, and whoever boards with it unless it goes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) by: Id,
    pub(super) alone: bool,
}

/// What the passengers of a departure want, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WaitOptions {
    pub(super) deadline: Ms,
    pub(super) store: bool,
    pub(super) fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Live,
    Final,
    Failed,
    Refused,
    TooLarge,
}

/// What many can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Completion(Number, What),
    /// What that one was told holds for all until then.
    Held(Number, Ms),
    NoBerth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// What that departure stored.
    Hit(Number),
    /// Of the fetch that it caused itself.
    Opened(News),
    /// Of a fetch that was going anyway.
    Joined(News),
    /// Nothing was tried: the partition is held.
    AtTheDoor(Number, Ms),
    /// The body that could not be shared.
    Own(Number),
    /// Its deadline passed first.
    Late,
    /// The flight ended without a word.
    Lost,
}
