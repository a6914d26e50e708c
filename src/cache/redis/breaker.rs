//! Circuit breakers for ranges of a cluster's slots.
//!
//! If a node of a cluster hangs, only its slots fail. So each range of slots has a breaker of its own.
//! While it is open, requests skip the range; it closes when a probe of the key that failed last
//! succeeds. A single server is one range. If all ranges are open, the connection is replaced.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::lock::lock;

/// The number of failures that opens a breaker. A success resets the count of its own range only. The
/// counts of all ranges are added, since failures at the same time are mostly of one node.
pub(super) const FAILURES: u32 = 3;

/// The number of ranges of a cluster. A node of three has about ten, and each costs one timeout when the
/// node hangs. In a cluster of more nodes than ranges, healthy nodes share a range with a failed one.
const RANGES: u16 = 32;

/// The number of slots of a cluster (Redis cluster specification, "Key distribution model").
const SLOTS: u16 = 16_384;

/// The index of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SlotRange(u16);

impl SlotRange {
    fn bit(self) -> u32 {
        1 << self.0
    }
}

#[derive(Debug)]
pub(super) struct SlotBreakers {
    /// By range: the number of failures since the last success.
    failures: Box<[AtomicU32]>,
    /// One bit for each range whose breaker is open.
    open: AtomicU32,
    /// For each open range, the key that failed last.
    failed_keys: Mutex<BTreeMap<SlotRange, Vec<u8>>>,
}

impl SlotBreakers {
    pub(super) fn new(is_cluster: bool) -> Self {
        let ranges = if is_cluster { RANGES } else { 1 };
        Self {
            failures: (0..ranges).map(|_| AtomicU32::default()).collect(),
            open: AtomicU32::default(),
            failed_keys: Mutex::default(),
        }
    }

    /// Returns the range of a key, which must contain no braces (a hash tag).
    fn range_of(&self, key: &[u8]) -> SlotRange {
        let ranges = u16::try_from(self.failures.len()).unwrap_or(RANGES);
        SlotRange(crc16(key) % SLOTS / (SLOTS / ranges))
    }

    /// Returns whether the breaker for a key is open.
    pub(super) fn is_open(&self, key: &[u8]) -> bool {
        let open = self.open.load(Ordering::Relaxed);
        open != 0 && open & self.range_of(key).bit() != 0
    }

    /// Returns whether all breakers are open.
    pub(super) fn all_open(&self) -> bool {
        let open = self.open.load(Ordering::Relaxed).count_ones();
        usize::try_from(open) == Ok(self.failures.len())
    }

    pub(super) fn record_success(&self, key: &[u8]) {
        if let Some(failures) = self.failures.get(usize::from(self.range_of(key).0))
            && failures.load(Ordering::Relaxed) > 0
        {
            failures.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failed command on `key`, and opens the breaker at the limit. Returns whether all breakers
    /// are open now.
    pub(super) fn record_failure(&self, key: &[u8]) -> bool {
        let range = self.range_of(key);
        let Some(failures) = self.failures.get(usize::from(range.0)) else {
            return false;
        };
        failures.fetch_add(1, Ordering::Relaxed);
        let counts = self.failures.iter().map(|n| n.load(Ordering::Relaxed));
        // If a breaker is open already, this failure is probably of the same node and opens at once.
        let any_open = self.open.load(Ordering::Relaxed) != 0;
        if !any_open && counts.fold(0, u32::saturating_add) < FAILURES {
            return false;
        }
        let mut failed_keys = lock(&self.failed_keys);
        failed_keys.insert(range, key.to_vec());
        self.open.fetch_or(range.bit(), Ordering::Relaxed);
        if failed_keys.len() == 1 && self.failures.len() > 1 {
            tracing::warn!("a part of the shared tier failed: requests skip its slots");
        }
        failed_keys.len() == self.failures.len()
    }

    /// Closes the breaker for a key.
    pub(super) fn close(&self, key: &[u8]) {
        let range = self.range_of(key);
        let mut failed_keys = lock(&self.failed_keys);
        self.record_success(key);
        self.open.fetch_and(!range.bit(), Ordering::Relaxed);
        if failed_keys.remove(&range).is_some() && failed_keys.is_empty() {
            tracing::info!("all slots of the shared tier are in use again");
        }
    }

    /// Closes all breakers, for a new connection.
    pub(super) fn reset(&self) {
        let mut failed_keys = lock(&self.failed_keys);
        for failures in &self.failures {
            failures.store(0, Ordering::Relaxed);
        }
        self.open.store(0, Ordering::Relaxed);
        failed_keys.clear();
    }

    /// Returns one key to probe for each open breaker.
    pub(super) fn failed_keys(&self) -> Vec<Vec<u8>> {
        lock(&self.failed_keys).values().cloned().collect()
    }
}

/// Computes CRC-16/XMODEM, from which a cluster derives the slot of a key. The client library computes
/// it as well, but does not export it.
fn crc16(key: &[u8]) -> u16 {
    key.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            let carry = crc >> 15;
            (crc << 1) ^ (carry * 0x1021)
        })
    })
}

