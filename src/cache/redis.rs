//! The shared tier: final bodies in Redis or Valkey, for all gateways of a fleet.
//!
//! It is an optimisation behind an optimisation: whatever is wrong with it, a request goes on without.
//! A step is asked for once when it comes (`known`), within the command_timeout; what is stored in memory is
//! written behind (`writes`). One task owns the connection (`keeper`): it reads what was purged (`log`)
//! before the tier is used and a few times a second from then on, tells what was purged here (`purges`),
//! and lets the tier rest while it fails, or that of its `parts` which does. What a fresh answer calls in
//! question is asked for and taken back behind (`doubts`).
//!
//! Why nothing that was purged comes back: see `scripts`.

mod breaker;
mod client;
pub mod codec;
mod error;
pub mod keys;
mod log;
mod lookup_once;
mod metrics;
mod purge_queue;
#[cfg(test)]
pub(super) mod scripted;
mod scripts;
pub mod seal;
mod sync;
mod verify;
mod writer;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use hyper::header::HeaderValue;
use rustls::crypto::SecureRandom;
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use breaker::Parts;
use client::{Dialer, Link};
use codec::Place;
use error::Trouble;
use keys::Names;
use log::View;
pub use lookup_once::WriteToken;
use lookup_once::{Asking, Known, Turn};
pub use metrics::SharedMetrics;
use purge_queue::Pending;
use scripts::Nonce;
use seal::Seal;
pub use sync::Purged;
use sync::State;
use verify::Doubts;
pub use writer::WriteJob;
use writer::{Queue, Queued};

use super::CoalesceKey;
use crate::config;
use crate::policy::key::rule_and_ids;
use crate::policy::{CacheKey, PrimaryKey};

/// Look-ups on their way at once; a further one is a miss. Each may bring a body.
const LOOKUPS: usize = 256;

/// What a body may have around it, at most: key, variant, content type.
const AROUND: u64 = 64 * 1024;

/// The shared tier, as one gateway sees it.
pub struct SharedTier {
    names: Arc<Names>,
    seal: Option<Seal>,
    dialer: Dialer,
    /// What it is used through; none while it rests.
    up: ArcSwapOption<Up>,
    /// Until when it may be used, in milliseconds since `began`: as long as the log was read lately.
    lease: AtomicU64,
    began: Instant,
    parts: Parts,
    known: Known<Arc<CoalesceKey>>,
    lookups: Semaphore,
    writes: Queue,
    /// Taken by the keeper when it begins.
    queued: Mutex<Option<Receiver<Queued>>>,
    /// Purges that the fleet does not know of yet.
    pending: Mutex<Pending>,
    doubts: Doubts,
    /// Something waits for the keeper.
    call: Notify,
    /// It was tried once.
    tried: CancellationToken,
    /// What an operator is told.
    state: Mutex<State>,
    pub(super) metrics: SharedMetrics,
}

/// A tier in use.
struct Up {
    link: Link,
    view: View,
}

impl fmt::Debug for SharedTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedTier({:?})", self.names)
    }
}

/// What was found of a step.
pub(super) struct Shared {
    pub(super) body: Bytes,
    pub(super) content_type: Option<HeaderValue>,
    pub(super) age: Duration,
    pub(super) remaining_ttl: Duration,
}

/// How asking for a step goes on.
pub(super) enum Ask {
    /// There is nothing to be had: it was asked for, or the tier rests.
    Nothing,
    /// Somebody else asked meanwhile: memory may know now.
    Answered,
    /// It is this one's turn.
    Turn(Asking<Arc<CoalesceKey>>),
}

impl SharedTier {
    /// Connects to nothing.
    ///
    /// # Errors
    /// What the client makes of the configuration, for which validation should leave nothing.
    pub fn new(config: &config::Redis, metrics: SharedMetrics) -> Result<Self, redis::RedisError> {
        if let Some(node) = config.insecure_node() {
            tracing::warn!(
                %node,
                "bodies go to the shared tier in the clear: whoever is on the way can read and forge \
                 them; set cache.redis.encryption_key, or connect by rediss://"
            );
        }
        let key = config.encryption_key.as_ref().map(config::Secret::expose);
        let (writes, queued) = Queue::new();
        Ok(Self {
            names: Arc::new(Names::new(&config.prefix, key)),
            seal: key.map(Seal::new),
            dialer: Dialer::new(config)?,
            up: ArcSwapOption::empty(),
            lease: AtomicU64::new(0),
            began: Instant::now(),
            parts: Parts::new(config.is_cluster),
            known: Known::new(),
            lookups: Semaphore::new(LOOKUPS),
            writes,
            queued: Mutex::new(Some(queued)),
            pending: Mutex::default(),
            doubts: Doubts::default(),
            call: Notify::new(),
            tried: CancellationToken::new(),
            state: Mutex::default(),
            metrics,
        })
    }

    /// Whose turn it is to ask for a step; waits while somebody asks.
    pub(super) async fn ask(&self, key: &Arc<CoalesceKey>) -> Ask {
        if self.in_use().is_none() {
            self.metrics.resting.inc();
            return Ask::Nothing;
        }
        match self.known.turn(key) {
            Turn::Known => Ask::Nothing,
            Turn::First(asking) => Ask::Turn(asking),
            Turn::After(answered) => {
                answered.await;
                Ask::Answered
            }
        }
    }

