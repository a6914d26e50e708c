//! What is remembered of keys whose fetches have started, for a window.
//!
//! A key is known by its hash only, because a busy gateway remembers thousands. Two keys with the same
//! 64-bit hash are rare; at worst one of them waits a window for the other.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

#[derive(Default)]
pub(super) struct RecentFetches {
    keys: HashMap<u64, RecentKey, RandomState>,
    /// When to check whether a key can be removed. No entry is more than a window ahead, so the queue is
    /// almost in the order of its times.
    due: VecDeque<(Instant, u64)>,
}

#[derive(Default)]
struct RecentKey {
    last_start: Option<Instant>,
    unshareable_until: Option<Instant>,
}

impl RecentFetches {
    /// Returns how many keys are remembered.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.keys.contains_key(&key)
    }

    pub(super) fn last_start(&self, key: u64) -> Option<Instant> {
        self.keys.get(&key)?.last_start
    }

    /// Returns whether every request of the key has to fetch alone.
    pub(super) fn is_unshareable(&self, key: u64, now: Instant) -> bool {
        let until = self
            .keys
            .get(&key)
            .and_then(|recent| recent.unshareable_until);
        until.is_some_and(|until| now < until)
    }

    pub(super) fn started(&mut self, key: u64, now: Instant, window: Duration) {
        self.entry(key, now + window).last_start = Some(now);
    }

    pub(super) fn unshareable(&mut self, key: u64, now: Instant, window: Duration, until: Instant) {
        self.entry(key, now + window).unshareable_until = Some(until);
    }

    fn entry(&mut self, key: u64, due: Instant) -> &mut RecentKey {
        self.keys.entry(key).or_insert_with(|| {
            self.due.push_back((due, key));
            RecentKey::default()
        })
    }

    /// Removes the keys whose time is over.
    pub(super) fn sweep(&mut self, now: Instant, window: Duration) {
        while let Some((_, key)) = self.due.pop_front_if(|(due, _)| *due <= now) {
            let Some(recent) = self.keys.get(&key) else {
                continue;
            };
            let window_end = recent.last_start.map(|at| at + window);
            let until = window_end.max(recent.unshareable_until);
            match until.filter(|until| *until > now) {
                Some(until) => self.due.push_back((until.min(now + window), key)),
                None => {
                    self.keys.remove(&key);
                }
            }
        }
    }
}
