//! Final bodies in memory, and the walls that purges put between departures and stores.
//!
//! Only what [`crate::policy::check`] found final comes in here. Nothing that departed before a purge
//! is stored after it, and an older departure never overwrites a newer one's store.

mod entry;
mod fleet;
mod key_encoding;
mod memory;
mod purge_barriers;
pub mod redis;
mod stored;
mod variants;

use std::sync::Arc;

use tokio::time::Instant;

pub use entry::{Entry, etag_of};
pub use fleet::SharedOptions;
pub use memory::CacheHit;
pub use purge_barriers::FetchTicket;
pub use stored::StoredResponse;

use self::redis::SharedTier;
use crate::config;
use crate::policy::{CacheKey, NoStoreReason, PurgeScope};
use memory::{Life, Memory};
use purge_barriers::PurgeBarriers;

/// Identifies the requests that may share one fetch: the same cache key under the same configuration.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct CoalesceKey {
    /// The number of the configuration in force when the request arrived.
    pub config_number: u64,
    /// The key under which the body may be stored.
    pub key: CacheKey,
}

/// One face over the tiers.
#[derive(Debug)]
pub struct Cache {
    memory: Memory,
    walls: Arc<PurgeBarriers>,
    tier: Option<Arc<SharedTier>>,
}

