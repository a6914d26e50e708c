//! Suspect keys: resources that a fetch found live or gone, and of which the tier may hold a body.
//!
//! The gateway that finds it out need not have stored a body itself: another gateway may have written
//! one, or another variant. So a background task asks the tier whether it has anything of the resource,
//! and announces a purge only then. Otherwise every poll of a live resource would announce a purge. While
//! the circuit is open, suspect keys wait. A suspect key is not looked up.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::super::lock::lock;
use crate::policy::PrimaryKey;

/// The number of suspect keys: some hundred KiB. A further one is purged without a check.
const MAX_SUSPECTS: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct SuspectKeys {
    /// By key: whether its check is running.
    keys: Mutex<HashMap<PrimaryKey, bool>>,
    /// Wakes the background task: a key was added, or the tier is in use again.
    pub(super) wake: Notify,
}

impl SuspectKeys {
    /// Adds a key. If a check of it is running, it is checked once more afterwards. Returns `false` if
    /// there is no room.
    pub(super) fn add(&self, key: &PrimaryKey) -> bool {
        let mut keys = lock(&self.keys);
        let has_room = keys.len() < MAX_SUSPECTS || keys.contains_key(key);
        if has_room {
            keys.insert(key.clone(), false);
        }
        has_room
    }

    /// Returns whether bodies of `key` from the tier must not be used.
    pub(super) fn contains(&self, key: &PrimaryKey) -> bool {
        lock(&self.keys).contains_key(key)
    }

    /// Returns the keys whose check is to be started. They stay suspect until [`Self::resolve`].
    pub(super) fn start_checks(&self) -> Vec<PrimaryKey> {
        let mut keys = lock(&self.keys);
        let waiting = keys.iter_mut().filter(|(_, is_running)| !**is_running);
        let started = waiting.map(|(key, is_running)| {
            *is_running = true;
            key.clone()
        });
        started.collect()
    }

    /// Ends the check of a key. The key stays suspect if it was added again since the check started.
    pub(super) fn resolve(&self, key: &PrimaryKey) {
        let mut keys = lock(&self.keys);
        if keys.get(key) == Some(&true) {
            keys.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{CacheKey, Partition};

    #[test]
    fn a_key_added_during_its_check_stays_suspect_until_the_next_check() {
        let key = CacheKey::new(Partition::of(["p"]), "rule", &["thread"], "").primary;
        let suspects = SuspectKeys::default();
        assert!(suspects.start_checks().is_empty() && !suspects.contains(&key));
        assert!(suspects.add(&key) && suspects.add(&key));
        assert_eq!(suspects.start_checks().len(), 1);
        assert!(suspects.contains(&key), "the check has not ended");
        assert!(suspects.start_checks().is_empty(), "the check is running");
        suspects.add(&key);
        suspects.resolve(&key);
        assert!(suspects.contains(&key), "it was added during the check");
        assert_eq!(suspects.start_checks().len(), 1);
        suspects.resolve(&key);
        assert!(!suspects.contains(&key));
    }
}
