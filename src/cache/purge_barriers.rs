//! Purge barriers: they keep a purged body from being stored again.
//!
//! Every fetch gets a sequence number (`seq`) when it starts. A purge inserts a barrier, which has a seq
//! of its own. A fetch stores nothing if a barrier with a higher seq covers its key. The check and the
//! store run under one lock, so a purge comes either before the check or after the store. A barrier is
//! dropped when no fetch with a lower seq is in flight.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::lock::lock;
use crate::policy::{NoStoreReason, PrimaryKey, PurgeScope};

#[derive(Debug, Default)]
pub(super) struct PurgeBarriers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_seq: u64,
    /// The seqs of fetches that hold their ticket.
    in_flight: BTreeSet<u64>,
    barriers: Vec<(u64, PurgeScope)>,
}

/// Marks the moment at which a fetch started. It counts as in flight until the ticket is dropped.
pub struct FetchTicket {
    seq: u64,
    barriers: Arc<PurgeBarriers>,
}

impl fmt::Debug for FetchTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FetchTicket({})", self.seq)
    }
}

impl FetchTicket {
    /// Returns the sequence number of the fetch. Fetches are numbered from 1 in the order of their
    /// start.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

impl Drop for FetchTicket {
    fn drop(&mut self) {
        let mut state = lock(&self.barriers.state);
        state.in_flight.remove(&self.seq);
        state.drop_obsolete();
    }
}

impl PurgeBarriers {
    pub(super) fn begin_fetch(this: &Arc<Self>) -> FetchTicket {
        let mut state = lock(&this.state);
        state.last_seq += 1;
        let seq = state.last_seq;
        state.in_flight.insert(seq);
        FetchTicket {
            seq,
            barriers: Arc::clone(this),
        }
    }

    /// Returns the seq of the latest barrier that covers `key`; `0` if there is none.
    pub(super) fn latest_for(&self, key: &PrimaryKey) -> u64 {
        lock(&self.state).latest_for(key)
    }

    /// Returns the seq that the next fetch or barrier gets.
    pub(super) fn next_seq(&self) -> u64 {
        lock(&self.state).last_seq + 1
    }

    /// Runs `store` unless a barrier was inserted for `key` since the fetch started. `store` gets the
    /// seq of the latest barrier: entries with a lower seq are purged, even if the purge has not removed
    /// them yet.
    pub(super) fn commit(
        &self,
        ticket: &FetchTicket,
        key: &PrimaryKey,
        store: impl FnOnce(u64) -> Result<(), NoStoreReason>,
    ) -> Result<(), NoStoreReason> {
        let state = lock(&self.state);
        let barrier = state.latest_for(key);
        if ticket.seq < barrier {
            Err(NoStoreReason::Purged)
        } else {
            store(barrier)
        }
    }

    /// Inserts a barrier against all fetches that have started, then runs `remove` with its seq. The
    /// barrier stays at least until `remove` returns.
    pub(super) fn insert<T>(
        this: &Arc<Self>,
        scope: PurgeScope,
        remove: impl FnOnce(u64) -> T,
    ) -> T {
        // An older ticket in flight keeps `drop_obsolete` from dropping the barrier while `remove` runs.
        let _ticket = Self::begin_fetch(this);
        let seq = {
            let mut state = lock(&this.state);
            state.last_seq += 1;
            let seq = state.last_seq;
            state.barriers.push((seq, scope));
            seq
        };
        remove(seq)
    }

    /// Inserts a barrier for `key` against the fetches that started before `seq`, and runs `remove`
    /// under the same lock with the seq of the latest barrier.
    pub(super) fn insert_at<T>(
        &self,
        seq: u64,
        key: &PrimaryKey,
        remove: impl FnOnce(u64) -> T,
    ) -> T {
        let mut state = lock(&self.state);
        let barrier = state.latest_for(key).max(seq);
        state
            .barriers
            .push((seq, PurgeScope::Resource(key.clone())));
        state.drop_obsolete();
        remove(barrier)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.state).barriers.len()
    }
}

impl State {
    fn latest_for(&self, key: &PrimaryKey) -> u64 {
        let covering = self
            .barriers
            .iter()
            .filter(|(_, scope)| scope.covers(key.as_ref()));
        covering.map(|(seq, _)| *seq).max().unwrap_or(0)
    }

    /// Drops the barriers that can stop no fetch in flight.
    fn drop_obsolete(&mut self) {
        match self.in_flight.first() {
            None => self.barriers.clear(),
            Some(oldest) => self.barriers.retain(|(seq, _)| oldest < seq),
        }
    }
}
