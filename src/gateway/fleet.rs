//! A gateway as one of a fleet: what another has fetched, and what keeps the tier that they share.

use std::sync::Arc;

use bytes::Bytes;
use hyper::http::request::Parts;
use tokio_util::sync::CancellationToken;

use super::answer::Hit;
use super::heading::RequestHeaders;
use super::{Gateway, Wish};
use crate::cache::SharedOptions;

impl Gateway {
    /// What another gateway has fetched, if there is a shared tier and this step is new here.
    pub(super) async fn ask_the_fleet(&self, wish: &Wish, head: &Parts) -> Option<Hit> {
        let errand = &wish.errand;
        self.cache.tier()?;
        if errand.is_list || !errand.query.is_known() {
            return None;
        }
        let terms = &errand.setup.cache;
        let leave = SharedOptions {
            may_read: !wish.seat.fresh,
            may_store: wish.seat.store,
        };
        let is_final = |body: &Bytes| errand.is_final(body);
        // In a box, as all that is rare.
        let asked = Box::pin(
            self.cache
                .shared_lookup(&errand.shared, leave, terms, is_final),
        );
        let found = asked.await?;
        let is_young_enough = wish.conditions.accepts_age(found.age().as_secs());
        is_young_enough.then(|| Hit::shared(found, &RequestHeaders::of(&head.headers)))
    }

    /// Keeps the shared tier, if there is one, until `end`.
    pub(crate) async fn keep_tier(self: Arc<Self>, end: CancellationToken) {
        if let Some(tier) = self.cache.tier() {
            let gateway = Arc::clone(&self);
            let forget = move |purged| gateway.cache.apply_purge(purged);
            Arc::clone(tier).keep(end, forget).await;
        }
    }

    /// Returns when the shared tier was tried once, or soon.
    pub(crate) async fn tried_tier(&self) {
        if let Some(tier) = self.cache.tier() {
            tier.tried().await;
        }
    }
}
