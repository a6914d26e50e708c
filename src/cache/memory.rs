//! The memory tier: moka, weighed in bytes, least recently used first.
//!
//! One moka entry holds all variants of a resource, so that a purge of the resource removes them without
//! a walk. moka's key is only the hash of the primary key; the blocks contain the key in full, and every
//! look-up compares it. If two resources have the same 64-bit hash, the one stored last replaces the
//! other. (moka keeps the key of a removed entry in its table for a while, so a larger key would cost
//! memory.) Expiry is decided by the caller's `now`, because moka's clock cannot be paused in tests.

use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use super::entry_block::{Entry, EntryBlock, StoredResponse, Times};
use crate::policy::{CacheKey, NoStoreReason, PrimaryKey, PurgeScope};

/// The number of variants kept for one resource; a further one replaces the oldest. Clients choose the
/// variant, so without a limit they could store any number of bodies of one resource.
const MAX_VARIANTS: usize = 8;

/// moka evicts at the latest after 64 stores, which may be 64 MiB above `max_bytes`. Therefore eviction
/// runs whenever this fraction of `max_bytes` was stored. To run it after every store would make a store
/// cost half as much again.
const EVICTION_FRACTION: u64 = 128;

/// The bytes that a block costs in addition to its own: six allocations of moka, a share of its table,
/// and the header of the block's allocation. Measured in resident memory: 346 bytes for 100,000 bodies
/// of 790 bytes, and 341 for 1,000,000.
const OVERHEAD: usize = 350;

/// The epoch of stored times lies this long before the start of the process, because a body from the
/// shared tier may be older than the process.
const BEFORE_START: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A stored body that a look-up found.
#[derive(Debug)]
pub struct CacheHit {
    block: EntryBlock,
    freshness: Freshness,
}

impl CacheHit {
    /// Returns how long the body had been stored at the time of the look-up.
    pub fn age(&self) -> Duration {
        self.freshness.age
    }

    /// Returns how long the body would be kept from then on.
    pub fn remaining_ttl(&self) -> Duration {
        self.freshness.remaining_ttl
    }

    /// Returns the strong validator of the body.
    pub fn etag(&self) -> &[u8] {
        self.block.etag()
    }

    /// Returns the bytes as the upstream sent them.
    pub fn body(&self) -> &[u8] {
        self.block.body()
    }

    /// Returns body and headers, to be sent.
    pub fn into_response(self) -> StoredResponse {
        self.block.into_response()
    }
}

/// How old a body is, and how long it is kept from now on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freshness {
    pub(super) age: Duration,
    pub(super) remaining_ttl: Duration,
}

/// The stored bodies of one resource; the one stored last comes last.
#[derive(Debug, Clone)]
enum Variants {
    /// The usual case, without a second allocation.
    One(EntryBlock),
    /// Never empty.
    Several(Arc<Vec<EntryBlock>>),
}

impl Variants {
    /// Returns `None` if there are no blocks.
    fn new(mut blocks: Vec<EntryBlock>) -> Option<Self> {
        let last = blocks.pop()?;
        if blocks.is_empty() {
            return Some(Self::One(last));
        }
        blocks.push(last);
        Some(Self::Several(Arc::new(blocks)))
    }

    fn all(&self) -> &[EntryBlock] {
        match self {
            Self::One(block) => slice::from_ref(block),
            Self::Several(blocks) => blocks,
        }
    }

    fn find(self, variant: &str) -> Option<EntryBlock> {
        let is_it = |block: &&EntryBlock| block.variant() == variant.as_bytes();
        match self {
            Self::One(block) => Some(block).filter(|block| is_it(&block)),
            Self::Several(blocks) => blocks.iter().find(is_it).cloned(),
        }
    }

    fn weight(&self) -> u64 {
        let all = self.all().iter();
        all.map(|block| (block.len() + OVERHEAD) as u64).sum()
    }
}