#[cfg(test)]
mod tests {
    use redis::cluster_routing::Slot;

    use super::*;

    /// Returns a key of another range than `key`.
    fn key_elsewhere(breakers: &SlotBreakers, key: &[u8]) -> Vec<u8> {
        (0..)
            .map(|n: u32| n.to_string().into_bytes())
            .find(|other| breakers.range_of(other) != breakers.range_of(key))
            .unwrap()
    }

    #[test]
    fn the_slot_of_a_key_is_the_one_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the specification's example");
        for key in ["", "a", "stepgate:t:0123", "fleet:t:c1267695687fdbe5"] {
            let slot = Slot::new(crc16(key.as_bytes()) % SLOTS).unwrap();
            assert_eq!(slot, Slot::for_key(key), "{key}");
        }
    }

    #[test]
    fn keys_are_spread_over_all_ranges() {
        let breakers = SlotBreakers::new(true);
        let mut keys = [0; RANGES as usize];
        for n in 0..10_000_u32 {
            keys[usize::from(breakers.range_of(&n.to_le_bytes()).0)] += 1;
        }
        assert!(keys.iter().all(|n| (200..450).contains(n)), "{keys:?}");
    }

    #[test]
    fn a_breaker_opens_after_three_failures_without_a_success() {
        let breakers = SlotBreakers::new(true);
        let key = b"key";
        for _ in 0..5 {
            breakers.record_failure(key);
            breakers.record_failure(key);
            assert!(!breakers.is_open(key));
            breakers.record_success(key);
        }
        for nth in 1..=FAILURES {
            assert!(!breakers.record_failure(key), "not all are open");
            assert_eq!(breakers.is_open(key), nth == FAILURES);
        }
        assert!(!breakers.is_open(&key_elsewhere(&breakers, key)));
        assert_eq!(breakers.failed_keys(), [key]);
        breakers.record_success(key);
        assert!(breakers.is_open(key), "only a probe closes it");
        breakers.close(key);
        assert!(!breakers.is_open(key) && breakers.failed_keys().is_empty());
    }

    #[test]
    fn failures_of_several_ranges_count_together_until_each_succeeds() {
        let breakers = SlotBreakers::new(true);
        let (a, b) = (b"key", key_elsewhere(&breakers, b"key"));
        breakers.record_failure(a);
        breakers.record_failure(&b);
        breakers.record_success(a);
        breakers.record_failure(a);
        assert_eq!(breakers.failed_keys().len(), 0, "two of three");
        breakers.record_failure(&b);
        assert_eq!(breakers.failed_keys(), [b]);
    }

    #[test]
    fn while_a_breaker_is_open_another_opens_at_its_first_failure() {
        let breakers = SlotBreakers::new(true);
        for _ in 0..FAILURES {
            breakers.record_failure(b"key");
        }
        let other = key_elsewhere(&breakers, b"key");
        assert!(!breakers.record_failure(&other), "not all are open");
        assert!(breakers.is_open(&other));
        assert_eq!(breakers.failed_keys().len(), 2);
        breakers.reset();
        assert!(!breakers.is_open(&other) && !breakers.is_open(b"key"));
        breakers.record_failure(&other);
        assert!(!breakers.is_open(&other));
    }

    #[test]
    fn a_single_server_is_one_range_and_a_cluster_fails_with_its_last_range() {
        let single = SlotBreakers::new(false);
        assert!(!single.record_failure(b"a") && !single.record_failure(b"b"));
        assert!(!single.all_open());
        assert!(single.record_failure(b"c") && single.all_open());
        let cluster = SlotBreakers::new(true);
        let mut keys = (0..1000_u32).map(u32::to_le_bytes).cycle().take(10_000);
        assert!(keys.any(|key| cluster.record_failure(&key)));
        assert_eq!(cluster.failed_keys().len(), usize::from(RANGES));
    }
}
