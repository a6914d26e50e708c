//! The parts of the tier that rest by themselves: ranges of a cluster's slots.
//!
//! A node of a cluster that hangs takes its slots with it and no others. So a part that fails rests by
//! itself, and costs a request nothing until the key that failed last is answered for again. One server
//! is one part, and where all of them rest, the tier does.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::lock;

/// So many failures that no success of the same part came after, in one part or several (they will be of
/// one node), and the part that fails rests.
pub(super) const FAILURES: u32 = 3;

/// Parts of a cluster. Of three nodes each has some ten, and so often one that hangs is waited for; where
/// there are more nodes than parts, those beside it rest with it.
const PARTS: u16 = 32;

/// What a cluster shares out among its nodes (Redis cluster specification, "CacheKey distribution model").
const SLOTS: u16 = 16_384;

/// One of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part(u16);

/// All of them.
#[derive(Debug)]
pub(super) struct Parts {
    /// Since the last success, by part.
    failures: Box<[AtomicU32]>,
    /// A bit for each that rests.
    resting: AtomicU32,
    /// For each that rests, the key that failed last.
    failed: Mutex<BTreeMap<Part, Vec<u8>>>,
}

impl Parts {
    pub(super) fn new(is_cluster: bool) -> Self {
        let parts = if is_cluster { PARTS } else { 1 };
        Self {
            failures: (0..parts).map(|_| AtomicU32::default()).collect(),
            resting: AtomicU32::default(),
            failed: Mutex::default(),
        }
    }

    /// The part that a key is in; a key without braces.
    fn of(&self, key: &[u8]) -> Part {
        let parts = u16::try_from(self.failures.len()).unwrap_or(PARTS);
        Part(crc16(key) % SLOTS / (SLOTS / parts))
    }

    /// Whether the part rests that a key is in.
    pub(super) fn rests(&self, key: &[u8]) -> bool {
        let resting = self.resting.load(Ordering::Relaxed);
        resting != 0 && resting & self.of(key).bit() != 0
    }

    /// Whether there is none that does not.
    pub(super) fn all_rest(&self) -> bool {
        let resting = self.resting.load(Ordering::Relaxed).count_ones();
        usize::try_from(resting) == Ok(self.failures.len())
    }

    /// A command on a key was answered for.
    pub(super) fn succeeded(&self, key: &[u8]) {
        if let Some(failures) = self.failures.get(usize::from(self.of(key).0))
            && failures.load(Ordering::Relaxed) > 0
        {
            failures.store(0, Ordering::Relaxed);
        }
    }

    /// A command on a key was not. Returns whether they all rest now.
    pub(super) fn failed(&self, key: &[u8]) -> bool {
        let part = self.of(key);
        let Some(failures) = self.failures.get(usize::from(part.0)) else {
            return false;
        };
        failures.fetch_add(1, Ordering::Relaxed);
        let all = self
            .failures
            .iter()
            .map(|part| part.load(Ordering::Relaxed));
        // Where one rests already it will be the same node.
        let rests_one = self.resting.load(Ordering::Relaxed) != 0;
        if !rests_one && all.fold(0, u32::saturating_add) < FAILURES {
            return false;
        }
        let mut failed = lock(&self.failed);
        failed.insert(part, key.to_vec());
        self.resting.fetch_or(part.bit(), Ordering::Relaxed);
        if failed.len() == 1 && self.failures.len() > 1 {
            tracing::warn!("a part of the shared tier rests");
        }
        failed.len() == self.failures.len()
    }

    /// The part that a key is in is well again.
    pub(super) fn wake(&self, key: &[u8]) {
        let part = self.of(key);
        let mut failed = lock(&self.failed);
        self.succeeded(key);
        self.resting.fetch_and(!part.bit(), Ordering::Relaxed);
        if failed.remove(&part).is_some() && failed.is_empty() {
            tracing::info!("all parts of the shared tier are in use");
        }
    }

    /// All of them are: the connection is another.
    pub(super) fn begin_anew(&self) {
        let mut failed = lock(&self.failed);
        for failures in &self.failures {
            failures.store(0, Ordering::Relaxed);
        }
        self.resting.store(0, Ordering::Relaxed);
        failed.clear();
    }

