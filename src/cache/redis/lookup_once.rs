//! One look-up for each active key, and the write token that it returned.
//!
//! A key is looked up in the shared tier when it becomes active. Concurrent requests wait for that
//! look-up, and later requests skip it for as long as the key's token is remembered.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::super::lock::lock;
use super::scripts::Nonce;
use crate::policy::CoalesceKey;

/// A key that no request polled for this long is looked up again.
const IDLE: Duration = Duration::from_secs(60);

/// The number of tokens remembered: some 20 MiB with their keys.
const MAX_TOKENS: u64 = 65_536;

/// The right to write entries of one bucket. It is read before a fetch starts, and a purge revokes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteToken {
    /// The name of the bucket in Redis.
    pub(super) bucket: Arc<str>,
    pub(super) bytes: Nonce,
}

/// What a request does about the look-up of its key.
pub(in crate::cache) enum LookupTurn {
    /// Nothing: the key was looked up, or the circuit is open.
    Done,
    /// The request looks the key up.
    Leader(LookupLease),
    /// The request waits for the leader: the future completes when the lease is dropped.
    Follower(OwnedNotified),
}

type InFlight = Mutex<HashMap<Arc<CoalesceKey>, Arc<Notify>>>;

pub(super) struct LookupOnce {
    tokens: Cache<Arc<CoalesceKey>, WriteToken>,
    in_flight: Arc<InFlight>,
}

impl fmt::Debug for LookupOnce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LookupOnce")
    }
}

impl LookupOnce {
    pub(super) fn new() -> Self {
        Self {
            tokens: Cache::builder()
                .max_capacity(MAX_TOKENS)
                .time_to_idle(IDLE)
                .build(),
            in_flight: Arc::default(),
        }
    }

    pub(super) fn turn(&self, key: &Arc<CoalesceKey>) -> LookupTurn {
        if self.tokens.get(key).is_some() {
            return LookupTurn::Done;
        }
        let mut in_flight = lock(&self.in_flight);
        if let Some(leader) = in_flight.get(key) {
            return LookupTurn::Follower(Arc::clone(leader).notified_owned());
        }
        let done = Arc::<Notify>::default();
        in_flight.insert(Arc::clone(key), Arc::clone(&done));
        LookupTurn::Leader(LookupLease {
            key: Arc::clone(key),
            done,
            in_flight: Arc::clone(&self.in_flight),
        })
    }

    /// Returns the token with which a fetch that starts now may write.
    pub(super) fn token(&self, key: &Arc<CoalesceKey>) -> Option<WriteToken> {
        self.tokens.get(key)
    }

    pub(super) fn remember(&self, key: Arc<CoalesceKey>, token: WriteToken) {
        self.tokens.insert(key, token);
    }

    pub(super) fn forget(&self, key: &Arc<CoalesceKey>) {
        self.tokens.invalidate(key);
    }

    /// Forgets all tokens, because a purge has revoked them.
    pub(super) fn forget_all(&self) {
        self.tokens.invalidate_all();
    }
}

/// Marks the look-up of a key as running. Dropping it wakes the followers.
pub(in crate::cache) struct LookupLease {
    key: Arc<CoalesceKey>,
    done: Arc<Notify>,
    in_flight: Arc<InFlight>,
}

impl Drop for LookupLease {
    fn drop(&mut self) {
        lock(&self.in_flight).remove(&self.key);
        self.done.notify_waiters();
    }
}
