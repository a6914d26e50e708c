//! The oracle: replays what happened and reports what must not have happened. It knows the true state of
//! every resource at every time, and the answer that each request is due. An answer that is due must come at
//! once, and no other answer may come.

mod cache_model;
mod fetches;
mod pending;
mod requests;

use std::collections::BTreeMap;

use super::log::{BatchOptions, Entry, Event, FetchId, Id, Seq};
use super::schedule::{Ms, Schedule, TARGETS, resource_of};
use cache_model::CacheModel;
use fetches::FetchState;
use pending::{Block, PendingBatch};
use requests::{Due, Phase, RequestState};

/// The same as the coalescer's own, because they are promises.
const MAX_IN_FLIGHT_PER_KEY: usize = 4;
const UNSHAREABLE_TTL: Ms = 60_000;

/// A rule that is violated after so many entries of the log.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) rule: &'static str,
    pub(super) entries: usize,
}

type Check = Result<(), &'static str>;

fn ensure(holds: bool, rule: &'static str) -> Check {
    if holds { Ok(()) } else { Err(rule) }
}

struct Oracle<'s> {
    schedule: &'s Schedule,
    now: Ms,
    /// The position in the log, which orders events of the same time.
    position: usize,
    requests: Vec<RequestState>,
    fetches: BTreeMap<Seq, FetchState>,
    pending: [PendingBatch; TARGETS],
    cache: CacheModel,
    blocks: [Block; 2],
    permits_taken: usize,
    /// Since when all permits were taken whenever time passed.
    full_since: Option<Ms>,
}

pub(super) fn check(schedule: &Schedule, log: &[Entry]) -> Result<(), Violation> {
    let mut oracle = Oracle::new(schedule);
    for (index, entry) in log.iter().enumerate() {
        let broken = |rule| Violation {
            rule,
            entries: index + 1,
        };
        (oracle.now, oracle.position) = (entry.at, index);
        oracle.apply(entry.event).map_err(broken)?;
        let next = log.get(index + 1).map(|next| next.at);
        if next != Some(entry.at) {
            oracle.time_passes(next).map_err(broken)?;
        }
    }
    let gone = oracle.requests.iter().all(|a| a.phase == Phase::Done);
    let ended = oracle.fetches.values().all(|fetch_state| fetch_state.over);
    let entries = log.len();
    let end = |rule| Violation { rule, entries };
    ensure(gone, "every request ends").map_err(end)?;
    ensure(ended, "every fetch ends").map_err(end)
}

impl<'s> Oracle<'s> {
    fn new(schedule: &'s Schedule) -> Self {
        Self {
            schedule,
            now: 0,
            position: 0,
            requests: schedule.requests.iter().map(RequestState::of).collect(),
            fetches: BTreeMap::new(),
            pending: Default::default(),
            cache: CacheModel::default(),
            blocks: Default::default(),
            permits_taken: 0,
            full_since: None,
        }
    }

    fn apply(&mut self, event: Event) -> Check {
        match event {
            Event::Arrived(id) => self.arrived(id),
            Event::Joins(id) => self.joins(id),
            Event::CreatesBatch(id) => self.creates_batch(id),
            Event::FetchesAlone(id) => self.fetches_alone(id),
            Event::Answered(id, answer) => self.answered(id, answer),
            Event::Disconnected(id) => self.ends(id),
            Event::PassedGate(fetch_id) => self.passed_gate(fetch_id),
            Event::NotAdmitted(fetch_id, output) => self.not_admitted(fetch_id, output),
            Event::Started {
                fetch_id,
                seq,
                options,
            } => self.started_at(fetch_id, seq, options),
            Event::Completed {
                seq,
                observed_at,
                content,
            } => self.completed(seq, observed_at, content),
            Event::Panicked(seq) => self.panicked(seq),
            Event::Dropped(seq) => self.dropped(seq),
            Event::PermitReleased => {
                self.permits_taken -= 1;
                Ok(())
            }
            Event::Stored { seq, stored } => {
                let fetch_state = &self.fetches[&seq];
                let may = self
                    .cache
                    .store(fetch_state.target, seq, fetch_state.started_at);
                ensure(
                    stored == may,
                    "a body is stored unless a purge or a newer fetch has overtaken it",
                )
            }
            Event::Invalidated(seq) => {
                self.cache.invalidate(self.fetches[&seq].target, seq);
                Ok(())
            }
            Event::Purged(scope) => {
                self.cache.purge(scope, self.position);
                Ok(())
            }
            Event::Blocked {
                partition,
                seq,
                until,
            } => {
                self.blocks[partition].block(seq, until);
                Ok(())
            }
            Event::ProbeStarted(fetch_id) => self.block_of(fetch_id).probe_started(fetch_id),
            Event::ProbeEnded(fetch_id) => {
                self.block_of(fetch_id).probe_ended(fetch_id);
                Ok(())
            }
        }
    }

