//! The memory tier: moka, weighed in bytes, least recently used first.
//!
//! One moka entry holds all variants of a step, so that they fall together without a walk. moka's key
//! is only a hash, the place where a step is looked for: whose bodies are there, the bodies know, in
//! full. Where two steps have one place, which 64 bits make rare, the last one stored is there. (A key
//! with more in it would stay behind in moka's table for a while when its entry is gone.) Expiry is
//! judged by the caller's `now`: moka's own clock can be neither paused nor inherited.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use super::entry::Entry;
use super::stored::{Stored, StoredResponse, Times};
use super::variants::Variants;
use crate::policy::{CacheKey, NoStoreReason, PrimaryKey, PurgeScope};

/// The variants of one step that are kept at once; a further one replaces the oldest. A caller can
/// invent variants, the upstream's answers to them are all final bodies of one step.
const MAX_VARIANTS: usize = 8;

/// By itself moka would evict up to 64 stores later, which may be 64 MiB beyond `max_bytes`. So it is
/// made to whenever this part of them has been stored. After every store it would make storing dearer
/// by half.
const EVICTED_EACH: u64 = 128;

/// A stored body, found.
#[derive(Debug)]
pub struct CacheHit {
    stored: Stored,
    age: Duration,
    remaining_ttl: Duration,
}

impl CacheHit {
    /// How long it had been stored when it was looked for.
    pub fn age(&self) -> Duration {
        self.age
    }

    /// How long it would be kept from then on.
    pub fn remaining_ttl(&self) -> Duration {
        self.remaining_ttl
    }

    /// The strong validator of the bytes.
    pub fn etag(&self) -> &[u8] {
        self.stored.etag()
    }

    /// The bytes as the upstream sent them.
    pub fn body(&self) -> &[u8] {
        self.stored.body()
    }

    /// Body and headers, to be sent.
    pub fn into_response(self) -> StoredResponse {
        self.stored.into_response()
    }
}

/// How old a body is when it comes, and how long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) age: Duration,
    pub(super) remaining_ttl: Duration,
}

impl Life {
    /// Of a body that comes from upstream.
    pub(super) fn of(ttl: Duration) -> Self {
        Self {
            age: Duration::ZERO,
            remaining_ttl: ttl,
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Stored times begin so long before this process: what a fleet shares may be older.
const PAST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

pub(super) struct Memory {
    steps: Cache<u64, Variants, RandomState>,
    /// When stored times begin.
    beginning: Instant,
    /// Bytes that were stored since moka was last made to evict.
    since: AtomicU64,
    evict_each: u64,
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
        let steps = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, variants: &Variants| u32::try_from(variants.weight()).unwrap_or(u32::MAX))
            // TinyLFU would turn newcomers away when full, and here the newest is wanted next.
            .eviction_policy(EvictionPolicy::lru())
            .build_with_hasher(RandomState::default());
        Self {
            steps,
            beginning: Instant::now(),
            since: AtomicU64::new(0),
            evict_each: max_bytes / EVICTED_EACH,
        }
    }

    pub(super) fn find(&self, key: &CacheKey, now: Instant) -> Option<CacheHit> {
        let variants = self.steps.get(&key.primary.hash_value())?;
        let stored = variants.named(&key.variant)?;
        let stored = Some(stored).filter(|it| it.is_of(key.primary.as_ref()))?;
        self.found(stored, now)
    }

    /// A block as it stands `now`, unless its time is over.
    pub(super) fn found(&self, stored: Stored, now: Instant) -> Option<CacheHit> {
        let now = self.nanoseconds(now);
        let Times {
            stored_at,
            expires_at,
            ..
        } = stored.times();
        let remaining_ttl = expires_at
            .checked_sub(now)
            .filter(|remaining_ttl| *remaining_ttl > 0)?;
        Some(CacheHit {
            age: Duration::from_nanos(now.saturating_sub(stored_at)),
            remaining_ttl: Duration::from_nanos(remaining_ttl),
            stored,
        })
    }

    /// The block of an entry that departure `departed` brought. To be made before the walls are held:
    /// it is the most of the work. None for a key beyond all measure.
    pub(super) fn block(
        &self,
        key: &CacheKey,
        entry: &Entry<'_>,
        departed: u64,
        now: Instant,
        life: Life,
    ) -> Option<Stored> {
        let now = self.nanoseconds(now);
        let times = Times {
            departed,
            stored_at: now.saturating_sub(nanoseconds(life.age)),
            expires_at: now.saturating_add(nanoseconds(life.remaining_ttl)),
        };
        Stored::new(key, entry, times)
    }

    /// Puts a block beside its step's other variants, without those from before the `wall`: a purge
    /// that walks meanwhile may have removed them. Called with the walls held.
    pub(super) fn put(
        &self,
        key: &CacheKey,
        stored: Stored,
        wall: u64,
    ) -> Result<(), NoStoreReason> {
        let known = self.variants(&key.primary);
        let all = known.as_ref().map_or(&[][..], Variants::all);
        let is_same = |other: &Stored| other.variant() == key.variant.as_bytes();
        let number = stored.departed();
        if all.iter().any(|v| is_same(v) && v.departed() > number) {
            return Err(NoStoreReason::Superseded);
        }
        let mut variants: Vec<Stored> = all
            .iter()
            .filter(|v| !is_same(v) && v.departed() >= wall)
            .cloned()
            .collect();
        if variants.len() >= MAX_VARIANTS {
            variants.remove(0);
        }
        variants.push(stored);
        self.replace(&key.primary, variants);
        Ok(())
    }

    /// Removes the variants that departed before `number`. Called with the walls held.
    pub(super) fn remove_older(&self, step: &PrimaryKey, number: u64) -> bool {
        let Some(known) = self.variants(step) else {
            return false;
        };
        let known = known.all();
        let is_newer = |stored: &&Stored| stored.departed() >= number;
        let left: Vec<Stored> = known.iter().filter(is_newer).cloned().collect();
        let removed = left.len() < known.len();
        if removed {
            self.replace(step, left);
        }
        removed
    }

    /// Removes what departed before `number` and is covered. Walks everything, unlocked: what is put
    /// meanwhile is from after the wall, and at worst fetched once more.
    pub(super) fn remove_covered(&self, scope: &PurgeScope, number: u64) -> usize {
        let mut step = Vec::new();
        let is_older = |stored: &Stored| stored.departed() < number;
        self.steps
            .iter()
            .filter(|(_, variants)| {
                variants.write_step(&mut step);
                variants.all().iter().any(is_older) && scope.covers(&step)
            })
            .filter_map(|(place, _)| self.steps.remove(&*place))
            .map(|variants| variants.all().len())
            .sum()
    }

    pub(super) fn entries(&self) -> u64 {
        self.steps.run_pending_tasks();
        self.steps.entry_count()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.steps.run_pending_tasks();
        self.steps.weighted_size()
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.beginning);
        nanoseconds(PAST.saturating_add(since))
    }

