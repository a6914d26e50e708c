//! What the cache holds, exactly, if it keeps its promises.

use super::{Seq, TARGETS, resource_of};
use crate::simulation::schedule::Scope;

#[derive(Default)]
pub(super) struct CacheModel {
    stored: [Option<Seq>; TARGETS],
    /// The fetch that last found the resource live, by resource.
    invalidated: [Seq; 2],
    /// The position in the log of the last purge, by target.
    purged: [Option<usize>; TARGETS],
}

/// A request that comes now accepts no fetch from before these.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MinSeq {
    invalidated: Seq,
    purged: Option<usize>,
}

impl MinSeq {
    pub(super) fn accepts(&self, seq: Seq, started_at: usize) -> bool {
        seq >= self.invalidated && self.purged.is_none_or(|purged| purged < started_at)
    }
}

impl CacheModel {
    pub(super) fn stored(&self, target: usize) -> Option<Seq> {
        self.stored[target]
    }

    pub(super) fn min_seq(&self, target: usize) -> MinSeq {
        MinSeq {
            invalidated: self.invalidated[resource_of(target)],
            purged: self.purged[target],
        }
    }

    /// Stores the fetch's body if it may. Returns whether it was stored.
    pub(super) fn store(&mut self, target: usize, seq: Seq, started_at: usize) -> bool {
        let newest = self.stored[target].is_none_or(|stored| stored < seq);
        let may = newest && self.min_seq(target).accepts(seq, started_at);
        if may {
            self.stored[target] = Some(seq);
        }
        may
    }

    pub(super) fn invalidate(&mut self, target: usize, seq: Seq) {
        let step = resource_of(target);
        self.invalidated[step] = self.invalidated[step].max(seq);
        for (other, stored) in self.stored.iter_mut().enumerate() {
            stored.take_if(|stored| resource_of(other) == step && *stored < seq);
        }
    }

    pub(super) fn purge(&mut self, scope: Scope, position: usize) {
        for target in (0..TARGETS).filter(|target| scope.covers(*target)) {
            self.stored[target] = None;
            self.purged[target] = Some(position);
        }
    }
}
