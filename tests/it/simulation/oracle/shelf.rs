//! What the cache holds, if it keeps its promises: exactly.

use super::{Number, PLACES, step_of};
use crate::simulation::schedule::Reach;

#[derive(Default)]
pub(super) struct Shelf {
    stored: [Option<Number>; PLACES],
    /// The departure that last found the step live, by step.
    withdrawn: [Number; 2],
    /// The position of the last purge, by place.
    purged: [Option<usize>; PLACES],
}

/// What one who comes now may not be told: anything from before these.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Floor {
    withdrawn: Number,
    purged: Option<usize>,
}

impl Floor {
    pub(super) fn admits(&self, number: Number, departed: usize) -> bool {
        number >= self.withdrawn && self.purged.is_none_or(|purged| purged < departed)
    }
}

impl Shelf {
    pub(super) fn on(&self, place: usize) -> Option<Number> {
        self.stored[place]
    }

    pub(super) fn floor(&self, place: usize) -> Floor {
        Floor {
            withdrawn: self.withdrawn[step_of(place)],
            purged: self.purged[place],
        }
    }

    /// Whether it may be stored; then it is.
    pub(super) fn store(&mut self, place: usize, number: Number, departed: usize) -> bool {
        let newest = self.stored[place].is_none_or(|stored| stored < number);
        let may = newest && self.floor(place).admits(number, departed);
        if may {
            self.stored[place] = Some(number);
        }
        may
    }

    pub(super) fn withdraw(&mut self, place: usize, number: Number) {
        let step = step_of(place);
        self.withdrawn[step] = self.withdrawn[step].max(number);
        for (other, stored) in self.stored.iter_mut().enumerate() {
            stored.take_if(|stored| step_of(other) == step && *stored < number);
        }
    }

    pub(super) fn purge(&mut self, reach: Reach, position: usize) {
        for place in (0..PLACES).filter(|place| reach.covers(*place)) {
            self.stored[place] = None;
            self.purged[place] = Some(position);
        }
    }
}
