//! Fetches: when they may start, and which requests they must answer when they complete.

use super::{
    BatchOptions, Check, Due, FetchId, Id, MAX_IN_FLIGHT_PER_KEY, Ms, Oracle, Phase, Seq, ensure,
};
use crate::simulation::log::{Content, Output};

pub(super) struct FetchState {
    pub(super) target: usize,
    pub(super) fetch_id: FetchId,
    /// The position in the log at which it started.
    pub(super) started_at: usize,
    /// The requests of the batch, in the order of their arrival. Disconnected ones stay, answered ones leave.
    waiters: Vec<Id>,
    /// The time whose state it reports, and what it reports.
    pub(super) brought: Option<(Ms, Content)>,
    pub(super) over: bool,
}

impl Oracle<'_> {
    pub(super) fn started_at(
        &mut self,
        fetch_id: FetchId,
        seq: Seq,
        options: BatchOptions,
    ) -> Check {
        let newest = self.fetches.keys().next_back();
        ensure(
            newest.is_none_or(|newest| *newest < seq),
            "sequence numbers follow the order of starts",
        )?;
        ensure(
            self.permits_taken < self.schedule.permits,
            "a fetch starts with a free permit",
        )?;
        self.permits_taken += 1;
        let now = self.now;
        ensure(
            self.block_of(fetch_id).blocked(now).is_none(),
            "no fetch starts while its partition is blocked",
        )?;
        let target = self.target_of(fetch_id);
        let waiters = if fetch_id.alone {
            self.requests[fetch_id.request].phase = Phase::Alone(Some(seq));
            ensure(
                options == self.options_of(&[fetch_id.request]),
                "a fetch alone has the options of its request",
            )?;
            vec![fetch_id.request]
        } else {
            self.starts_shared(fetch_id, target, seq, options)?
        };
        self.fetches.insert(
            seq,
            FetchState {
                target,
                fetch_id,
                started_at: self.position,
                waiters,
                brought: None,
                over: false,
            },
        );
        Ok(())
    }

    fn starts_shared(
        &mut self,
        fetch_id: FetchId,
        target: usize,
        seq: Seq,
        options: BatchOptions,
    ) -> Result<Vec<Id>, &'static str> {
        let waiting = self.waiting(target);
        let in_flight = self.in_flight(target);
        let batch = &self.pending[target];
        ensure(
            batch.fetch_id == Some(fetch_id),
            "a fetch serves the pending batch",
        )?;
        let since = batch.last_departure.map(|at| self.now - at);
        ensure(
            since.is_none_or(|since| since >= self.schedule.window),
            "a key is fetched at most once a window",
        )?;
        ensure(
            in_flight < MAX_IN_FLIGHT_PER_KEY,
            "a key has at most four fetches in flight",
        )?;
        ensure(!waiting.is_empty(), "no fetch starts without waiters")?;
        ensure(
            options == self.options_of(&waiting),
            "a fetch has the merged options of its waiters",
        )?;
        for id in waiting {
            self.requests[id].phase = Phase::InFlight(seq);
        }
        self.pending[target].last_departure = Some(self.now);
        Ok(self.pending[target].close())
    }

    pub(super) fn completed(&mut self, seq: Seq, observed_at: Ms, content: Content) -> Check {
        let Some(fetch_state) = self.fetches.get_mut(&seq) else {
            return Err("a completed fetch has started");
        };
        ensure(!fetch_state.over, "a fetch ends once")?;
        (fetch_state.over, fetch_state.brought) = (true, Some((observed_at, content)));
        let (target, alone) = (fetch_state.target, fetch_state.fetch_id.alone);
        let waiters = fetch_state.waiters.clone();
        let output = Output::Fetched(seq, content);
        match content {
            Content::Live | Content::Failed | Content::RateLimited => {
                self.owe_output(&waiters, output, true)
            }
            Content::Final => {
                self.owe_output(&waiters, output, true);
                if !alone {
                    self.publish_final(target, seq, output);
                }
            }
            Content::TooLarge => {
                let mut own = Some(Due::Stream(seq));
                for id in waiters {
                    self.owe(id, |_| own.take().unwrap_or(Due::FetchAlone));
                }
                if !alone {
                    let batch = &mut self.pending[target];
                    batch.last_unshareable = Some(self.now);
                    for id in std::mem::take(&mut batch.waiters) {
                        self.owe(id, |_| Due::FetchAlone);
                    }
                }
            }
        }
        Ok(())
    }

    /// A final result answers every request that accepts the fetch.
    fn publish_final(&mut self, target: usize, seq: Seq, output: Output) {
        let (requests, completed) = (&self.requests, &self.fetches[&seq]);
        let mut log_entries = Vec::new();
        let mut tell = |waiters: &[Id]| -> Vec<Id> {
            let latency = |id: &Id| requests[*id].latency(seq, completed);
            let (take, keep): (Vec<Id>, _) = waiters.iter().partition(|id| latency(id));
            log_entries.extend(take);
            keep
        };
        let batch = tell(&self.pending[target].waiters);
        let others = self.fetches.iter();
        let others = others.filter(|(_, f)| f.target == target && !f.over && !f.fetch_id.alone);
        let others: Vec<_> = others.map(|(n, f)| (*n, tell(&f.waiters))).collect();
        self.pending[target].waiters = batch;
        for (seq, waiters) in others {
            if let Some(fetch_state) = self.fetches.get_mut(&seq) {
                fetch_state.waiters = waiters;
            }
        }
        self.owe_output(&log_entries, output, false);
    }

    /// Owes the output to these requests; to the first one as the leader, if the batch is the fetch's `own`.
    fn owe_output(&mut self, waiters: &[Id], output: Output, own: bool) {
        for (target, id) in waiters.iter().enumerate() {
            self.owe(*id, |_| Due::Output(output, own && target == 0));
        }
    }

    /// Owes an answer, unless the request is done or has one due.
    fn owe(&mut self, id: Id, due: impl FnOnce(Id) -> Due) {
        let request_state = &mut self.requests[id];
        if request_state.phase != Phase::Done && request_state.due.is_none() {
            request_state.due = Some(due(id));
        }
    }

    pub(super) fn panicked(&mut self, seq: Seq) -> Check {
        let Some(fetch_state) = self.fetches.get_mut(&seq) else {
            return Err("a panicked fetch has started");
        };
        fetch_state.over = true;
        for id in std::mem::take(&mut fetch_state.waiters) {
            self.owe(id, |_| Due::Abandoned);
        }
        Ok(())
    }

    /// Called for completed and panicked fetches, too.
    pub(super) fn dropped(&mut self, seq: Seq) -> Check {
        let Some(fetch_state) = self.fetches.get_mut(&seq) else {
            return Err("a dropped fetch has started");
        };
        let early = !std::mem::replace(&mut fetch_state.over, true);
        let waits = |id: &Id| {
            let request_state = &self.requests[*id];
            // At its deadline the leader drops the fetch before it reports the timeout.
            let in_time = self.now < request_state.request.deadline();
            request_state.phase == Phase::InFlight(seq) && request_state.due.is_none() && in_time
        };
        let left = fetch_state.waiters.iter().any(waits);
        ensure(
            !(early && left),
            "a fetch goes on while a request waits for it",
        )
    }
}