pub(super) struct Memory {
    /// By the hash of the primary key.
    resources: Cache<u64, Variants, RandomState>,
    /// The start of the process; stored times are counted from [`BEFORE_START`] before it.
    started: Instant,
    /// The bytes stored since eviction last ran.
    stored_since: AtomicU64,
    evict_every: u64,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Memory {
    pub(super) fn new(max_bytes: u64) -> Self {
        let resources = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, variants: &Variants| u32::try_from(variants.weight()).unwrap_or(u32::MAX))
            // When full, TinyLFU rejects new entries, but the newest body is the one polled next.
            .eviction_policy(EvictionPolicy::lru())
            .build_with_hasher(RandomState::default());
        Self {
            resources,
            started: Instant::now(),
            stored_since: AtomicU64::new(0),
            evict_every: max_bytes / EVICTION_FRACTION,
        }
    }

    pub(super) fn lookup(&self, key: &CacheKey, now: Instant) -> Option<CacheHit> {
        let variants = self.resources.get(&key.primary.hash_value())?;
        let block = variants.find(&key.variant)?;
        let block = Some(block).filter(|block| block.has_primary_key(key.primary.as_ref()))?;
        self.hit(block, now)
    }

    /// Returns the block as a hit, or `None` if it has expired.
    pub(super) fn hit(&self, block: EntryBlock, now: Instant) -> Option<CacheHit> {
        let now = self.nanoseconds(now);
        let times = block.times();
        let remaining = times.expires_at.checked_sub(now).filter(|left| *left > 0)?;
        Some(CacheHit {
            freshness: Freshness {
                age: Duration::from_nanos(now.saturating_sub(times.stored_at)),
                remaining_ttl: Duration::from_nanos(remaining),
            },
            block,
        })
    }

    /// Builds the block of an entry from the fetch `seq`. Returns `None` if the key is too long. Building
    /// is most of the work of a store, so the caller does it before it locks the barriers.
    pub(super) fn block(
        &self,
        key: &CacheKey,
        entry: &Entry<'_>,
        seq: u64,
        now: Instant,
        freshness: Freshness,
    ) -> Option<EntryBlock> {
        let now = self.nanoseconds(now);
        let times = Times {
            seq,
            stored_at: now.saturating_sub(nanoseconds(freshness.age)),
            expires_at: now.saturating_add(nanoseconds(freshness.remaining_ttl)),
        };
        EntryBlock::new(key, entry, times)
    }

    /// Stores a block beside the other variants of its resource. Variants from before `barrier` are
    /// dropped: a purge that is still walking must not find them revived. The caller holds the lock of
    /// the barriers.
    ///
    /// # Errors
    /// [`NoStoreReason::Superseded`] if a block of the same variant is from a later fetch.
    pub(super) fn put(
        &self,
        key: &CacheKey,
        block: EntryBlock,
        barrier: u64,
    ) -> Result<(), NoStoreReason> {
        let stored = self.variants(&key.primary);
        let all = stored.as_ref().map_or(&[][..], Variants::all);
        let is_same = |other: &EntryBlock| other.variant() == key.variant.as_bytes();
        if all.iter().any(|b| is_same(b) && b.seq() > block.seq()) {
            return Err(NoStoreReason::Superseded);
        }
        let mut blocks: Vec<EntryBlock> = all
            .iter()
            .filter(|b| !is_same(b) && b.seq() >= barrier)
            .cloned()
            .collect();
        if blocks.len() >= MAX_VARIANTS {
            blocks.remove(0);
        }
        blocks.push(block);
        self.replace(&key.primary, blocks);
        Ok(())
    }

    /// Removes the variants of a resource that are from before `seq`, and returns whether there were any.
    /// The caller holds the lock of the barriers.
    pub(super) fn remove_older(&self, key: &PrimaryKey, seq: u64) -> bool {
        let Some(stored) = self.variants(key) else {
            return false;
        };
        let stored = stored.all();
        let is_newer = |block: &&EntryBlock| block.seq() >= seq;
        let newer: Vec<EntryBlock> = stored.iter().filter(is_newer).cloned().collect();
        let removed = newer.len() < stored.len();
        if removed {
            self.replace(key, newer);
        }
        removed
    }

    /// Removes the resources that `scope` covers and that have a variant from before `seq`. Returns the
    /// number of bodies removed. Walks all entries without a lock: a body that another task stores
    /// meanwhile is from after the barrier, and to remove it as well costs one more fetch.
    pub(super) fn remove_covered(&self, scope: &PurgeScope, seq: u64) -> usize {
        let mut key = Vec::new();
        let is_older = |block: &EntryBlock| block.seq() < seq;
        self.resources
            .iter()
            .filter(|(_, variants)| {
                let all = variants.all();
                all[0].write_primary_key(&mut key);
                all.iter().any(is_older) && scope.covers(&key)
            })
            .filter_map(|(hash, _)| self.resources.remove(&*hash))
            .map(|variants| variants.all().len())
            .sum()
    }