impl Cache {
    /// An empty cache of that many bytes: bodies, keys and overhead.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            memory: Memory::new(max_bytes),
            walls: Arc::default(),
            tier: None,
        }
    }

    /// The stored body, unless its time is over.
    pub fn lookup(&self, key: &CacheKey, now: Instant) -> Option<CacheHit> {
        self.memory.find(key, now)
    }

    /// To be called when a fetch is handed to the client; it stands for that moment.
    pub fn begin_fetch(&self) -> FetchTicket {
        PurgeBarriers::begin_fetch(&self.walls)
    }

    /// The lowest number whose news may be believed about `key` by whoever asks now: that of the
    /// last purge that something in the air departed before.
    pub fn min_valid_seq(&self, key: &CacheKey) -> u64 {
        self.walls.before(&key.primary)
    }

    /// The lowest number that a departure from now on can have.
    pub fn next_seq(&self) -> u64 {
        self.walls.next()
    }

    /// Stores what a fetch that left with `departure` brought, for `terms.ttl` from `now`.
    ///
    /// # Errors
    /// [`NoStoreReason::Purged`] behind a wall, [`NoStoreReason::Superseded`] behind a newer store,
    /// [`NoStoreReason::TooLarge`] above the entry limit.
    pub fn store(
        &self,
        departure: &FetchTicket,
        key: &CacheKey,
        entry: Entry<'_>,
        terms: &config::Cache,
        now: Instant,
    ) -> Result<(), NoStoreReason> {
        if entry.body.len() as u64 > terms.max_entry_bytes {
            return Err(NoStoreReason::TooLarge);
        }
        let number = departure.seq();
        let life = Life::of(terms.ttl);
        let stored = self.memory.block(key, &entry, number, now, life);
        let stored = stored.ok_or(NoStoreReason::TooLarge)?;
        self.walls.pass(departure, &key.primary, |wall| {
            self.memory.put(key, stored, wall)
        })
    }

    /// Removes all variants of a step because a fetch that left with `departure` found it live or
    /// gone. What departed later stays, and may still be stored. Returns whether one was there.
    pub fn invalidate_older(&self, departure: &FetchTicket, key: &CacheKey) -> bool {
        self.walls.raise_at(departure.seq(), &key.primary, |wall| {
            self.memory.remove_older(&key.primary, wall)
        })
    }

    /// Keeps every fetch that is under way from storing anything. What is stored stays.
    pub fn fence_in_flight(&self) {
        PurgeBarriers::raise(&self.walls, PurgeScope::All, |_| ());
    }

    /// Removes what `scope` covers, and keeps every fetch that is under way from storing it again.
    /// Returns the number of bodies removed. Walks all entries.
    pub fn purge(&self, scope: &PurgeScope) -> usize {
        PurgeBarriers::raise(&self.walls, scope.clone(), |wall| {
            self.memory.remove_covered(scope, wall)
        })
    }

    /// Steps of which a body is stored.
    pub fn entries(&self) -> u64 {
        self.memory.entries()
    }

    /// Their bytes: bodies, keys and overhead.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::Partition;

    const MIB: u64 = 1 << 20;

    const TERMS: config::Cache = config::Cache {
        max_bytes: MIB,
        max_entry_bytes: MIB,
        ttl: Duration::from_secs(100),
        honor_no_store: true,
        redis: None,
    };

    fn key(thread: &str, variant: &str) -> CacheKey {
        CacheKey::new(
            Partition::of(["p"]),
            "run-step",
            &[thread, "r", "s"],
            variant,
        )
    }

    fn entry(body: &str) -> Entry<'_> {
        Entry::new(body.as_bytes(), None)
    }

    fn store(
        cache: &Cache,
        departure: &FetchTicket,
        key: &CacheKey,
        body: &str,
    ) -> Result<(), NoStoreReason> {
        cache.store(departure, key, entry(body), &TERMS, Instant::now())
    }

    fn body(cache: &Cache, key: &CacheKey) -> Option<String> {
        let found = cache.lookup(key, Instant::now())?;
        Some(String::from_utf8(found.body().to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_stored_is_found_until_its_time_is_over() {
        let cache = Cache::new(MIB);
        let key = key("t", "");
        let departure = cache.begin_fetch();
        store(&cache, &departure, &key, "one").unwrap();
        assert_eq!(body(&cache, &key).as_deref(), Some("one"));
        tokio::time::advance(Duration::from_secs(99)).await;
        let found = cache.lookup(&key, Instant::now()).unwrap();
        assert_eq!(found.age(), Duration::from_secs(99));
        assert_eq!(found.remaining_ttl(), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(body(&cache, &key), None);
    }

    #[tokio::test]
    async fn a_body_of_the_limit_is_stored_and_a_larger_one_is_not() {
        let cache = Cache::new(MIB);
        let terms = config::Cache {
            max_entry_bytes: 4,
            ..TERMS
        };
        let departure = cache.begin_fetch();
        let store = |body| {
            let now = Instant::now();
            cache.store(&departure, &key("t", body), entry(body), &terms, now)
        };
        assert_eq!(store("four"), Ok(()));
        assert_eq!(store("fives"), Err(NoStoreReason::TooLarge));
    }

    #[tokio::test]
    async fn a_newer_body_replaces_the_one_before() {
        let cache = Cache::new(MIB);
        let key = key("t", "");
        let mut bytes = Vec::new();
        for text in ["one", "two", "six"] {
            let departure = cache.begin_fetch();
            store(&cache, &departure, &key, text).unwrap();
            assert_eq!(body(&cache, &key).as_deref(), Some(text));
            bytes.push(cache.bytes());
        }
        assert_eq!(bytes, [bytes[0]; 3], "in its place, not beside it");
    }

    #[tokio::test]
    async fn bytes_are_what_is_kept_and_what_it_costs() {
        let cache = Cache::new(MIB);
        assert_eq!((cache.entries(), cache.bytes()), (0, 0));
        let departure = cache.begin_fetch();
        let large = "x".repeat(10_000);
        let key = key("t", "");
        let stored = store(&cache, &departure, &key, &large);
        assert_eq!((stored, cache.entries()), (Ok(()), 1));
        assert!(
            (10_100..12_000).contains(&cache.bytes()),
            "{}",
            cache.bytes()
        );
        cache.purge(&PurgeScope::All);
        assert_eq!((cache.entries(), cache.bytes()), (0, 0));
    }

    #[tokio::test]
    async fn news_from_before_a_purge_is_not_believed_while_it_can_come() {
        let cache = Cache::new(MIB);
        let (purged, other) = (key("t", ""), key("u", ""));
        assert_eq!(cache.min_valid_seq(&purged), 0);
        let before = cache.begin_fetch();
        assert_eq!(cache.next_seq(), before.seq() + 1);
        cache.purge(&PurgeScope::prefix("run-step", &["t"]));
        let after = cache.begin_fetch();
        assert_eq!(cache.next_seq(), after.seq() + 1);
        let first = cache.min_valid_seq(&purged);
        assert!(before.seq() < first && first <= after.seq(), "{first}");
        assert_eq!(cache.min_valid_seq(&other), 0);
        drop(before);
        assert_eq!(
            cache.min_valid_seq(&purged),
            0,
            "nothing of it is in the air"
        );
    }

    #[tokio::test]
    async fn walled_off_fetches_store_nothing_and_what_is_stored_stays() {
        let cache = Cache::new(MIB);
        let (old, new) = (key("t", ""), key("u", ""));
        let before = cache.begin_fetch();
        let store = |departure: &FetchTicket, key: &CacheKey| store(&cache, departure, key, "x");
        assert_eq!(store(&before, &old), Ok(()));
        cache.fence_in_flight();
        assert_eq!(store(&before, &new), Err(NoStoreReason::Purged));
        assert_eq!(body(&cache, &new), None);
        assert_eq!(body(&cache, &old).as_deref(), Some("x"));
        assert_eq!(store(&cache.begin_fetch(), &new), Ok(()));
    }

    #[tokio::test]
    async fn who_withdraws_a_step_may_still_store_it() {
        let cache = Cache::new(MIB);
        let key = key("t", "");
        let (before, departure) = (cache.begin_fetch(), cache.begin_fetch());
        let store = |departure: &FetchTicket| store(&cache, departure, &key, "x");
        cache.invalidate_older(&departure, &key);
        assert_eq!(store(&before), Err(NoStoreReason::Purged));
        assert_eq!(store(&departure), Ok(()));
    }

    #[tokio::test]
    async fn variants_stand_beside_each_other_and_fall_together() {
        let cache = Cache::new(MIB);
        let first = cache.begin_fetch();
        for variant in ["", "include%5B%5D=x"] {
            store(&cache, &first, &key("t", variant), variant).unwrap();
        }
        assert_eq!(cache.entries(), 1, "one step");
        assert_eq!(body(&cache, &key("t", "")).as_deref(), Some(""));
        assert_eq!(
            body(&cache, &key("t", "include%5B%5D=x")).as_deref(),
            Some("include%5B%5D=x")
        );
        let second = cache.begin_fetch();
        assert!(cache.invalidate_older(&second, &key("t", "")));
        assert_eq!(body(&cache, &key("t", "include%5B%5D=x")), None);
        assert!(!cache.invalidate_older(&second, &key("t", "")));
    }

    #[tokio::test]
    async fn variants_of_one_step_are_bounded() {
        let cache = Cache::new(MIB);
        for n in 0..50 {
            let departure = cache.begin_fetch();
            store(&cache, &departure, &key("t", &n.to_string()), "x").unwrap();
        }
        let kept = |n: usize| body(&cache, &key("t", &n.to_string())).is_some();
        assert_eq!(
            (0..50).filter(|n| kept(*n)).collect::<Vec<_>>(),
            (42..50).collect::<Vec<_>>()
        );
    }

    #[tokio::test]
    async fn nothing_that_departed_before_a_purge_is_stored_after_it() {
        let cache = Cache::new(MIB);
        let before = cache.begin_fetch();
        store(&cache, &before, &key("t", ""), "old").unwrap();
        store(&cache, &before, &key("u", ""), "other").unwrap();
        assert_eq!(cache.purge(&PurgeScope::prefix("run-step", &["t"])), 1);
        assert_eq!(body(&cache, &key("t", "")), None);
        assert_eq!(body(&cache, &key("u", "")).as_deref(), Some("other"));
        let stored = store(&cache, &before, &key("t", ""), "old");
        assert_eq!(stored, Err(NoStoreReason::Purged));
        store(&cache, &before, &key("u", ""), "other").unwrap();
        let after = cache.begin_fetch();
        drop(before);
        store(&cache, &after, &key("t", ""), "new").unwrap();
        assert_eq!(body(&cache, &key("t", "")).as_deref(), Some("new"));
    }

    #[tokio::test]
    async fn an_older_departure_never_overwrites_a_newer_ones_store() {
        let cache = Cache::new(MIB);
        let (older, newer) = (cache.begin_fetch(), cache.begin_fetch());
        store(&cache, &newer, &key("t", ""), "new").unwrap();
        let late = store(&cache, &older, &key("t", ""), "old");
        assert_eq!(late, Err(NoStoreReason::Superseded));
        assert!(
            !cache.invalidate_older(&older, &key("t", "")),
            "an old flight knows nothing newer"
        );
        assert_eq!(body(&cache, &key("t", "")).as_deref(), Some("new"));
    }

    #[tokio::test]
    async fn an_older_departure_does_not_bring_back_what_a_newer_one_withdrew() {
        let cache = Cache::new(MIB);
        let (older, newer, newest) = (
            cache.begin_fetch(),
            cache.begin_fetch(),
            cache.begin_fetch(),
        );
        cache.invalidate_older(&newer, &key("t", ""));
        let late = store(&cache, &older, &key("t", ""), "old");
        assert_eq!(late, Err(NoStoreReason::Purged));
        store(&cache, &newest, &key("t", ""), "new").unwrap();
        assert_eq!(body(&cache, &key("t", "")).as_deref(), Some("new"));
    }

    #[tokio::test]
    async fn walls_are_forgotten_when_nothing_is_in_the_air() {
        let cache = Cache::new(MIB);
        let departure = cache.begin_fetch();
        for n in 0..100 {
            cache.purge(&PurgeScope::prefix("run-step", &[&n.to_string()]));
        }
        assert_eq!(cache.walls.standing(), 100);
        drop(departure);
        assert_eq!(cache.walls.standing(), 0);
        cache.purge(&PurgeScope::All);
        assert_eq!(cache.walls.standing(), 0);
    }

    #[tokio::test]
    async fn newcomers_get_in_when_it_is_full() {
        let cache = Cache::new(64 * 1024);
        let large = "x".repeat(4096);
        for n in 0..200 {
            let departure = cache.begin_fetch();
            let key = key(&format!("t{n}"), "");
            store(&cache, &departure, &key, &large).unwrap();
            assert!(body(&cache, &key).is_some(), "the newest is there");
            assert!(cache.bytes() <= 64 * 1024, "{}", cache.bytes());
        }
        assert!(cache.entries() >= 10, "{}", cache.entries());
    }

    #[tokio::test]
    async fn a_body_above_the_limit_is_refused() {
        let cache = Cache::new(8 * MIB);
        let departure = cache.begin_fetch();
        let large = "x".repeat(1 + usize::try_from(MIB).unwrap());
        let stored = store(&cache, &departure, &key("t", ""), &large);
        assert_eq!(stored, Err(NoStoreReason::TooLarge));
    }
}
