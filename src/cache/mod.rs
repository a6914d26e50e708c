//! Final bodies: in memory, and in the tier that the gateways of a fleet share.
//!
//! The room stores what [`crate::policy::check`] found final, and decides nothing about that itself.
//! Its invariants: a fetch that started before a purge stores nothing that the purge covers, and an older
//! fetch never overwrites what a newer one stored. A failure of the shared tier is a miss.

mod entry_block;
mod key_encoding;
mod lock;
mod memory;
mod purge_barriers;
pub mod redis;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use entry_block::{Entry, StoredResponse, etag_of};
pub use memory::CacheHit;
pub use purge_barriers::FetchTicket;

use crate::config;
use crate::policy::{CacheKey, CoalesceKey, NoStoreReason, PurgeScope};
use memory::{Freshness, Memory};
use purge_barriers::PurgeBarriers;
use redis::{LookupTurn, SharedTier, WriteJob, WriteToken};

/// The memory tier, and the shared tier behind it if one is configured.
#[derive(Debug)]
pub struct Cache {
    memory: Memory,
    barriers: Arc<PurgeBarriers>,
    tier: Option<Arc<SharedTier>>,
}

/// What the shared tier may do for a request.
#[derive(Debug, Clone, Copy)]
pub struct SharedOptions {
    /// The request may be answered from the shared tier. Otherwise the look-up only returns the token
    /// that a later write needs.
    pub may_read: bool,
    /// The body found may be stored in memory.
    pub may_store: bool,
}