    pub(super) fn entries(&self) -> u64 {
        self.resources.run_pending_tasks();
        self.resources.entry_count()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.resources.run_pending_tasks();
        self.resources.weighted_size()
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        let since_start = now.saturating_duration_since(self.started);
        nanoseconds(BEFORE_START.saturating_add(since_start))
    }

    fn variants(&self, key: &PrimaryKey) -> Option<Variants> {
        let found = self.resources.get(&key.hash_value())?;
        Some(found).filter(|variants| variants.all()[0].has_primary_key(key.as_ref()))
    }

    /// Replaces all variants of a resource by `blocks`.
    fn replace(&self, key: &PrimaryKey, blocks: Vec<EntryBlock>) {
        let hash = key.hash_value();
        let Some(variants) = Variants::new(blocks) else {
            self.resources.invalidate(&hash);
            return;
        };
        let weight = variants.weight();
        self.resources.insert(hash, variants);
        if self.stored_since.fetch_add(weight, Ordering::Relaxed) + weight > self.evict_every {
            self.stored_since.store(0, Ordering::Relaxed);
            self.resources.run_pending_tasks();
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Partition;

    fn key(thread: &str, variant: &str) -> CacheKey {
        let ids = [thread, "r", "s"];
        CacheKey::new(Partition::of(["p"]), "run-step", &ids, variant)
    }

    fn block(memory: &Memory, key: &CacheKey, seq: u64) -> EntryBlock {
        let freshness = Freshness {
            age: Duration::ZERO,
            remaining_ttl: Duration::from_secs(100),
        };
        let entry = Entry::new(b"{}", None);
        let block = memory.block(key, &entry, seq, Instant::now(), freshness);
        block.unwrap()
    }

    #[tokio::test]
    async fn a_store_drops_the_variants_from_before_the_barrier() {
        let memory = Memory::new(1 << 20);
        let put = |variant, seq, barrier| {
            let key = key("t", variant);
            memory
                .put(&key, block(&memory, &key, seq), barrier)
                .unwrap();
        };
        let is_stored = |variant| memory.lookup(&key("t", variant), Instant::now()).is_some();
        put("a", 1, 0);
        put("b", 3, 0);
        put("c", 4, 3);
        assert_eq!(["a", "b", "c"].map(is_stored), [false, true, true]);
    }

    /// A hash collision cannot be provoked, so the test stores another resource under the hash.
    #[tokio::test]
    async fn a_hash_collision_is_never_a_hit() {
        let memory = Memory::new(1 << 20);
        let (own, other) = (key("own", ""), key("other", ""));
        let collide = |seq| {
            let variants = Variants::new(vec![block(&memory, &other, seq)]).unwrap();
            memory.resources.insert(own.primary.hash_value(), variants);
        };
        let lookup = || memory.lookup(&own, Instant::now());
        collide(9);
        assert!(lookup().is_none());
        assert!(!memory.remove_older(&own.primary, 10));
        // The colliding block is no newer variant of this resource.
        assert_eq!(memory.put(&own, block(&memory, &own, 1), 0), Ok(()));
        assert!(lookup().is_some());
        collide(9);
        let remove = |thread| memory.remove_covered(&PurgeScope::prefix("run-step", &[thread]), 10);
        assert_eq!([remove("own"), remove("other")], [0, 1]);
    }

    #[tokio::test]
    async fn eviction_runs_whenever_a_fraction_of_max_bytes_was_stored() {
        let memory = Memory::new(1 << 20);
        for n in 0..2000 {
            let key = key(&format!("t{n}"), "");
            memory.put(&key, block(&memory, &key, 1), 0).unwrap();
            // `weighted_size` alone runs no pending tasks.
            let counted = memory.resources.weighted_size();
            let uncounted = memory.stored_since.load(Ordering::Relaxed);
            assert!(counted <= 1 << 20, "{counted}");
            assert!(uncounted <= memory.evict_every, "{uncounted}");
        }
        assert!(memory.entries() > 1000);
    }
}
