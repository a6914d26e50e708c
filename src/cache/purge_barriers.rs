//! Departures and walls: what keeps a purged body from coming back.
//!
//! Every fetch takes a number when it departs. A purge stands as a wall between the numbers before
//! and after it for as long as something that departed before it is in the air; a store must pass
//! every wall that covers its step. Deciding and storing happen under one lock, so that a purge
//! comes either before the decision or after the store.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::policy::{NoStoreReason, PrimaryKey, PurgeScope};

#[derive(Debug, Default)]
pub(super) struct PurgeBarriers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    in_the_air: BTreeSet<u64>,
    /// What departed before the number does not pass.
    walls: Vec<(u64, PurgeScope)>,
}

/// The moment at which a fetch was handed to the client. Dropped when it has landed.
pub struct FetchTicket {
    number: u64,
    walls: Arc<PurgeBarriers>,
}

impl fmt::Debug for FetchTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FetchTicket({})", self.number)
    }
}

impl FetchTicket {
    /// Departures are numbered in their order, from 1.
    pub fn seq(&self) -> u64 {
        self.number
    }
}

impl Drop for FetchTicket {
    fn drop(&mut self) {
        let mut state = self.walls.lock();
        state.in_the_air.remove(&self.number);
        state.forget();
    }
}

impl PurgeBarriers {
    pub(super) fn begin_fetch(this: &Arc<Self>) -> FetchTicket {
        let mut state = this.lock();
        state.last += 1;
        let number = state.last;
        state.in_the_air.insert(number);
        FetchTicket {
            number,
            walls: Arc::clone(this),
        }
    }

    /// The highest wall before `step`; 0 where none stands.
    pub(super) fn before(&self, step: &PrimaryKey) -> u64 {
        self.lock().before(step)
    }

    pub(super) fn next(&self) -> u64 {
        self.lock().last + 1
    }

    /// Runs `store` if no wall stands between the departure and now. It is told where the last wall
    /// is: what departed before that does not count as stored any more, even if it still is.
    pub(super) fn pass(
        &self,
        departure: &FetchTicket,
        step: &PrimaryKey,
        store: impl FnOnce(u64) -> Result<(), NoStoreReason>,
    ) -> Result<(), NoStoreReason> {
        let state = self.lock();
        let wall = state.before(step);
        if departure.number < wall {
            Err(NoStoreReason::Purged)
        } else {
            store(wall)
        }
    }

    /// A wall before everything that departs from now on. It stands at least as long as `remove`,
    /// which is told its number, takes to remove what is behind it.
    pub(super) fn raise<T>(
        this: &Arc<Self>,
        scope: PurgeScope,
        remove: impl FnOnce(u64) -> T,
    ) -> T {
        // As if it were a fetch from before the wall: nothing forgets the wall meanwhile.
        let _standing = Self::begin_fetch(this);
        let number = {
            let mut state = this.lock();
            state.last += 1;
            let number = state.last;
            state.walls.push((number, scope));
            number
        };
        remove(number)
    }

    /// A wall before departure `number` itself, and what must be removed with it.
    pub(super) fn raise_at<T>(
        &self,
        number: u64,
        step: &PrimaryKey,
        remove: impl FnOnce(u64) -> T,
    ) -> T {
        let mut state = self.lock();
        let wall = state.before(step).max(number);
        state
            .walls
            .push((number, PurgeScope::Resource(step.clone())));
        state.forget();
        remove(wall)
    }

    #[cfg(test)]
    pub(super) fn standing(&self) -> usize {
        self.lock().walls.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn before(&self, step: &PrimaryKey) -> u64 {
        let covering = self
            .walls
            .iter()
            .filter(|(_, scope)| scope.covers(step.as_ref()));
        covering.map(|(number, _)| *number).max().unwrap_or(0)
    }

    /// Drops the walls that nothing in the air could still run into.
    fn forget(&mut self) {
        match self.in_the_air.first() {
            None => self.walls.clear(),
            Some(oldest) => self.walls.retain(|(number, _)| oldest < number),
        }
    }
}