    /// The keys by which to find out whether those that rest are well again, one for each.
    pub(super) fn resting(&self) -> Vec<Vec<u8>> {
        lock(&self.failed).values().cloned().collect()
    }
}

impl Part {
    fn bit(self) -> u32 {
        1 << self.0
    }
}

/// CRC-16/XMODEM, by which a cluster finds a key's slot. The client has it, too, and does not tell it.
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

    /// A key of another part than `of`'s, the nth.
    fn elsewhere(parts: &Parts, of: &[u8], nth: usize) -> Vec<u8> {
        let keys = (0..).map(|n: u32| n.to_string().into_bytes());
        let mut others = keys.filter(|key| parts.of(key) != parts.of(of));
        others.nth(nth).unwrap()
    }

    #[test]
    fn a_slot_is_the_one_that_the_cluster_finds() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the specification's own");
        for key in ["", "a", "stepgate:t:0123", "fleet:t:c1267695687fdbe5"] {
            let slot = Slot::new(crc16(key.as_bytes()) % SLOTS).unwrap();
            assert_eq!(slot, Slot::for_key(key), "{key}");
        }
    }

    #[test]
    fn every_part_has_keys_and_none_is_beyond_the_last() {
        let parts = Parts::new(true);
        let mut seen = [0; PARTS as usize];
        for n in 0..10_000_u32 {
            seen[usize::from(parts.of(&n.to_le_bytes()).0)] += 1;
        }
        assert!(
            seen.iter().all(|keys| (200..450).contains(keys)),
            "{seen:?}"
        );
    }

    #[test]
    fn a_part_rests_after_failures_in_a_row_and_the_others_do_not() {
        let parts = Parts::new(true);
        let key = b"key";
        for _ in 0..5 {
            parts.failed(key);
            parts.failed(key);
            assert!(!parts.rests(key));
            parts.succeeded(key);
        }
        for nth in 1..=FAILURES {
            assert!(!parts.failed(key));
            assert_eq!(parts.rests(key), nth == FAILURES);
        }
        assert!(!parts.rests(&elsewhere(&parts, key, 0)));
        assert_eq!(parts.resting(), [key]);
        parts.succeeded(key);
        assert!(parts.rests(key), "what was on its way wakes nothing");
        parts.wake(key);
        assert!(!parts.rests(key) && parts.resting().is_empty());
    }

    #[test]
    fn failures_of_several_parts_count_together_until_each_succeeds() {
        let parts = Parts::new(true);
        let [a, b, c] = [
            b"key".to_vec(),
            elsewhere(&parts, b"key", 0),
            b"key".to_vec(),
        ];
        for key in [&a, &b] {
            parts.failed(key);
        }
        parts.succeeded(&a);
        parts.failed(&c);
        assert_eq!(parts.resting().len(), 0, "two of three");
        parts.failed(&b);
        assert_eq!(parts.resting(), [b]);
    }

    #[test]
    fn where_one_rests_another_does_at_its_first_failure() {
        let parts = Parts::new(true);
        for _ in 0..FAILURES {
            parts.failed(b"key");
        }
        let other = elsewhere(&parts, b"key", 0);
        assert!(!parts.failed(&other));
        assert!(parts.rests(&other));
        assert_eq!(parts.resting().len(), 2);
        parts.begin_anew();
        assert!(!parts.rests(&other) && !parts.rests(b"key"));
        parts.failed(&other);
        assert!(!parts.rests(&other));
    }

    #[test]
    fn one_server_is_one_part_and_with_the_last_part_all_rest() {
        let one = Parts::new(false);
        assert!(!one.failed(b"a") && !one.failed(b"b") && !one.all_rest());
        assert!(one.failed(b"c") && one.all_rest());
        let all = Parts::new(true);
        let keys = (0..1000_u32).map(u32::to_le_bytes);
        let rested = keys.cycle().take(10_000).position(|key| all.failed(&key));
        assert!(rested.is_some());
        assert_eq!(all.resting().len(), usize::from(PARTS));
    }
}
