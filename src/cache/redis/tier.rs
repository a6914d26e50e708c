//! The shared tier as the request path uses it: look-ups, write tokens, and queues for all that the
//! background task (`sync`) does.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use hyper::header::HeaderValue;
use smallvec::SmallVec;
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::lock::lock;
use super::super::memory::Freshness;
use super::breaker::SlotBreakers;
use super::client::{Connection, Connector};
use super::codec::{self, Location};
use super::error::RedisFailure;
use super::keys::Keys;
use super::lookup_once::{LookupOnce, LookupTurn, WriteToken};
use super::metrics::SharedMetrics;
use super::purge_log::Namespace;
use super::purge_queue::PurgeQueue;
use super::scripts::{self, Nonce};
use super::seal::Seal;
use super::verify::SuspectKeys;
use super::writer::{QueuedWrite, WriteJob, WriteQueue};
use crate::config;
use crate::policy::key::rule_and_ids;
use crate::policy::{CacheKey, CoalesceKey, PrimaryKey};

/// The number of look-ups in flight; a further one is a miss. Each may return a body.
const MAX_LOOKUPS: usize = 256;

/// The size that a value may have in addition to its body: key, variant, content type.
const MAX_OVERHEAD: u64 = 64 * 1024;

/// The shared tier of one gateway.
pub struct SharedTier {
    pub(super) keys: Arc<Keys>,
    pub(super) seal: Option<Seal>,
    pub(super) connector: Connector,
    /// `None` while the circuit is open.
    pub(super) active: ArcSwapOption<ActiveConnection>,
    /// The end of the lease in milliseconds since `started`. The tier is used only within the lease, which
    /// is extended whenever the purge log was read.
    pub(super) lease_until: AtomicU64,
    started: Instant,
    pub(super) breakers: SlotBreakers,
    pub(super) lookup_once: LookupOnce,
    lookup_permits: Semaphore,
    pub(super) write_queue: WriteQueue,
    /// Taken by the background task when it starts.
    pub(super) queued_writes: Mutex<Option<Receiver<QueuedWrite>>>,
    pub(super) purge_queue: Mutex<PurgeQueue>,
    pub(super) suspects: SuspectKeys,
    /// Wakes the background task before its next interval.
    pub(super) wake: Notify,
    /// Cancelled when the first attempt to connect has ended.
    pub(super) first_attempt: CancellationToken,
    health: Mutex<Health>,
    pub(super) metrics: SharedMetrics,
}

/// A connection in use, and the namespace of its log.
pub(super) struct ActiveConnection {
    pub(super) connection: Connection,
    pub(super) namespace: Namespace,
}

/// What `/status` shows.
#[derive(Debug, Default)]
struct Health {
    /// Why the circuit is open; `None` while it is closed.
    failure: Option<String>,
    /// The tier was in use at least once.
    was_up: bool,
}

impl fmt::Debug for SharedTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedTier({:?})", self.keys)
    }
}

/// An entry of the shared tier, before its body is judged.
pub(in crate::cache) struct SharedEntry {
    pub(in crate::cache) body: Bytes,
    pub(in crate::cache) content_type: Option<HeaderValue>,
    pub(in crate::cache) freshness: Freshness,
}

impl SharedTier {
    /// Creates the tier without connecting.
    ///
    /// # Errors
    /// Fails if the client library refuses the configuration or the CA file cannot be read. A validated
    /// configuration should leave no such case.
    pub fn new(config: &config::Redis, metrics: SharedMetrics) -> Result<Self, redis::RedisError> {
        if let Some(node) = config.insecure_node() {
            tracing::warn!(
                %node,
                "bodies go to the shared tier in the clear: anyone on the path can read and forge them; \
                 set cache.redis.encryption_key, or connect by rediss://"
            );
        }
        let encryption_key = config.encryption_key.as_ref().map(config::Secret::expose);
        let (write_queue, queued_writes) = WriteQueue::new();
        Ok(Self {
            keys: Arc::new(Keys::new(&config.prefix, encryption_key)),
            seal: encryption_key.map(Seal::new),
            connector: Connector::new(config)?,
            active: ArcSwapOption::empty(),
            lease_until: AtomicU64::new(0),
            started: Instant::now(),
            breakers: SlotBreakers::new(config.is_cluster),
            lookup_once: LookupOnce::new(),
            lookup_permits: Semaphore::new(MAX_LOOKUPS),
            write_queue,
            queued_writes: Mutex::new(Some(queued_writes)),
            purge_queue: Mutex::default(),
            suspects: SuspectKeys::default(),
            wake: Notify::new(),
            first_attempt: CancellationToken::new(),
            health: Mutex::default(),
            metrics,
        })
    }

