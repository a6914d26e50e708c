//! What the gateway says of itself: metrics, the status; and a purge, which an operator
//! asks for in the same place.

use thiserror::Error;
use tokio::sync::oneshot;

use super::Gateway;
use super::line::shows_ids;
use super::metrics::Gauges;
use crate::policy::PurgeScope;

/// Why nothing was purged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PurgeError {
    /// No rule has this name.
    #[error("there is no rule `{0}`")]
    NoRule(String),
    /// More ids than the rule's path has, which are so many.
    #[error("the paths of this rule have {0} ids; write /cache/RULE/ID[/ID…] with at most as many")]
    TooManyIds(usize),
}

/// What a purge did.
#[derive(Debug)]
pub struct Purge {
    /// Bodies removed from this gateway's memory.
    pub purged: usize,
    /// Ends when the fleet knows; none without one.
    pub told: Option<oneshot::Receiver<()>>,
}

impl Gateway {
    /// Removes what a rule stored below these leading ids, and tells the fleet, if there is one.
    ///
    /// # Errors
    /// [`PurgeError`]; nothing is removed then.
    pub fn purge(&self, rule: &str, ids: &[&str]) -> Result<Purge, PurgeError> {
        let setup = self.setup.load();
        let known = setup.rules.iter().find(|known| known.name() == rule);
        let known = known.ok_or_else(|| PurgeError::NoRule(rule.to_owned()))?;
        let most = known.path().parameters().count();
        if ids.len() > most {
            return Err(PurgeError::TooManyIds(most));
        }
        // First: what is read from the tier after the wall is up would be kept.
        let told = self.cache.announce_purge(known.name(), ids);
        let purged = self.cache.purge(&PurgeScope::prefix(known.name(), ids));
        let told_ids = shows_ids(&setup).then(|| ids.join("/"));
        tracing::info!(rule, ids = told_ids, depth = ids.len(), purged, "purged");
        Ok(Purge { purged, told })
    }

    /// OpenMetrics text, for a scrape.
    pub fn metrics(&self) -> String {
        let gauges = self.gauges();
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        gauges.cache_entries.set(signed(self.cache.entries()));
        gauges.cache_bytes.set(signed(self.cache.bytes()));
        gauges
            .in_flight
            .set(signed(self.book.berths().taken() as u64));
        let waiting = self.max_long_polls - self.waiters.available_permits();
        gauges.waiters.set(signed(waiting as u64));
        self.metrics.encode()
    }

    pub(crate) fn gauges(&self) -> &Gauges {
        &self.metrics.gauges
    }
}
