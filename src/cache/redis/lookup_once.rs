//! Who was asked for already, and with which token what is found may be written.
//!
//! A step is asked for once when it comes, however many ask for it at once and however often it is
//! polled then.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::lock;
use super::scripts::Nonce;

/// A step that nobody polled for so long is asked for again.
const IDLE: Duration = Duration::from_secs(60);

/// Steps that are known at once: some 20 MiB with their keys.
const MOST: u64 = 65_536;

/// The right to write entries of a thread: read before a fetch departs, refused after a purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteToken {
    /// The thread's name in Redis.
    pub(super) thread: Arc<str>,
    pub(super) bytes: Nonce,
}

/// Whose turn it is to ask.
pub(super) enum Turn<K: Eq + Hash> {
    /// It was asked for.
    Known,
    /// This one asks.
    First(Asking<K>),
    /// Another one is asking: this ends when it knows.
    After(OwnedNotified),
}

pub(super) struct Known<K> {
    tokens: Cache<K, WriteToken>,
    asking: Arc<Mutex<HashMap<K, Arc<Notify>>>>,
}

impl<K> fmt::Debug for Known<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known")
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Known<K> {
    pub(super) fn new() -> Self {
        Self {
            tokens: Cache::builder()
                .max_capacity(MOST)
                .time_to_idle(IDLE)
                .build(),
            asking: Arc::default(),
        }
    }

    pub(super) fn turn(&self, key: &K) -> Turn<K> {
        if self.tokens.get(key).is_some() {
            return Turn::Known;
        }
        let mut asking = lock(&self.asking);
        if let Some(other) = asking.get(key) {
            return Turn::After(Arc::clone(other).notified_owned());
        }
        let done = Arc::<Notify>::default();
        asking.insert(key.clone(), Arc::clone(&done));
        Turn::First(Asking {
            key: key.clone(),
            done,
            all: Arc::clone(&self.asking),
        })
    }

    /// The token that a fetch that departs now may write with.
    pub(super) fn token(&self, key: &K) -> Option<WriteToken> {
        self.tokens.get(key)
    }

    pub(super) fn learn(&self, key: K, token: WriteToken) {
        self.tokens.insert(key, token);
    }

    pub(super) fn forget_one(&self, key: &K) {
        self.tokens.invalidate(key);
    }

    /// After a purge old tokens are worth nothing.
    pub(super) fn forget(&self) {
        self.tokens.invalidate_all();
    }
}

/// Somebody asks. Dropped, it lets those know who wait for it.
pub(in crate::cache) struct Asking<K: Eq + Hash> {
    key: K,
    done: Arc<Notify>,
    all: Arc<Mutex<HashMap<K, Arc<Notify>>>>,
}

impl<K: Eq + Hash> Drop for Asking<K> {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.key);
        self.done.notify_waiters();
    }
}
