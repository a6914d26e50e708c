//! A schedule written by hand, for one resource, and the trace of its run.

use super::log::{Answer, Content, Entry, Event, Id, Output, Seq};
use super::oracle::check;
use super::play::play;
use super::schedule::{Kind, Ms, Reply, Request, Schedule};

/// The coalescer's window.
pub(super) const WINDOW: Ms = 100;

/// Returns a request that comes then, with a long timeout.
pub(super) fn at(at: Ms) -> Request {
    Request {
        at,
        turn: 0,
        target: 0,
        force_fresh: false,
        may_store: true,
        patience: 10_000,
        disconnects_after: None,
        disconnects_first: false,
    }
}

pub(super) fn force_fresh_at(moment: Ms) -> Request {
    Request {
        force_fresh: true,
        ..at(moment)
    }
}

/// Returns a reply after `latency`, with the state that the resource has when the fetch starts.
pub(super) fn after(latency: Ms) -> Reply {
    reply(latency, Kind::Truth)
}

pub(super) fn reply(latency: Ms, kind: Kind) -> Reply {
    Reply {
        observed_after: 0,
        latency: Some(latency),
        turn: 0,
        kind,
    }
}

/// Returns a schedule for one resource, which stays live.
pub(super) fn schedule<const A: usize, const B: usize>(
    requests: [Request; A],
    replies: [Reply; B],
) -> Schedule {
    Schedule {
        window: WINDOW,
        permits: 64,
        queue_timeout: 1000,
        turns: [vec![], vec![]],
        requests: requests.into(),
        purges: vec![],
        replies: replies.into(),
    }
}

/// What happened in a run that the oracle accepted.
pub(super) struct Trace {
    log: Vec<Entry>,
    requests: usize,
}

/// Runs a schedule. Panics if the oracle finds a violation.
pub(super) fn trace(schedule: &Schedule) -> Trace {
    let log = play(schedule).map_err(|(left, _)| left).unwrap();
    check(schedule, &log).unwrap();
    Trace {
        log,
        requests: schedule.requests.len(),
    }
}

impl Trace {
    pub(super) fn starts(&self) -> Vec<Ms> {
        self.moments(|event| matches!(event, Event::Started { .. }))
    }

    pub(super) fn completions(&self) -> Vec<Ms> {
        self.moments(|event| matches!(event, Event::Completed { .. }))
    }

    pub(super) fn moments(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Ms> {
        let entries = self.log.iter().filter(|entry| wanted(&entry.event));
        entries.map(|entry| entry.at).collect()
    }

    /// Returns when the request was answered, and with what.
    pub(super) fn answer(&self, request_state: Id) -> Option<(Ms, Answer)> {
        self.log.iter().find_map(|entry| {
            let Event::Answered(id, answer) = entry.event else {
                return None;
            };
            (id == request_state).then_some((entry.at, answer))
        })
    }

    pub(super) fn answers(&self) -> Vec<Option<(Ms, Answer)>> {
        (0..self.requests).map(|id| self.answer(id)).collect()
    }

    pub(super) fn stored(&self) -> Vec<(Seq, bool)> {
        let stored = |entry: &Entry| {
            let Event::Stored { seq, stored } = entry.event else {
                return None;
            };
            Some((seq, stored))
        };
        self.log.iter().filter_map(stored).collect()
    }
}

pub(super) fn led(moment: Ms, seq: Seq, content: Content) -> Option<(Ms, Answer)> {
    Some((moment, Answer::Led(Output::Fetched(seq, content))))
}

pub(super) fn joined(moment: Ms, seq: Seq, content: Content) -> Option<(Ms, Answer)> {
    Some((moment, Answer::Joined(Output::Fetched(seq, content))))
}
