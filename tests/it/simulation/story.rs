//! A schedule written by hand, for one step, and what came of it.

use super::log::{Answer, Entry, Event, Id, News, Number, What};
use super::oracle::check;
use super::play::play;
use super::schedule::{Kind, Ms, Reply, Request, Schedule};

/// Every shuttle's window.
pub(super) const WINDOW: Ms = 100;

/// Asks then, patiently.
pub(super) fn at(at: Ms) -> Request {
    Request {
        at,
        turn: 0,
        place: 0,
        fresh: false,
        store: true,
        patience: 10_000,
        hangs_up: None,
        hasty: false,
    }
}

pub(super) fn fresh_at(moment: Ms) -> Request {
    Request {
        fresh: true,
        ..at(moment)
    }
}

/// The truth of the departure, so much later.
pub(super) fn after(takes: Ms) -> Reply {
    reply(takes, Kind::Truth)
}

pub(super) fn reply(takes: Ms, kind: Kind) -> Reply {
    Reply {
        looks: 0,
        takes: Some(takes),
        turn: 0,
        kind,
    }
}

/// One step, live all day.
pub(super) fn day<const A: usize, const B: usize>(
    requests: [Request; A],
    replies: [Reply; B],
) -> Schedule {
    Schedule {
        window: WINDOW,
        berths: 64,
        patience: 1000,
        turns: [vec![], vec![]],
        requests: requests.into(),
        purges: vec![],
        replies: replies.into(),
    }
}

/// What happened, found good by the oracle.
pub(super) struct Story {
    log: Vec<Entry>,
    askers: usize,
}

/// Plays it. Panics where the oracle finds fault.
pub(super) fn story(schedule: &Schedule) -> Story {
    let log = play(schedule).map_err(|(left, _)| left).unwrap();
    check(schedule, &log).unwrap();
    Story {
        log,
        askers: schedule.requests.len(),
    }
}

impl Story {
    pub(super) fn departures(&self) -> Vec<Ms> {
        self.moments(|event| matches!(event, Event::Departed { .. }))
    }

    pub(super) fn landings(&self) -> Vec<Ms> {
        self.moments(|event| matches!(event, Event::Completion { .. }))
    }

    pub(super) fn moments(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Ms> {
        let entries = self.log.iter().filter(|entry| wanted(&entry.event));
        entries.map(|entry| entry.at).collect()
    }

    /// When it was answered, and what.
    pub(super) fn answer(&self, asker: Id) -> Option<(Ms, Answer)> {
        self.log.iter().find_map(|entry| {
            let Event::Answered(id, answer) = entry.event else {
                return None;
            };
            (id == asker).then_some((entry.at, answer))
        })
    }

    pub(super) fn answers(&self) -> Vec<Option<(Ms, Answer)>> {
        (0..self.askers).map(|id| self.answer(id)).collect()
    }

    pub(super) fn stored(&self) -> Vec<(Number, bool)> {
        let stored = |entry: &Entry| {
            let Event::Stored { number, stored } = entry.event else {
                return None;
            };
            Some((number, stored))
        };
        self.log.iter().filter_map(stored).collect()
    }
}

pub(super) fn opened(moment: Ms, number: Number, what: What) -> Option<(Ms, Answer)> {
    Some((moment, Answer::Opened(News::Completion(number, what))))
}

pub(super) fn joined(moment: Ms, number: Number, what: What) -> Option<(Ms, Answer)> {
    Some((moment, Answer::Joined(News::Completion(number, what))))
}