    /// Returns the member `shared` of `/status`.
    pub fn status(&self) -> serde_json::Value {
        let health = lock(&self.health);
        let pending = lock(&self.purge_queue).len();
        match &health.failure {
            None if health.was_up => serde_json::json!({
                "state": "up",
                "pending_purges": pending,
                "open_slot_ranges": self.breakers.failed_keys().len(),
            }),
            failure => serde_json::json!({
                "state": "circuit_open",
                "reason": failure.as_deref().unwrap_or("not connected yet"),
                "pending_purges": pending,
            }),
        }
    }

    /// Returns the connection if the tier may be used: within the lease, this gateway knows what the fleet
    /// purged, and the fleet knows what this gateway purged.
    pub(super) fn usable(&self) -> Option<Arc<ActiveConnection>> {
        let active = self.active.load_full()?;
        (self.lease_until.load(Ordering::Acquire) > self.milliseconds()).then_some(active)
    }

    /// Returns the time since the tier was created, in milliseconds.
    pub(super) fn milliseconds(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns whether the request is to look up `key`, to wait for another look-up, or neither.
    pub(in crate::cache) fn lookup_turn(&self, key: &Arc<CoalesceKey>) -> LookupTurn {
        if self.usable().is_none() {
            self.metrics.circuit_open.inc();
            return LookupTurn::Done;
        }
        self.lookup_once.turn(key)
    }

    /// Looks a key up, and remembers the token with which a fetch that starts now may write. Returns
    /// `None` without a valid entry.
    pub(in crate::cache) async fn lookup(
        &self,
        coalesce_key: &Arc<CoalesceKey>,
        max_body: u64,
    ) -> Option<SharedEntry> {
        let active = self.usable()?;
        let key = &coalesce_key.key;
        let bucket = active.namespace.bucket(&self.keys, key.primary.as_ref());
        if self.breakers.is_open(bucket.as_bytes()) {
            self.metrics.circuit_open.inc();
            return None;
        }
        let is_suspect = || self.suspects.contains(&key.primary);
        let permit = self.lookup_permits.try_acquire().ok();
        let Some(_permit) = permit.filter(|_| !is_suspect()) else {
            self.metrics.miss.inc();
            return None;
        };
        let field = self.keys.field(&key.primary, &key.variant);
        let command = scripts::lookup(&bucket, &field, max_body.saturating_add(MAX_OVERHEAD));
        let sent = Instant::now();
        let reply = active.connection.query(&command).await;
        self.metrics.observe_lookup(sent.elapsed());
        let (token, value): (Option<Vec<u8>>, Option<Vec<u8>>) = match reply {
            Ok(reply) => reply,
            Err(failure) => {
                self.metrics.lookup_error.inc();
                self.record_failure(bucket.as_bytes(), &failure);
                return None;
            }
        };
        self.breakers.record_success(bucket.as_bytes());
        // If the lease ended meanwhile, the entry may have been purged without this gateway's knowledge.
        self.usable()?;
        if is_suspect() {
            self.metrics.miss.inc();
            return None;
        }
        if let Some(bytes) = token.and_then(|token| Nonce::try_from(token).ok()) {
            let token = WriteToken {
                bucket: bucket.as_str().into(),
                bytes,
            };
            self.lookup_once.remember(Arc::clone(coalesce_key), token);
        }
        let Some(value) = value else {
            self.metrics.miss.inc();
            return None;
        };
        let location = Location {
            bucket: &bucket,
            field: &field,
        };
        let entry = self.decode(value, location, key, max_body);
        if entry.is_none() {
            self.metrics.lookup_error.inc();
        }
        entry
    }

    /// Counts a look-up that returned an entry, by whether its body was valid.
    pub(in crate::cache) fn count_lookup(&self, is_valid: bool) {
        if is_valid {
            self.metrics.hit.inc();
        } else {
            self.metrics.lookup_error.inc();
        }
    }

    /// Decodes a value. Returns `None` if it is no entry of `key` or has expired.
    fn decode(
        &self,
        value: Vec<u8>,
        location: Location<'_>,
        key: &CacheKey,
        max_body: u64,
    ) -> Option<SharedEntry> {
        let record = match codec::decode(value, self.seal.as_ref(), location, max_body) {
            Ok(record) => record,
            Err(error) => {
                tracing::debug!(%error, "refused an entry of the shared tier");
                return None;
            }
        };
        if record.primary_key != key.primary.as_ref() || record.variant != key.variant.as_bytes() {
            return None;
        }
        let content_type = match &record.content_type {
            Some(bytes) => Some(HeaderValue::from_bytes(bytes).ok()?),
            None => None,
        };
        let now = unix_milliseconds();
        let age = now.saturating_sub(record.stored_at);
        let remaining = record
            .expires_at
            .checked_sub(now)
            .filter(|left| *left > 0)?;
        Some(SharedEntry {
            body: record.body,
            content_type,
            freshness: Freshness {
                age: Duration::from_millis(age),
                remaining_ttl: Duration::from_millis(remaining),
            },
        })
    }

    /// Returns the token with which a fetch that starts now may write its body.
    pub(in crate::cache) fn write_token(&self, key: &Arc<CoalesceKey>) -> Option<WriteToken> {
        self.usable()?;
        self.lookup_once.token(key)
    }

    /// Queues a write. It is dropped if the circuit is open or the queue is full.
    pub(in crate::cache) fn write(&self, job: WriteJob) {
        // The resource is final. If memory evicts it, the next request looks it up again.
        self.lookup_once.forget(&job.key);
        if self.usable().is_none() || !self.write_queue.push(job, unix_milliseconds()) {
            self.metrics.dropped.inc();
        }
    }

    /// Queues the announcement of a purge that this gateway makes. The tier is not used until the purge is
    /// in the log; the receiver completes then.
    pub(in crate::cache) fn announce_purge(
        &self,
        rule: &str,
        ids: &[&str],
    ) -> oneshot::Receiver<()> {
        self.lookup_once.forget_all();
        let announced = {
            let mut queue = lock(&self.purge_queue);
            let announced = queue.push(rule, ids);
            // Under the lock of the queue, so that the background task does not extend the lease between.
            self.lease_until.store(0, Ordering::Release);
            announced
        };
        self.wake.notify_one();
        announced
    }

    /// Queues the announcement of a purge of all variants of a resource, in all partitions.
    pub(in crate::cache) fn announce_purge_of(&self, key: &PrimaryKey) {
        if let Some((rule, ids)) = rule_and_id_strings(key).split_first() {
            // No caller waits for this announcement.
            drop(self.announce_purge(rule, ids));
        }
    }

    /// Has the background task check whether the tier holds a body of a resource that a fetch found live
    /// or gone, and purge it then. If too many keys are suspect, the purge is announced at once without a
    /// check. Returns whether it was.
    pub(in crate::cache) fn suspect(&self, key: &PrimaryKey) -> bool {
        let has_room = self.suspects.add(key);
        if has_room {
            self.suspects.wake.notify_one();
        } else {
            self.announce_purge_of(key);
        }
        !has_room
    }

    /// Counts a failed command on a bucket, and opens the circuit if all breakers are open.
    pub(super) fn record_failure(&self, bucket: &[u8], failure: &RedisFailure) {
        if failure.is_server_failure() && self.breakers.record_failure(bucket) {
            // At once, since the background task may be waiting for the same server.
            if self.active.swap(None).is_some() {
                self.open_circuit(&self.connector.describe(failure));
            }
            self.wake.notify_one();
        }
    }

    /// Stops the use of the tier.
    pub(super) fn disconnect(&self) {
        self.active.store(None);
        self.metrics.up.set(0);
    }

    pub(super) fn open_circuit(&self, reason: &str) {
        self.disconnect();
        let mut health = lock(&self.health);
        if health.failure.as_deref() != Some(reason) {
            tracing::warn!(
                reason,
                "the circuit of the shared tier is open: requests skip it"
            );
            health.failure = Some(reason.to_owned());
        }
    }

    pub(super) fn close_circuit(&self) {
        self.metrics.up.set(1);
        let mut health = lock(&self.health);
        if health.failure.take().is_some() || !health.was_up {
            tracing::info!("the shared tier is in use");
            health.was_up = true;
        }
    }
}

/// Returns the rule and the ids of a key as text, which they were in the request's path.
pub(super) fn rule_and_id_strings(key: &PrimaryKey) -> SmallVec<[&str; 4]> {
    let parts = rule_and_ids(key.as_ref()).map(std::str::from_utf8);
    parts.collect::<Result<_, _>>().unwrap_or_default()
}

fn unix_milliseconds() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
