//! The pending batch of a target, and what keeps its fetch from starting.

use super::{Check, Due, FetchId, Id, Ms, Oracle, Phase, Seq, UNSHAREABLE_TTL, ensure};
use crate::simulation::log::Output;

#[derive(Default)]
pub(super) struct PendingBatch {
    pub(super) fetch_id: Option<FetchId>,
    /// In the order of their arrival. Disconnected requests stay, answered ones leave.
    pub(super) waiters: Vec<Id>,
    /// Since when its fetch waits only for a permit.
    pub(super) passed_gate: Option<Ms>,
    pub(super) last_departure: Option<Ms>,
    /// When a response last could not be shared.
    pub(super) last_unshareable: Option<Ms>,
}

impl PendingBatch {
    /// Takes the waiters out. The next request creates a new batch.
    pub(super) fn close(&mut self) -> Vec<Id> {
        (self.fetch_id, self.passed_gate) = (None, None);
        std::mem::take(&mut self.waiters)
    }
}

/// The block of a partition, and the probe that goes first when the block ends.
#[derive(Default)]
pub(super) struct Block {
    /// The fetch that got the 429, and until when it blocks.
    last: Option<(Seq, Ms)>,
    probe: Option<FetchId>,
}

impl Block {
    /// The longest block counts. A probe of an earlier block is no probe of this one.
    pub(super) fn block(&mut self, seq: Seq, until: Ms) {
        if self.last.is_none_or(|(_, last)| last < until) {
            self.last = Some((seq, until));
            self.probe = None;
        }
    }

    pub(super) fn blocked(&self, now: Ms) -> Option<(Seq, Ms)> {
        self.last.filter(|(_, until)| now < *until)
    }

    pub(super) fn probed(&self) -> bool {
        self.probe.is_some()
    }

    pub(super) fn probe_started(&mut self, fetch_id: FetchId) -> Check {
        ensure(self.probe.is_none(), "after a block one fetch goes first")?;
        self.probe = Some(fetch_id);
        Ok(())
    }

    pub(super) fn probe_ended(&mut self, fetch_id: FetchId) {
        if self.probe == Some(fetch_id) {
            self.probe = None;
        }
    }

    pub(super) fn clear(&self, fetch_id: FetchId, now: Ms) -> Check {
        ensure(
            self.blocked(now).is_none(),
            "no fetch passes the gate while its partition is blocked",
        )?;
        ensure(
            self.probe.is_none_or(|probe| probe == fetch_id),
            "no fetch passes the gate beside the probe",
        )
    }
}

impl Oracle<'_> {
    pub(super) fn joins(&mut self, id: Id) -> Check {
        let request_state = &mut self.requests[id];
        let target = request_state.request.target;
        let force_fresh = request_state.request.force_fresh;
        ensure(
            force_fresh || self.cache.stored(target).is_none(),
            "a stored body is served",
        )?;
        request_state.phase = Phase::Pending;
        let batch = &mut self.pending[target];
        let alone = batch
            .last_unshareable
            .is_some_and(|at| self.now < at + UNSHAREABLE_TTL);
        if alone || self.schedule.window == 0 {
            request_state.due = Some(Due::FetchAlone);
        } else {
            batch.waiters.push(id);
        }
        Ok(())
    }

    pub(super) fn creates_batch(&mut self, id: Id) -> Check {
        let target = self.requests[id].request.target;
        let waiting = self.waiting(target);
        ensure(
            waiting == [id],
            "a request joins the pending batch if there is one",
        )?;
        let batch = &mut self.pending[target];
        batch.close();
        batch.waiters.push(id);
        batch.fetch_id = Some(FetchId {
            request: id,
            alone: false,
        });
        Ok(())
    }

    pub(super) fn fetches_alone(&mut self, id: Id) -> Check {
        let request_state = &mut self.requests[id];
        ensure(
            request_state.due.take() == Some(Due::FetchAlone),
            "a request fetches alone only if it cannot share",
        )?;
        request_state.phase = Phase::Alone(None);
        Ok(())
    }

    pub(super) fn passed_gate(&mut self, fetch_id: FetchId) -> Check {
        let now = self.now;
        self.block_of(fetch_id).clear(fetch_id, now)?;
        if fetch_id.alone {
            self.requests[fetch_id.request].passed_gate = Some(now);
        } else {
            let target = self.target_of(fetch_id);
            if self.pending[target].fetch_id == Some(fetch_id) {
                self.pending[target].passed_gate = Some(now);
            }
        }
        Ok(())
    }

    /// The pending batch gets the reason why its fetch may not start; no other request does.
    pub(super) fn not_admitted(&mut self, fetch_id: FetchId, output: Output) -> Check {
        let target = self.target_of(fetch_id);
        let (leader, passed_gate, waiters) = if fetch_id.alone {
            let passed_gate = self.requests[fetch_id.request].passed_gate;
            (Some(fetch_id.request), passed_gate, vec![fetch_id.request])
        } else if self.pending[target].fetch_id == Some(fetch_id) {
            let leader = self.pending[target].waiters.first().copied();
            let passed_gate = self.pending[target].passed_gate;
            let waiting = self.waiting(target);
            self.pending[target].close();
            (leader, passed_gate, waiting)
        } else {
            // All its waiters had left, and another request has created a new batch.
            return Ok(());
        };
        match output {
            Output::RateLimited(seq, until) => {
                let now = self.now;
                let blocked = self.block_of(fetch_id).blocked(now);
                ensure(
                    blocked == Some((seq, until)),
                    "a block is the one that the 429 caused",
                )?;
            }
            Output::Overloaded => {
                let patience = self.schedule.queue_timeout;
                let waited = passed_gate.is_some_and(|at| at + patience == self.now);
                ensure(
                    waited,
                    "a fetch waits for a permit as long as the queue timeout",
                )?;
                let full = self.full_since.is_some_and(|at| Some(at) <= passed_gate);
                let full_now = patience == 0 && self.permits_taken == self.schedule.permits;
                ensure(full || full_now, "a free permit is granted")?;
            }
            Output::Fetched(..) => return Err("a fetch that is not admitted has no response"),
        }
        for id in waiters {
            self.requests[id].due = Some(Due::Output(output, leader == Some(id)));
        }
        Ok(())
    }
}
