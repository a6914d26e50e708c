//! Requests: the phase of each, and the answer that each is due.

use super::cache_model::MinSeq;
use super::{Check, FetchState, Id, Ms, Oracle, Seq, ensure};
use crate::simulation::log::{Answer, Content, Output};
use crate::simulation::schedule::{Request, resource_of};

pub(super) struct RequestState {
    pub(super) request: Request,
    /// The position in the log at which it arrived.
    arrived: usize,
    min_seq: MinSeq,
    pub(super) phase: Phase,
    pub(super) due: Option<Due>,
    /// Since when its own fetch waits only for a permit.
    pub(super) passed_gate: Option<Ms>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    NotArrived,
    LookingUp,
    /// Waits for the pending batch.
    Pending,
    InFlight(Seq),
    /// In a fetch of its own, or waiting to start it.
    Alone(Option<Seq>),
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The output, and whether the request led the batch.
    Output(Output, bool),
    Stream(Seq),
    FetchAlone,
    Abandoned,
}

impl RequestState {
    pub(super) fn of(request: &Request) -> Self {
        Self {
            request: *request,
            arrived: 0,
            min_seq: MinSeq::default(),
            phase: Phase::NotArrived,
            due: None,
            passed_gate: None,
        }
    }

    pub(super) fn in_fetch(&self) -> Option<Seq> {
        match self.phase {
            Phase::InFlight(seq) => Some(seq),
            Phase::Alone(seq) => seq,
            Phase::NotArrived | Phase::LookingUp | Phase::Pending | Phase::Done => None,
        }
    }

    /// Returns whether it accepts a final result of that fetch.
    pub(super) fn latency(&self, seq: Seq, fetch_state: &FetchState) -> bool {
        if self.request.force_fresh {
            self.arrived < fetch_state.started_at
        } else {
            self.min_seq.accepts(seq, fetch_state.started_at)
        }
    }
}

impl Oracle<'_> {
    pub(super) fn arrived(&mut self, id: Id) -> Check {
        let request_state = &mut self.requests[id];
        request_state.arrived = self.position;
        request_state.min_seq = self.cache.min_seq(request_state.request.target);
        request_state.phase = Phase::LookingUp;
        Ok(())
    }

    pub(super) fn ends(&mut self, id: Id) -> Check {
        self.requests[id].phase = Phase::Done;
        self.requests[id].due = None;
        Ok(())
    }

    pub(super) fn answered(&mut self, id: Id, answer: Answer) -> Check {
        let RequestState {
            request,
            phase,
            due,
            ..
        } = self.requests[id];
        ensure(
            self.now <= request.deadline(),
            "no answer comes after the deadline",
        )?;
        match answer {
            Answer::Hit(seq) => {
                let stored = self.cache.stored(request.target);
                ensure(stored == Some(seq), "a hit is what is stored")?;
                ensure(!request.force_fresh, "a no-cache request gets no hit")?;
                self.is_true(id, seq)?;
            }
            Answer::Blocked(seq, until) => {
                let block = &self.blocks[resource_of(request.target)];
                let blocked = block.blocked(self.now) == Some((seq, until));
                ensure(
                    blocked && phase == Phase::LookingUp,
                    "a request is rate-limited only while its partition is blocked",
                )?;
            }
            Answer::Led(output) => {
                self.check_output(id, output)?;
                ensure(
                    due == Some(Due::Output(output, true)),
                    "an answer is due before it is given",
                )?;
            }
            Answer::Joined(output) => {
                self.check_output(id, output)?;
                ensure(
                    due == Some(Due::Output(output, false)),
                    "an answer is due before it is given",
                )?;
            }
            Answer::Unshareable(seq) => {
                self.is_true(id, seq)?;
                ensure(
                    due == Some(Due::Stream(seq)),
                    "the earliest waiter gets an unshareable response",
                )?;
            }
            Answer::TimedOut => {
                let late = due.is_none() && self.now == request.deadline();
                ensure(
                    late,
                    "a request times out only at its deadline and without an answer",
                )?;
            }
            Answer::Abandoned => ensure(
                due == Some(Due::Abandoned),
                "a request is abandoned only if its fetch panicked",
            )?,
        }
        self.ends(id)
    }

    fn check_output(&self, id: Id, output: Output) -> Check {
        match output {
            Output::Fetched(seq, _) => self.is_true(id, seq),
            Output::RateLimited(..) | Output::Overloaded => Ok(()),
        }
    }

    /// The core of the oracle, in terms of times and of the resource's true state only.
    fn is_true(&self, id: Id, seq: Seq) -> Check {
        let request_state = &self.requests[id];
        let fetch_state = &self.fetches[&seq];
        let Some((observed_at, content)) = fetch_state.brought else {
            return Err("an answer comes from a completed fetch");
        };
        ensure(observed_at <= self.now, "no fetch reports the future")?;
        let is_final = self.schedule.is_final(fetch_state.target, observed_at);
        let same = resource_of(fetch_state.target) == resource_of(request_state.request.target);
        ensure(same, "an answer is of the requested resource")?;
        let started_after = request_state.arrived < fetch_state.started_at
            && request_state.request.at <= observed_at;
        match content {
            Content::Live | Content::Failed | Content::RateLimited | Content::TooLarge => ensure(
                started_after,
                "no live answer comes from a fetch that started before the request",
            ),
            Content::Final => {
                ensure(is_final, "a final answer reports a final resource")?;
                ensure(
                    started_after || !request_state.request.force_fresh,
                    "an answer to no-cache comes from a fetch that started after the request",
                )?;
                ensure(
                    request_state.min_seq.accepts(seq, fetch_state.started_at),
                    "no fetch from before a purge answers a request from after it",
                )
            }
        }
    }
}