    fn target_of(&self, fetch_id: FetchId) -> usize {
        self.requests[fetch_id.request].request.target
    }

    fn block_of(&mut self, fetch_id: FetchId) -> &mut Block {
        &mut self.blocks[resource_of(self.target_of(fetch_id))]
    }

    fn options_of(&self, ids: &[Id]) -> BatchOptions {
        let wanted = || ids.iter().map(|id| &self.requests[*id].request);
        BatchOptions {
            deadline: wanted().map(|r| r.deadline()).max().unwrap_or(0),
            may_store: wanted().any(|r| r.may_store),
            force_fresh: wanted().any(|r| r.force_fresh),
        }
    }

    /// Returns the requests that still wait for the pending batch of a target, in the order of their arrival.
    fn waiting(&self, target: usize) -> Vec<Id> {
        let waits = |id: &Id| {
            let request_state = &self.requests[*id];
            request_state.phase == Phase::Pending && request_state.due.is_none()
        };
        let waiters = &self.pending[target].waiters;
        waiters.iter().copied().filter(waits).collect()
    }

    /// Returns how many shared fetches of a target are in flight.
    fn in_flight(&self, target: usize) -> usize {
        let fetches = self.fetches.values();
        let counts = |f: &&FetchState| f.target == target && !f.over && !f.fetch_id.alone;
        fetches.filter(counts).count()
    }

    /// Checks what must hold whenever time passes, until `next`.
    fn time_passes(&mut self, next: Option<Ms>) -> Check {
        let full = self.permits_taken == self.schedule.permits;
        self.full_since = full.then(|| self.full_since.unwrap_or(self.now));
        self.all_due_answers_given()?;
        self.no_fetch_without_waiters()?;
        self.no_needless_wait(full, next)
    }

    fn all_due_answers_given(&self) -> Check {
        for request_state in &self.requests {
            ensure(
                request_state.due.is_none(),
                "an answer that is due comes at once",
            )?;
            let here = !matches!(request_state.phase, Phase::NotArrived | Phase::Done);
            let late = here && request_state.request.deadline() <= self.now;
            ensure(!late, "every request ends by its deadline")?;
            let completed = request_state
                .in_fetch()
                .is_some_and(|n| self.fetches[&n].over);
            ensure(!completed, "a completed fetch answers its waiters")?;
        }
        Ok(())
    }

    fn no_fetch_without_waiters(&self) -> Check {
        self.fetches.iter().try_for_each(|(seq, fetch_state)| {
            let in_fetch = |request_state: &RequestState| request_state.in_fetch() == Some(*seq);
            let left = !self.requests.iter().any(in_fetch);
            ensure(
                fetch_state.over || !left,
                "a fetch is dropped with its last waiter",
            )
        })
    }

    fn no_needless_wait(&self, full: bool, next: Option<Ms>) -> Check {
        for request_state in &self.requests {
            let target = request_state.request.target;
            let (passed_gate, from) = match request_state.phase {
                Phase::Pending => self.may_start(target),
                Phase::Alone(None) => (request_state.passed_gate.is_some(), Some(self.now)),
                Phase::NotArrived | Phase::LookingUp | Phase::Done => continue,
                Phase::InFlight(_) | Phase::Alone(Some(_)) => continue,
            };
            let block = &self.blocks[resource_of(target)];
            let goes = if passed_gate {
                !full
            } else {
                block.blocked(self.now).is_some() || !(full || block.probed())
            };
            let Some(from) = from.filter(|_| goes) else {
                continue;
            };
            let waits = from > self.now && next.is_some_and(|next| next <= from);
            ensure(waits, "if no limit applies, a fetch starts at once")?;
        }
        Ok(())
    }

    /// Returns whether the pending batch has passed the gate, and the time from which the window and the fetches
    /// in flight permit its start, as far as is known now.
    fn may_start(&self, target: usize) -> (bool, Option<Ms>) {
        let batch = &self.pending[target];
        let next = batch
            .last_departure
            .map_or(0, |at| at + self.schedule.window);
        let allowed = self.in_flight(target) < MAX_IN_FLIGHT_PER_KEY;
        let from = allowed.then(|| next.max(self.now));
        (batch.passed_gate.is_some(), from)
    }
}
