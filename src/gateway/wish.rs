//! What a request wants of a fetch, and on which terms.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Gateway;
use super::heading::Heading;
use super::news::Errand;
use super::outcome::Forward;
use crate::fetch::Seat;
use crate::step::Conditions;

/// What a request wants of a fetch.
pub(super) struct Wish {
    pub(super) arrived: Instant,
    pub(super) conditions: Conditions,
    pub(super) errand: Arc<Errand>,
    pub(super) seat: Seat,
    pub(super) forward: Forward,
    /// So many seconds, and its place among those who wait.
    pub(super) wait: Option<(u64, OwnedSemaphorePermit)>,
}

impl Gateway {
    pub(super) fn wish(
        &self,
        errand: Errand,
        forward: Forward,
        conditions: Conditions,
        heading: &Heading<'_>,
        arrived: Instant,
    ) -> Wish {
        Wish {
            arrived,
            seat: self.seat(&errand, forward, conditions, arrived),
            wait: self.wait(&errand, heading),
            conditions,
            errand: Arc::new(errand),
            forward,
        }
    }

    /// The terms on which a request rides: nothing from before a purge, and nothing from before
    /// itself if it insists on a fresh answer.
    fn seat(
        &self,
        errand: &Errand,
        forward: Forward,
        conditions: Conditions,
        arrived: Instant,
    ) -> Seat {
        let fresh = forward == Forward::Request;
        Seat {
            deadline: arrived + errand.setup.timeout,
            after: if fresh {
                self.cache.next_number()
            } else {
                self.cache.believable(errand.key())
            },
            store: !conditions.no_store,
            fresh,
        }
    }

    /// How many seconds a request is to be held, and its place among those that are. Where all are
    /// taken it is answered as if it had not asked.
    fn wait(&self, errand: &Errand, heading: &Heading<'_>) -> Option<(u64, OwnedSemaphorePermit)> {
        let seconds = heading.wait().filter(|_| !errand.is_list)?;
        let place = Arc::clone(&self.waiters).try_acquire_owned().ok()?;
        Some((seconds, place))
    }
}
