//! What a request wants of a fetch, and on which terms.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Gateway;
use super::heading::RequestHeaders;
use super::news::Errand;
use super::outcome::Forward;
use crate::coalesce::FetchOptions;
use crate::policy::CacheDirectives;

/// What a request wants of a fetch.
pub(super) struct Wish {
    pub(super) arrived: Instant,
    pub(super) conditions: CacheDirectives,
    pub(super) errand: Arc<Errand>,
    pub(super) seat: FetchOptions,
    pub(super) forward: Forward,
    /// So many seconds, and its place among those who wait.
    pub(super) wait: Option<(u64, OwnedSemaphorePermit)>,
}

impl Gateway {
    pub(super) fn wish(
        &self,
        errand: Errand,
        forward: Forward,
        conditions: CacheDirectives,
        heading: &RequestHeaders<'_>,
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
        conditions: CacheDirectives,
        arrived: Instant,
    ) -> FetchOptions {
        let fresh = forward == Forward::Request;
        FetchOptions {
            deadline: arrived + errand.setup.timeout,
            after: if fresh {
                self.cache.next_seq()
            } else {
                self.cache.min_valid_seq(errand.key())
            },
            store: !conditions.no_store,
            fresh,
        }
    }

    /// How many seconds a request is to be held, and its place among those that are. Where all are
    /// taken it is answered as if it had not asked.
    fn wait(
        &self,
        errand: &Errand,
        heading: &RequestHeaders<'_>,
    ) -> Option<(u64, OwnedSemaphorePermit)> {
        let seconds = heading.wait().filter(|_| !errand.is_list)?;
        let place = Arc::clone(&self.waiters).try_acquire_owned().ok()?;
        Some((seconds, place))
    }
}
