//! The cache as one of a fleet: what the shared tier gives, what it is given, what it is told.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::memory::{CacheHit, Life};
use super::redis::{Ask, Purged, SharedTier, WriteJob, WriteToken};
use super::{Cache, CoalesceKey, Entry};
use crate::config;
use crate::policy::{CacheKey, NoStoreReason, PurgeScope};

/// What a request lets the shared tier do for it.
#[derive(Debug, Clone, Copy)]
pub struct SharedOptions {
    /// It takes what is there; if not, it only wants to be able to write.
    pub may_read: bool,
    /// What is there may be kept in memory.
    pub may_store: bool,
}

impl Cache {
    /// The same with a second tier behind it.
    pub fn shared_by(mut self, tier: Arc<SharedTier>) -> Self {
        self.tier = Some(tier);
        self
    }

    /// The second tier, if there is one.
    pub fn tier(&self) -> Option<&Arc<SharedTier>> {
        self.tier.as_ref()
    }

    /// Asks the fleet for a step, once when it comes. What it has is believed only if `is_final` says
    /// so, as of an upstream's body. Waits for at most the tier's command_timeout, and not at all while it rests.
    pub async fn shared_lookup(
        &self,
        key: &Arc<CoalesceKey>,
        options: SharedOptions,
        terms: &config::Cache,
        is_final: impl FnOnce(&Bytes) -> bool,
    ) -> Option<CacheHit> {
        let tier = self.tier.as_ref()?;
        let asking = match tier.ask(key).await {
            Ask::Nothing => return None,
            Ask::Answered if options.may_read => return self.lookup(&key.key, Instant::now()),
            Ask::Answered => return None,
            Ask::Turn(asking) => asking,
        };
        // Like a fetch: what is purged while it is on its way does not come back.
        let departure = self.begin_fetch();
        let shared = tier.lookup(key, terms.max_entry_bytes).await?;
        if !options.may_read {
            return None;
        }
        let believed = is_final(&shared.body);
        tier.judged(believed);
        if !believed {
            return None;
        }
        let entry = Entry::new(&shared.body, shared.content_type.as_ref());
        let now = Instant::now();
        let life = Life {
            age: shared.age,
            remaining_ttl: shared
                .remaining_ttl
                .min(terms.ttl.saturating_sub(shared.age)),
        };
        let cache_key = &key.key;
        let stored = self
            .memory
            .block(cache_key, &entry, departure.seq(), now, life)?;
        let found = self.memory.found(stored.clone(), now)?;
        let kept = self.walls.pass(&departure, &cache_key.primary, |wall| {
            if options.may_store {
                self.memory.put(cache_key, stored, wall)
            } else {
                Ok(())
            }
        });
        drop(asking);
        // Behind a wall it may be what was purged; behind a newer store it is as final as that.
        (kept != Err(NoStoreReason::Purged)).then_some(found)
    }

    /// What a fetch that departs now needs to have its body written to the tier.
    pub fn write_token(&self, key: &Arc<CoalesceKey>) -> Option<WriteToken> {
        self.tier.as_ref()?.token(key)
    }

    /// Gives the fleet what was stored here.
    pub fn share(&self, write: WriteJob) {
        if let Some(tier) = &self.tier {
            tier.write(write);
        }
    }

    /// Tells the fleet of what was purged here. What is returned ends when it knows.
    pub fn announce_purge(&self, rule: &str, ids: &[&str]) -> Option<oneshot::Receiver<()>> {
        Some(self.tier.as_ref()?.purge(rule, ids))
    }

    /// Has the fleet forget a step that a fresh answer found live or gone, all variants of it: at once if
    /// any `was_here`, and else if the tier has any.
    pub fn invalidate_shared(&self, key: &CacheKey, was_here: bool) {
        let Some(tier) = &self.tier else { return };
        if was_here {
            tier.purge_step(&key.primary);
        } else if !tier.doubt(&key.primary) {
            return;
        }
        // Another variant may have been read from there before that.
        self.invalidate_older(&self.begin_fetch(), key);
    }

    /// Forgets what the fleet has purged. Walks all entries.
    pub fn apply_purge(&self, purged: Purged) {
        let scope = match purged {
            Purged::Anything => PurgeScope::All,
            Purged::Marked(marks) => PurgeScope::Matching(marks.predicate()),
        };
        let entries = self.purge(&scope);
        if entries > 0 {
            tracing::info!(entries, "the fleet has purged");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::redis::{SharedMetrics, scripted::at};
    use super::*;
    use crate::policy::Partition;

    fn key(variant: &str) -> CacheKey {
        CacheKey::new(Partition::of(["p"]), "run-step", &["t", "r", "s"], variant)
    }

    const MIB: u64 = 1 << 20;

    fn store(cache: &Cache, key: &CacheKey) {
        let terms = config::Cache {
            max_bytes: MIB,
            max_entry_bytes: MIB,
            ttl: Duration::from_secs(100),
            honor_no_store: true,
            redis: None,
        };
        let entry = Entry::new(b"body", None);
        let stored = cache.store(&cache.begin_fetch(), key, entry, &terms, Instant::now());
        assert_eq!(stored, Ok(()));
    }

    /// What is read from the tier departs, too; here while a fetch is on its way that finds the step live.
    #[tokio::test]
    async fn what_was_read_between_a_withdrawal_and_its_purge_goes_too() {
        let tier = Arc::new(
            SharedTier::new(&at("redis://127.0.0.1:1"), SharedMetrics::default()).unwrap(),
        );
        let cache = Cache::new(MIB).shared_by(Arc::clone(&tier));
        store(&cache, &key("a"));
        let departure = cache.begin_fetch();
        store(&cache, &key("b"));
        let removed = cache.invalidate_older(&departure, &key("a"));
        assert!(removed, "it was there");
        let is_there = |variant| cache.lookup(&key(variant), Instant::now()).is_some();
        assert!(!is_there("a") && is_there("b"), "that came after it");
        cache.invalidate_shared(&key("a"), removed);
        assert!(!is_there("b"));
        assert_eq!(tier.status()["pending_purges"], 1);
    }
}