    fn variants(&self, step: &PrimaryKey) -> Option<Variants> {
        let found = self.steps.get(&step.hash_value())?;
        Some(found).filter(|variants| variants.are_of(step.as_ref()))
    }

    /// Puts variants, or none, in the place of what is known of a step.
    fn replace(&self, step: &PrimaryKey, variants: Vec<Stored>) {
        let place = step.hash_value();
        let Some(variants) = Variants::of(variants) else {
            self.steps.invalidate(&place);
            return;
        };
        let weight = variants.weight();
        self.steps.insert(place, variants);
        if self.since.fetch_add(weight, Ordering::Relaxed) + weight > self.evict_each {
            self.since.store(0, Ordering::Relaxed);
            self.steps.run_pending_tasks();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Partition;

    const TTL: Duration = Duration::from_secs(100);

    fn key(thread: &str, variant: &str) -> CacheKey {
        CacheKey::new(
            Partition::of(["p"]),
            "run-step",
            &[thread, "r", "s"],
            variant,
        )
    }

    fn block(memory: &Memory, key: &CacheKey, departed: u64) -> Stored {
        let entry = Entry::new(b"{}", None);
        memory
            .block(key, &entry, departed, Instant::now(), Life::of(TTL))
            .unwrap()
    }

    #[tokio::test]
    async fn what_is_put_drops_the_variants_from_before_the_wall() {
        let memory = Memory::new(1 << 20);
        let put = |variant, number, wall| {
            let key = key("t", variant);
            memory
                .put(&key, block(&memory, &key, number), wall)
                .unwrap();
        };
        let found = |variant| memory.find(&key("t", variant), Instant::now()).is_some();
        put("a", 1, 0);
        put("b", 3, 0);
        put("c", 4, 3);
        assert_eq!(["a", "b", "c"].map(found), [false, true, true]);
    }

    /// Two hashes that are the same cannot be had; another step at a step's place can.
    #[tokio::test]
    async fn a_step_at_anothers_place_is_never_taken_for_it() {
        let memory = Memory::new(1 << 20);
        let (own, other) = (key("own", ""), key("other", ""));
        let place = own.primary.hash_value();
        let usurp = |number| {
            let others = vec![block(&memory, &other, number)];
            memory.steps.insert(place, Variants::of(others).unwrap());
        };
        let find = || memory.find(&own, Instant::now());
        usurp(9);
        assert!(find().is_none());
        assert!(!memory.remove_older(&own.primary, 10));
        // What is there is no newer one of its own.
        assert_eq!(memory.put(&own, block(&memory, &own, 1), 0), Ok(()));
        assert!(find().is_some());
        usurp(9);
        let remove = |thread| memory.remove_covered(&PurgeScope::prefix("run-step", &[thread]), 10);
        assert_eq!([remove("own"), remove("other")], [0, 1]);
    }

    #[tokio::test]
    async fn between_two_evictions_little_is_stored() {
        let memory = Memory::new(1 << 20);
        for n in 0..2000 {
            let key = key(&format!("t{n}"), "");
            memory.put(&key, block(&memory, &key, 1), 0).unwrap();
            // As it stands, without a further look.
            let known = memory.steps.weighted_size();
            let unknown = memory.since.load(Ordering::Relaxed);
            assert!(known <= 1 << 20, "{known}");
            assert!(unknown <= memory.evict_each, "{unknown}");
        }
        assert!(memory.entries() > 1000);
    }
}