impl Cache {
    /// Creates an empty cache of `max_bytes`, which counts bodies, keys and overhead.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            memory: Memory::new(max_bytes),
            barriers: Arc::default(),
            tier: None,
        }
    }

    /// Adds a shared tier.
    pub fn with_tier(mut self, tier: Arc<SharedTier>) -> Self {
        self.tier = Some(tier);
        self
    }

    /// Returns the shared tier, or `None` if none is configured.
    pub fn tier(&self) -> Option<&Arc<SharedTier>> {
        self.tier.as_ref()
    }

    /// Returns the stored body of `key`, or `None` if there is none or it has expired.
    pub fn lookup(&self, key: &CacheKey, now: Instant) -> Option<CacheHit> {
        self.memory.lookup(key, now)
    }

    /// Registers a fetch at the moment when it is handed to the client.
    pub fn begin_fetch(&self) -> FetchTicket {
        PurgeBarriers::begin_fetch(&self.barriers)
    }

    /// Returns the lowest seq of a fetch whose result a request for `key` may get now. It is the seq of
    /// the latest barrier that an older fetch in flight still needs, or `0`.
    pub fn min_valid_seq(&self, key: &CacheKey) -> u64 {
        self.barriers.latest_for(&key.primary)
    }

    /// Returns the lowest seq that a fetch which starts from now on can have.
    pub fn next_seq(&self) -> u64 {
        self.barriers.next_seq()
    }

    /// Stores what the fetch of `ticket` returned, for `config.ttl` from `now`.
    ///
    /// # Errors
    /// [`NoStoreReason::Purged`] if the key was purged since the fetch started,
    /// [`NoStoreReason::Superseded`] if a later fetch has stored a body, [`NoStoreReason::TooLarge`] above
    /// `config.max_entry_bytes`.
    pub fn store(
        &self,
        ticket: &FetchTicket,
        key: &CacheKey,
        entry: Entry<'_>,
        config: &config::Cache,
        now: Instant,
    ) -> Result<(), NoStoreReason> {
        if entry.len() as u64 > config.max_entry_bytes {
            return Err(NoStoreReason::TooLarge);
        }
        let freshness = Freshness {
            age: Duration::ZERO,
            remaining_ttl: config.ttl,
        };
        let block = self.memory.block(key, &entry, ticket.seq(), now, freshness);
        let block = block.ok_or(NoStoreReason::TooLarge)?;
        self.barriers.commit(ticket, &key.primary, |barrier| {
            self.memory.put(key, block, barrier)
        })
    }

    /// Removes all variants of a resource that fetches before `ticket` stored, because the fetch of
    /// `ticket` found it live or gone. The fetch itself and later ones may still store. Returns whether a
    /// body was removed.
    pub fn invalidate_older(&self, ticket: &FetchTicket, key: &CacheKey) -> bool {
        self.barriers
            .insert_at(ticket.seq(), &key.primary, |barrier| {
                self.memory.remove_older(&key.primary, barrier)
            })
    }

    /// Keeps the fetches in flight from storing anything. Stored bodies stay.
    pub fn fence_in_flight(&self) {
        PurgeBarriers::insert(&self.barriers, PurgeScope::All, |_| ());
    }

    /// Removes what `scope` covers, and keeps the fetches in flight from storing it again. Returns the
    /// number of bodies removed. Walks all entries.
    pub fn purge(&self, scope: &PurgeScope) -> usize {
        PurgeBarriers::insert(&self.barriers, scope.clone(), |barrier| {
            self.memory.remove_covered(scope, barrier)
        })
    }

    /// Returns the number of resources of which a body is stored.
    pub fn entries(&self) -> u64 {
        self.memory.entries()
    }

    /// Returns the size of what is stored: bodies, keys and overhead.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Looks a resource up in the shared tier, once when its key becomes active. A body is used only if
    /// `is_final` accepts it, as it must accept an upstream's body. The look-up takes at most the command
    /// timeout, and no time while the circuit breaker is open.
    pub async fn shared_lookup(
        &self,
        key: &Arc<CoalesceKey>,
        options: SharedOptions,
        config: &config::Cache,
        is_final: impl FnOnce(&Bytes) -> bool,
    ) -> Option<CacheHit> {
        let tier = self.tier.as_ref()?;
        // The lease is held until the body is in memory, where the followers then look.
        let _lease = match tier.lookup_turn(key) {
            LookupTurn::Done => return None,
            LookupTurn::Leader(lease) => lease,
            LookupTurn::Follower(done) => {
                done.await;
                let hit = || self.lookup(&key.key, Instant::now());
                return options.may_read.then(hit).flatten();
            }
        };
        // A look-up takes a ticket like a fetch, so that a purge during it keeps the body out.
        let ticket = self.begin_fetch();
        let found = tier.lookup(key, config.max_entry_bytes).await?;
        if !options.may_read {
            return None;
        }
        let is_valid = is_final(&found.body);
        tier.count_lookup(is_valid);
        if !is_valid {
            return None;
        }
        let now = Instant::now();
        let age = found.freshness.age;
        let max_ttl = config.ttl.saturating_sub(age);
        let freshness = Freshness {
            age,
            remaining_ttl: found.freshness.remaining_ttl.min(max_ttl),
        };
        let entry = Entry::new(&found.body, found.content_type.as_ref());
        let key = &key.key;
        let block = self
            .memory
            .block(key, &entry, ticket.seq(), now, freshness)?;
        let hit = self.memory.hit(block.clone(), now)?;
        let stored = self.barriers.commit(&ticket, &key.primary, |barrier| {
            if options.may_store {
                self.memory.put(key, block, barrier)
            } else {
                Ok(())
            }
        });
        // `Superseded` is no reason to fetch: the body is as final as the newer one.
        (stored != Err(NoStoreReason::Purged)).then_some(hit)
    }

    /// Returns the token with which a fetch that starts now may write its body to the shared tier.
    pub fn write_token(&self, key: &Arc<CoalesceKey>) -> Option<WriteToken> {
        self.tier.as_ref()?.write_token(key)
    }

    /// Queues a stored body to be written to the shared tier.
    pub fn share(&self, job: WriteJob) {
        if let Some(tier) = &self.tier {
            tier.write(job);
        }
    }

    /// Announces to the fleet a purge of the resources of `rule` below `ids`. The receiver completes when
    /// the purge is in the fleet's log; `None` without a shared tier. The purge of this gateway's memory
    /// must follow the call: otherwise a look-up between the two could store a purged body.
    pub fn announce_purge(&self, rule: &str, ids: &[&str]) -> Option<oneshot::Receiver<()>> {
        Some(self.tier.as_ref()?.announce_purge(rule, ids))
    }

    /// Purges from the shared tier all variants of a resource that a fetch found live or gone. If this
    /// gateway had a body stored (`was_stored`), the purge is announced at once, otherwise after a check
    /// that the tier has a body.
    pub fn invalidate_shared(&self, key: &CacheKey, was_stored: bool) {
        let Some(tier) = &self.tier else { return };
        if was_stored {
            tier.announce_purge_of(&key.primary);
        } else if !tier.suspect(&key.primary) {
            return;
        }
        // A look-up may have stored another variant before the tier stopped answering for the resource.
        self.invalidate_older(&self.begin_fetch(), key);
    }

    /// Applies a purge that another gateway announced. Walks all entries.
    pub fn apply_purge(&self, scope: &PurgeScope) {
        let entries = self.purge(scope);
        if entries > 0 {
            tracing::info!(entries, "applied a purge of the fleet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::redis::{SharedMetrics, test_server::config_for};
    use super::*;
    use crate::policy::Partition;

    const MIB: u64 = 1 << 20;

    const CONFIG: config::Cache = config::Cache {
        max_bytes: MIB,
        max_entry_bytes: MIB,
        ttl: Duration::from_secs(100),
        honor_no_store: true,
        redis: None,
    };

    fn key(thread: &str, variant: &str) -> CacheKey {
        let ids = [thread, "r", "s"];
        CacheKey::new(Partition::of(["p"]), "run-step", &ids, variant)
    }

    fn store(
        cache: &Cache,
        ticket: &FetchTicket,
        key: &CacheKey,
        body: &str,
    ) -> Result<(), NoStoreReason> {
        let entry = Entry::new(body.as_bytes(), None);
        cache.store(ticket, key, entry, &CONFIG, Instant::now())
    }

    /// Stores a body with a fetch of its own.
    fn fetch(cache: &Cache, key: &CacheKey, body: &str) {
        assert_eq!(store(cache, &cache.begin_fetch(), key, body), Ok(()));
    }

    fn body(cache: &Cache, key: &CacheKey) -> Option<String> {
        let hit = cache.lookup(key, Instant::now())?;
        Some(String::from_utf8(hit.body().to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_stored_body_is_a_hit_until_its_ttl_ends() {
        let cache = Cache::new(MIB);
        let key = key("t", "");
        fetch(&cache, &key, "one");
        assert_eq!(body(&cache, &key).as_deref(), Some("one"));
        tokio::time::advance(Duration::from_secs(99)).await;
        let hit = cache.lookup(&key, Instant::now()).unwrap();
        assert_eq!(hit.age(), Duration::from_secs(99));
        assert_eq!(hit.remaining_ttl(), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(body(&cache, &key), None);
    }

    #[tokio::test]
    async fn a_body_above_max_entry_bytes_is_not_stored() {
        let cache = Cache::new(8 * MIB);
        let ticket = cache.begin_fetch();
        let config = config::Cache {
            max_entry_bytes: 4,
            ..CONFIG
        };
        let store_within = |body: &str| {
            let entry = Entry::new(body.as_bytes(), None);
            cache.store(&ticket, &key("t", body), entry, &config, Instant::now())
        };
        assert_eq!(store_within("four"), Ok(()));
        assert_eq!(store_within("fives"), Err(NoStoreReason::TooLarge));
        let large = "x".repeat(1 + usize::try_from(MIB).unwrap());
        let stored = store(&cache, &ticket, &key("t", ""), &large);
        assert_eq!(stored, Err(NoStoreReason::TooLarge));
    }

    #[tokio::test]
    async fn a_newer_body_replaces_the_older_one() {
        let cache = Cache::new(MIB);
        let key = key("t", "");
        let mut bytes = Vec::new();
        for text in ["one", "two", "six"] {
            fetch(&cache, &key, text);
            assert_eq!(body(&cache, &key).as_deref(), Some(text));
            bytes.push(cache.bytes());
        }
        assert_eq!(bytes, [bytes[0]; 3], "each body took the place of the last");
    }

    #[tokio::test]
    async fn bytes_counts_bodies_keys_and_overhead() {
        let cache = Cache::new(MIB);
        assert_eq!((cache.entries(), cache.bytes()), (0, 0));
        fetch(&cache, &key("t", ""), &"x".repeat(10_000));
        assert_eq!(cache.entries(), 1);
        let bytes = cache.bytes();
        assert!((10_100..12_000).contains(&bytes), "{bytes}");
        cache.purge(&PurgeScope::All);
        assert_eq!((cache.entries(), cache.bytes()), (0, 0));
    }

    #[tokio::test]
    async fn min_valid_seq_excludes_fetches_from_before_a_purge_while_they_are_in_flight() {
        let cache = Cache::new(MIB);
        let (purged, other) = (key("t", ""), key("u", ""));
        assert_eq!(cache.min_valid_seq(&purged), 0);
        let before = cache.begin_fetch();
        assert_eq!(cache.next_seq(), before.seq() + 1);
        cache.purge(&PurgeScope::prefix("run-step", &["t"]));
        let after = cache.begin_fetch();
        assert_eq!(cache.next_seq(), after.seq() + 1);
        let min = cache.min_valid_seq(&purged);
        assert!(before.seq() < min && min <= after.seq(), "{min}");
        assert_eq!(cache.min_valid_seq(&other), 0);
        drop(before);
        assert_eq!(cache.min_valid_seq(&purged), 0, "none is in flight");
    }

    #[tokio::test]
    async fn a_fence_stops_the_stores_of_fetches_in_flight_and_keeps_stored_bodies() {
        let cache = Cache::new(MIB);
        let (old, new) = (key("t", ""), key("u", ""));
        let before = cache.begin_fetch();
        assert_eq!(store(&cache, &before, &old, "x"), Ok(()));
        cache.fence_in_flight();
        let late = store(&cache, &before, &new, "x");
        assert_eq!(late, Err(NoStoreReason::Purged));
        assert_eq!(body(&cache, &new), None);
        assert_eq!(body(&cache, &old).as_deref(), Some("x"));
        fetch(&cache, &new, "x");
    }

    #[tokio::test]
    async fn a_fetch_that_invalidates_may_still_store() {
        let cache = Cache::new(MIB);
        let key = key("t", "");
        let (before, ticket) = (cache.begin_fetch(), cache.begin_fetch());
        cache.invalidate_older(&ticket, &key);
        let late = store(&cache, &before, &key, "x");
        assert_eq!(late, Err(NoStoreReason::Purged));
        assert_eq!(store(&cache, &ticket, &key, "x"), Ok(()));
    }

    #[tokio::test]
    async fn variants_are_stored_side_by_side_and_removed_together() {
        let cache = Cache::new(MIB);
        let variants = [key("t", ""), key("t", "include%5B%5D=x")];
        for key in &variants {
            fetch(&cache, key, &key.variant);
        }
        assert_eq!(cache.entries(), 1, "one resource");
        for key in &variants {
            assert_eq!(body(&cache, key).as_deref(), Some(&*key.variant));
        }
        let ticket = cache.begin_fetch();
        assert!(cache.invalidate_older(&ticket, &variants[0]));
        assert_eq!(body(&cache, &variants[1]), None);
        assert!(!cache.invalidate_older(&ticket, &variants[0]));
    }

    #[tokio::test]
    async fn the_variants_of_a_resource_are_limited_to_the_newest_eight() {
        let cache = Cache::new(MIB);
        let variant = |n: usize| key("t", &n.to_string());
        for n in 0..50 {
            fetch(&cache, &variant(n), "x");
        }
        let stored: Vec<_> = (0..50)
            .filter(|n| body(&cache, &variant(*n)).is_some())
            .collect();
        assert_eq!(stored, (42..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_fetch_from_before_a_purge_stores_nothing_that_it_covers() {
        let cache = Cache::new(MIB);
        let (purged, other) = (key("t", ""), key("u", ""));
        let before = cache.begin_fetch();
        store(&cache, &before, &purged, "old").unwrap();
        store(&cache, &before, &other, "other").unwrap();
        assert_eq!(cache.purge(&PurgeScope::prefix("run-step", &["t"])), 1);
        assert_eq!(body(&cache, &purged), None);
        assert_eq!(body(&cache, &other).as_deref(), Some("other"));
        let late = store(&cache, &before, &purged, "old");
        assert_eq!(late, Err(NoStoreReason::Purged));
        store(&cache, &before, &other, "other").unwrap();
        let after = cache.begin_fetch();
        drop(before);
        store(&cache, &after, &purged, "new").unwrap();
        assert_eq!(body(&cache, &purged).as_deref(), Some("new"));
    }

    #[tokio::test]
    async fn an_older_fetch_never_overwrites_or_removes_the_body_of_a_newer_one() {
        let cache = Cache::new(MIB);
        let key = key("t", "");
        let (older, newer) = (cache.begin_fetch(), cache.begin_fetch());
        store(&cache, &newer, &key, "new").unwrap();
        let late = store(&cache, &older, &key, "old");
        assert_eq!(late, Err(NoStoreReason::Superseded));
        assert!(!cache.invalidate_older(&older, &key));
        assert_eq!(body(&cache, &key).as_deref(), Some("new"));
    }

    #[tokio::test]
    async fn an_older_fetch_does_not_restore_what_a_newer_one_invalidated() {
        let cache = Cache::new(MIB);
        let key = key("t", "");
        let tickets = [(); 3].map(|()| cache.begin_fetch());
        let [older, newer, newest] = &tickets;
        cache.invalidate_older(newer, &key);
        let late = store(&cache, older, &key, "old");
        assert_eq!(late, Err(NoStoreReason::Purged));
        store(&cache, newest, &key, "new").unwrap();
        assert_eq!(body(&cache, &key).as_deref(), Some("new"));
    }

    #[tokio::test]
    async fn barriers_are_dropped_when_no_older_fetch_is_in_flight() {
        let cache = Cache::new(MIB);
        let ticket = cache.begin_fetch();
        for n in 0..100 {
            cache.purge(&PurgeScope::prefix("run-step", &[&n.to_string()]));
        }
        assert_eq!(cache.barriers.len(), 100);
        drop(ticket);
        assert_eq!(cache.barriers.len(), 0);
        cache.purge(&PurgeScope::All);
        assert_eq!(cache.barriers.len(), 0);
    }

    #[tokio::test]
    async fn a_full_cache_evicts_to_store_the_newest_body() {
        let cache = Cache::new(64 * 1024);
        let large = "x".repeat(4096);
        for n in 0..200 {
            let key = key(&format!("t{n}"), "");
            fetch(&cache, &key, &large);
            assert!(body(&cache, &key).is_some(), "the newest is a hit");
            assert!(cache.bytes() <= 64 * 1024, "{}", cache.bytes());
        }
        assert!(cache.entries() >= 10, "{}", cache.entries());
    }

    /// A look-up in the shared tier takes a ticket, too: here while a fetch finds the resource live.
    #[tokio::test]
    async fn invalidate_shared_also_removes_a_variant_that_was_stored_since_the_fetch_started() {
        let config = config_for("redis://127.0.0.1:1");
        let tier = Arc::new(SharedTier::new(&config, SharedMetrics::default()).unwrap());
        let cache = Cache::new(MIB).with_tier(Arc::clone(&tier));
        let (first, second) = (key("t", "a"), key("t", "b"));
        fetch(&cache, &first, "body");
        let ticket = cache.begin_fetch();
        fetch(&cache, &second, "body");
        let removed = cache.invalidate_older(&ticket, &first);
        assert!(removed);
        assert_eq!(body(&cache, &first), None);
        assert!(body(&cache, &second).is_some(), "it is newer");
        cache.invalidate_shared(&first, removed);
        assert_eq!(body(&cache, &second), None);
        assert_eq!(tier.status()["pending_purges"], 1);
    }
}