    /// Looks a step up, and learns the token that what is fetched now may be written with. A value
    /// that is no good is none.
    pub(super) async fn lookup(&self, key: &Arc<CoalesceKey>, largest: u64) -> Option<Shared> {
        let up = self.in_use()?;
        let cache_key = &key.key;
        let thread = self.thread(&up.view, &key.key.primary);
        if self.parts.rests(thread.as_bytes()) {
            self.metrics.resting.inc();
            return None;
        }
        let in_doubt = || self.doubts.has(&key.key.primary);
        let place = self.lookups.try_acquire().ok().filter(|_| !in_doubt());
        let Some(_place) = place else {
            self.metrics.miss.inc();
            return None;
        };
        let field = self.names.field(&key.key.primary, &key.key.variant);
        let command = scripts::look(
            thread.as_bytes(),
            &field,
            &nonce(),
            largest.saturating_add(AROUND),
        );
        let departed = Instant::now();
        let answer = up
            .link
            .ask::<(Option<Vec<u8>>, Option<Vec<u8>>)>(&command)
            .await;
        self.metrics.took(departed.elapsed());
        let (token, value) = match answer {
            Ok(answer) => answer,
            Err(trouble) => {
                self.metrics.error.inc();
                self.failed(thread.as_bytes(), &trouble);
                return None;
            }
        };
        self.parts.succeeded(thread.as_bytes());
        // Read too late: it may have been purged, and this gateway would not know.
        self.in_use()?;
        if in_doubt() {
            self.metrics.miss.inc();
            return None;
        }
        if let Some(bytes) = token.and_then(|token| Nonce::try_from(token).ok()) {
            let token = WriteToken {
                thread: thread.as_str().into(),
                bytes,
            };
            self.known.learn(Arc::clone(key), token);
        }
        let Some(value) = value else {
            self.metrics.miss.inc();
            return None;
        };
        let place = Place {
            thread: &thread,
            field: &field,
        };
        let found = self.open(value, place, cache_key, largest);
        if found.is_none() {
            self.metrics.error.inc();
        }
        found
    }

    /// Counts what was found, which was `believed` or not.
    pub(super) fn judged(&self, believed: bool) {
        if believed {
            self.metrics.hit.inc();
        } else {
            self.metrics.error.inc();
        }
    }

    /// What a value holds, if it is what this key's should be.
    fn open(
        &self,
        value: Vec<u8>,
        place: Place<'_>,
        key: &CacheKey,
        largest: u64,
    ) -> Option<Shared> {
        let decoded = match codec::decode(value, self.seal.as_ref(), place, largest) {
            Ok(decoded) => decoded,
            Err(reason) => {
                tracing::debug!(%reason, "an entry of the shared tier is no good");
                return None;
            }
        };
        if decoded.step != key.primary.as_ref() || decoded.variant != key.variant.as_bytes() {
            return None;
        }
        let content_type = match &decoded.content_type {
            Some(bytes) => Some(HeaderValue::from_bytes(bytes).ok()?),
            None => None,
        };
        let now = milliseconds_since_1970();
        let age = now.saturating_sub(decoded.stored_at);
        let rest = decoded
            .expires_at
            .checked_sub(now)
            .filter(|rest| *rest > 0)?;
        Some(Shared {
            body: decoded.body,
            content_type,
            age: Duration::from_millis(age),
            remaining_ttl: Duration::from_millis(rest),
        })
    }

    /// The token that what departs now may be written with.
    pub(super) fn token(&self, key: &Arc<CoalesceKey>) -> Option<WriteToken> {
        self.in_use()?;
        self.known.token(key)
    }

    /// The tier, unless it rests: what the fleet purged is known to within the lease, and the fleet
    /// knows what this gateway purged.
    fn in_use(&self) -> Option<Arc<Up>> {
        let up = self.up.load_full()?;
        (self.lease.load(Ordering::Acquire) > self.milliseconds()).then_some(up)
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A command on a thread brought nothing.
    fn failed(&self, thread: &[u8], trouble: &Trouble) {
        if trouble.is_the_servers() && self.parts.failed(thread) {
            // At once: the keeper may be waiting for the same server.
            if self.up.swap(None).is_some() {
                self.rest(&self.dialer.explain(trouble));
            }
            self.call.notify_one();
        }
    }

    /// The name of the hash that a step's thread has.
    fn thread(&self, view: &View, step: &PrimaryKey) -> String {
        let mut path = rule_and_ids(step.as_ref());
        let rule = path.next().unwrap_or_default();
        let first = path.next().unwrap_or_default();
        let epoch = view.epoch(self.names.rule(rule).as_bytes());
        self.names.thread(&view.log, epoch, rule, first)
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under the lock can panic half way.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn milliseconds_since_1970() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Random bytes.
fn nonce() -> Nonce {
    static SOURCE: LazyLock<&dyn SecureRandom> =
        LazyLock::new(|| rustls::crypto::ring::default_provider().secure_random);
    let mut bytes = Nonce::default();
    SOURCE
        .fill(&mut bytes)
        .expect("the system has random bytes: TLS needs them, too");
    bytes
}
