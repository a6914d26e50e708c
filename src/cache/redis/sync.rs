//! The background task of the shared tier. It owns the connection.
//!
//! It connects, reads the purge log to its end, and only then lets requests use the tier. From then on it
//! reads the log several times a second. Each read extends the lease of what this gateway knows, and shows
//! that the server lives. After a failure the circuit is open until a new connection has caught up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::lock::lock;
use super::breaker::FAILURES;
use super::client::Connection;
use super::codec::{self, EntryRecord, Location};
use super::error::RedisFailure;
use super::purge_log::{LogReader, Namespace, PurgeBatch, PurgeId};
use super::scripts;
use super::tier::{ActiveConnection, SharedTier, rule_and_id_strings};
use super::writer::QueuedWrite;
use crate::policy::{PrimaryKey, PurgeScope};

/// The interval between two reads of the log.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long what was read is valid. With the time of a read it stays below a second, within which a purge
/// must reach every gateway.
const LEASE: Duration = Duration::from_millis(700);

/// The first pause after a failure. Each further pause is twice as long, up to `MAX_BACKOFF`.
const RETRY_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// How long the start of the gateway waits for the first attempt to connect.
const START_WAIT: Duration = Duration::from_millis(500);

/// The number of writes in flight, and of checks of suspect keys.
const MAX_CONCURRENT: usize = 32;

/// A write that was queued for longer is dropped: the other gateways have fetched the body meanwhile. At
/// the end of the gateway, queued writes get as long.
const STALE: Duration = Duration::from_secs(1);

/// Purges memory. The function walks all entries, so it is called on a blocking thread.
type ApplyPurge = Arc<dyn Fn(PurgeScope) + Send + Sync>;

impl SharedTier {
    /// Runs the background task until `end`. `apply_purge` is called with the purges of other gateways.
    pub async fn run(
        self: Arc<Self>,
        end: CancellationToken,
        apply_purge: impl Fn(PurgeScope) + Send + Sync + 'static,
    ) {
        let apply_purge: ApplyPurge = Arc::new(apply_purge);
        let queued = lock(&self.queued_writes).take();
        let write_queue = async {
            if let Some(queued) = queued {
                self.write_queued(queued, &end).await;
            }
        };
        let until_end = async {
            let tasks = async {
                tokio::join!(
                    self.stay_connected(&apply_purge),
                    self.check_suspects(&apply_purge),
                    self.probe_open_ranges()
                )
            };
            end.run_until_cancelled(tasks).await;
        };
        tokio::join!(until_end, write_queue);
        self.disconnect();
        tracing::debug!("the shared tier has ended");
    }

    /// Waits for the end of the first attempt to connect, at most `START_WAIT`. A new gateway that waits
    /// for it answers its first request from the shared tier.
    pub async fn first_attempt(&self) {
        let _ = timeout(START_WAIT, self.first_attempt.cancelled()).await;
    }

    async fn stay_connected(&self, apply_purge: &ApplyPurge) {
        let mut reader = LogReader::new(&self.keys);
        let mut backoff = RETRY_BACKOFF;
        loop {
            let failure = match self.connector.connect().await {
                Ok(connection) => {
                    let connected = Instant::now();
                    let failure = self.follow_log(&connection, &mut reader, apply_purge).await;
                    if connected.elapsed() > MAX_BACKOFF {
                        backoff = RETRY_BACKOFF;
                    }
                    failure
                }
                Err(failure) => failure,
            };
            self.open_circuit(&self.connector.describe(&failure));
            self.first_attempt.cancel();
            // Up to a quarter is added, so that the gateways of a fleet do not reconnect at once.
            let jitter = u32::from(scripts::nonce()[0]);
            sleep(backoff + backoff * jitter / 1024).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// Reads the log at every interval until the server fails.
    async fn follow_log(
        &self,
        connection: &Connection,
        reader: &mut LogReader,
        apply_purge: &ApplyPurge,
    ) -> RedisFailure {
        let mut timeouts = 0;
        let mut is_first = true;
        self.breakers.reset();
        loop {
            let began = self.milliseconds();
            match self.sync_once(connection, reader, apply_purge).await {
                Ok(namespace) => {
                    timeouts = 0;
                    if !is_first && self.active.load().is_none() {
                        // Failed requests have opened the circuit.
                        return RedisFailure::TimedOut;
                    }
                    self.extend_lease(connection, namespace, began);
                    self.first_attempt.cancel();
                    is_first = false;
                }
                Err(failure) => {
                    timeouts += 1;
                    let is_timeout = matches!(failure, RedisFailure::TimedOut);
                    if is_first || timeouts >= FAILURES || !is_timeout {
                        return failure;
                    }
                }
            }
            tokio::select! {
                () = sleep(INTERVAL) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Reads the log, applies the purges of other gateways, and announces those of this one.
    async fn sync_once(
        &self,
        connection: &Connection,
        reader: &mut LogReader,
        apply_purge: &ApplyPurge,
    ) -> Result<Namespace, RedisFailure> {
        loop {
            let (namespace, batch) = reader.catch_up(connection).await?;
            if let Some(batch) = batch {
                // First the lease ends: a look-up under the old names after the purge of memory could
                // store a purged body.
                self.lease_until.store(0, Ordering::Release);
                self.lookup_once.forget_all();
                self.apply(batch, apply_purge).await?;
            }
            // The log was read to its end, so it has not lost the purges that were announced before.
            let acks = lock(&self.purge_queue).take_acks();
            for ack in acks {
                // The caller may have gone.
                let _ = ack.send(());
            }
            self.retry_removals(connection).await;
            if self.announce_next(connection, reader, &namespace).await? {
                return Ok(namespace);
            }
        }
    }

    /// Purges memory on a blocking thread.
    async fn apply(&self, batch: PurgeBatch, apply_purge: &ApplyPurge) -> Result<(), RedisFailure> {
        let (scope, apply_purge) = (batch.into_scope(&self.keys), Arc::clone(apply_purge));
        // The task fails only if the runtime ends.
        let applied = tokio::task::spawn_blocking(move || apply_purge(scope)).await;
        applied.map_err(|_| RedisFailure::TimedOut)
    }

    /// Announces the oldest queued purge. Returns `true` if there is none that can be announced now. After
    /// an announcement the log is to be read again, since a rule may have a new epoch.
    async fn announce_next(
        &self,
        connection: &Connection,
        reader: &LogReader,
        namespace: &Namespace,
    ) -> Result<bool, RedisFailure> {
        let Some((number, rule, ids)) = lock(&self.purge_queue).front() else {
            return Ok(true);
        };
        if self.breakers.all_open() {
            // The connection failed and is about to be replaced.
            return Err(RedisFailure::TimedOut);
        }
        let epoch_field = self.keys.epoch(&rule);
        let epoch = namespace.epoch(&epoch_field);
        let bucket = ids
            .first()
            .map(|id| self.keys.bucket(&namespace.log, epoch, &rule, id))
            // If the node of the bucket fails, the rule gets a new epoch instead.
            .filter(|bucket| !self.breakers.is_open(bucket.as_bytes()));
        let mut removed = None;
        if let Some(bucket) = bucket {
            let token: Result<Option<Vec<u8>>, _> =
                connection.query(&scripts::remove(&bucket)).await;
            match token {
                Ok(token) => removed = Some((bucket, token)),
                Err(failure) if failure.is_server_failure() => {
                    // What was read from the log is valid all the same; only this purge waits.
                    self.record_failure(bucket.as_bytes(), &failure);
                    return Ok(true);
                }
                Err(failure) => return Err(failure),
            }
        }
        let message =
            PurgeId::new(&self.keys, &rule, &ids.iter().collect::<Vec<_>>()).encode(&reader.sender);
        let epoch = removed.is_some().then_some(epoch);
        let command =
            scripts::announce(reader.keys(), &message, &epoch_field, &namespace.log, epoch);
        let (message_number, _): (u64, Vec<u8>) = connection.query(&command).await?;
        if message_number > 0 {
            let mut queue = lock(&self.purge_queue);
            if let Some((bucket, Some(token))) = removed {
                queue.retry_later(bucket, token);
            }
            queue.announced(number);
        }
        // Otherwise log or epoch have changed, and the purge is tried again under the new names.
        Ok(false)
    }

    /// Removes buckets once more whose time has come, in case a failover lost the first removal.
    async fn retry_removals(&self, connection: &Connection) {
        loop {
            let Some(retry) = lock(&self.purge_queue).due_retry() else {
                return;
            };
            if self.breakers.is_open(retry.bucket.as_bytes()) {
                continue;
            }
            let command = scripts::remove_again(&retry.bucket, &retry.token);
            if let Err(failure) = connection.query::<u64>(&command).await {
                self.record_failure(retry.bucket.as_bytes(), &failure);
            }
        }
    }

    /// Lets requests use the tier for a lease from `began`, when the log was read.
    fn extend_lease(&self, connection: &Connection, namespace: Namespace, began: u64) {
        let active = self.active.load();
        if active
            .as_ref()
            .is_none_or(|active| active.namespace != namespace)
        {
            self.lookup_once.forget_all();
            self.active.store(Some(Arc::new(ActiveConnection {
                connection: connection.clone(),
                namespace,
            })));
        }
        // A purge that was queued since the log was read keeps the tier unused until it is announced.
        let queue = lock(&self.purge_queue);
        if queue.len() == 0 {
            let lease = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
            self.lease_until.store(began + lease, Ordering::Release);
            self.suspects.wake.notify_one();
        }
        drop(queue);
        self.close_circuit();
    }

    /// Probes the slot ranges whose breaker is open, forever, and closes those that answer.
    async fn probe_open_ranges(&self) {
        let mut backoff = RETRY_BACKOFF;
        loop {
            sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
            let failed_keys = self.breakers.failed_keys();
            if failed_keys.is_empty() {
                backoff = RETRY_BACKOFF;
            }
            let Some(active) = self.active.load_full() else {
                continue;
            };
            let mut probes = JoinSet::new();
            for key in failed_keys {
                let active = Arc::clone(&active);
                probes.spawn(async move {
                    let command = scripts::has_field(&key, b"");
                    let reply = active.connection.query::<bool>(&command).await;
                    (key, reply)
                });
            }
            while let Some(probe) = probes.join_next().await {
                if let Ok((key, reply)) = probe
                    && !reply.is_err_and(|failure| failure.is_server_failure())
                {
                    self.breakers.close(&key);
                    backoff = RETRY_BACKOFF;
                }
            }
        }
    }

    /// Checks suspect keys, forever.
    async fn check_suspects(self: &Arc<Self>, apply_purge: &ApplyPurge) {
        let mut checks = JoinSet::new();
        loop {
            self.suspects.wake.notified().await;
            if self.usable().is_none() {
                // `extend_lease` wakes the task again.
                continue;
            }
            for key in self.suspects.start_checks() {
                if checks.len() >= MAX_CONCURRENT {
                    checks.join_next().await;
                }
                let (tier, apply_purge) = (Arc::clone(self), Arc::clone(apply_purge));
                checks.spawn(async move {
                    if tier.check(&key, &apply_purge).await {
                        tier.suspects.resolve(&key);
                    } else {
                        tier.suspects.add(&key);
                    }
                });
            }
            while checks.join_next().await.is_some() {}
        }
    }

    /// Asks the tier whether it holds a body of `key`, and purges the resource if so. Returns `false` if
    /// the check failed and is to be repeated.
    async fn check(&self, key: &PrimaryKey, apply_purge: &ApplyPurge) -> bool {
        let Some(active) = self.usable() else {
            return false;
        };
        let bucket = active.namespace.bucket(&self.keys, key.as_ref());
        if self.breakers.is_open(bucket.as_bytes()) {
            return false;
        }
        let command = scripts::has_field(bucket.as_bytes(), &self.keys.marker(key));
        match active.connection.query::<bool>(&command).await {
            Ok(false) => {}
            Err(failure) if failure.is_server_failure() => {
                self.record_failure(bucket.as_bytes(), &failure);
                return false;
            }
            // A bucket of another type is purged as well.
            Ok(true) | Err(_) => {
                // From here on nothing is read from the tier until the purge is in the log. What a
                // look-up stored in memory before is purged then.
                self.announce_purge_of(key);
                if let Some((rule, ids)) = rule_and_id_strings(key).split_first() {
                    let purge = PurgeId::new(&self.keys, *rule, ids);
                    // Fails only if the runtime ends.
                    let _ = self
                        .apply(PurgeBatch::Purges(vec![purge]), apply_purge)
                        .await;
                }
            }
        }
        true
    }

    /// Writes queued bodies until `end`, and then, for at most [`STALE`], those that are left.
    async fn write_queued(
        self: &Arc<Self>,
        mut queue: Receiver<QueuedWrite>,
        end: &CancellationToken,
    ) {
        let mut writes = JoinSet::new();
        while let Some(Some(queued)) = end.run_until_cancelled(queue.recv()).await {
            if writes.len() >= MAX_CONCURRENT {
                writes.join_next().await;
            }
            while writes.try_join_next().is_some() {}
            self.spawn_write(queued, &mut writes);
        }
        queue.close();
        while let Some(queued) = queue.recv().await {
            self.spawn_write(queued, &mut writes);
        }
        let _ = timeout(STALE, writes.join_all()).await;
    }

    fn spawn_write(self: &Arc<Self>, queued: QueuedWrite, writes: &mut JoinSet<()>) {
        if queued.queued_at.elapsed() > STALE {
            self.metrics.dropped.inc();
            return;
        }
        let tier = Arc::clone(self);
        writes.spawn(async move { tier.write_entry(&queued).await });
    }

    async fn write_entry(&self, queued: &QueuedWrite) {
        let job = &queued.job;
        let bucket = &*job.token.bucket;
        let active = self.usable();
        let active = active.filter(|_| !self.breakers.is_open(bucket.as_bytes()));
        let Some(active) = active else {
            self.metrics.dropped.inc();
            return;
        };
        let key = &job.key.key;
        let field = self.keys.field(&key.primary, &key.variant);
        let ttl = u64::try_from(job.ttl.as_millis()).unwrap_or(u64::MAX);
        let record = EntryRecord {
            stored_at: queued.stored_at,
            expires_at: queued.stored_at.saturating_add(ttl),
            primary_key: key.primary.as_ref(),
            variant: key.variant.as_bytes(),
            content_type: job.content_type.as_ref().map(HeaderValue::as_bytes),
            body: &job.body,
        };
        let location = Location {
            bucket,
            field: &field,
        };
        let Some(value) = codec::encode(&record, self.seal.as_ref(), location) else {
            self.metrics.dropped.inc();
            return;
        };
        let marker = self.keys.marker(&key.primary);
        let command = scripts::store(bucket, &job.token.bytes, &field, &value, &marker, ttl);
        match active.connection.query::<bool>(&command).await {
            Ok(is_stored) => {
                self.breakers.record_success(bucket.as_bytes());
                if is_stored {
                    self.metrics.stored.inc();
                } else {
                    // The token was revoked. The next look-up returns another one.
                    self.lookup_once.forget(&job.key);
                    self.metrics.refused.inc();
                }
            }
            Err(failure) => {
                self.metrics.write_error.inc();
                self.record_failure(bucket.as_bytes(), &failure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::lookup_once::WriteToken;
    use super::super::metrics::SharedMetrics;
    use super::super::test_server::{config_for, serve};
    use super::super::writer::{MAX_QUEUED, MAX_QUEUED_BYTES, WriteJob};
    use super::*;
    use crate::policy::{CacheKey, CoalesceKey, Partition};

    fn job(nth: usize, body: &Bytes) -> WriteJob {
        let ids = ["t", "r", &nth.to_string()];
        WriteJob {
            token: WriteToken {
                bucket: "t".into(),
                bytes: [0; 16],
            },
            key: Arc::new(CoalesceKey {
                config_number: 0,
                key: CacheKey::new(Partition::of(["p"]), "run-step", &ids, ""),
            }),
            body: body.clone(),
            content_type: None,
            ttl: STALE,
        }
    }

    /// Queues writes without a task that takes them from the queue, and returns how many were dropped.
    fn dropped(tier: &SharedTier, jobs: usize, size: usize) -> u64 {
        let body = Bytes::from(vec![b'x'; size]);
        let before = tier.metrics.dropped.get();
        for nth in 0..jobs {
            tier.write(job(nth, &body));
        }
        tier.metrics.dropped.get() - before
    }

    fn disconnected() -> SharedTier {
        let config = config_for("redis://127.0.0.1:1");
        let tier = SharedTier::new(&config, SharedMetrics::default()).unwrap();
        tier.lease_until.store(u64::MAX, Ordering::Release);
        tier
    }

    async fn connected() -> (JoinSet<()>, SharedTier) {
        let (server, connection) = serve(Vec::new()).await;
        let tier = disconnected();
        let namespace = Namespace::default();
        tier.active.store(Some(Arc::new(ActiveConnection {
            connection,
            namespace,
        })));
        (server, tier)
    }

    #[tokio::test]
    async fn writes_beyond_the_limits_of_the_queue_are_dropped_and_counted() {
        let (_server, by_bytes) = connected().await;
        let eighth = MAX_QUEUED_BYTES / 8;
        assert_eq!(dropped(&by_bytes, 8, eighth), 0);
        assert_eq!(dropped(&by_bytes, 3, 1), 3);
        let (_server, by_number) = connected().await;
        assert_eq!(dropped(&by_number, MAX_QUEUED + 5, 1), 5);
    }

    #[tokio::test]
    async fn writes_without_a_lease_are_dropped_and_counted() {
        let (_server, tier) = connected().await;
        tier.lease_until.store(0, Ordering::Release);
        assert_eq!(dropped(&tier, 2, 1), 2);
        tier.lease_until.store(u64::MAX, Ordering::Release);
        assert_eq!(dropped(&tier, 2, 1), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn stale_writes_and_writes_while_the_circuit_is_open_are_dropped_and_counted() {
        let tier = Arc::new(disconnected());
        let mut queue = lock(&tier.queued_writes).take().unwrap();
        let push = || {
            let is_queued = tier.write_queue.push(job(0, &Bytes::from_static(b"x")), 0);
            assert!(is_queued);
        };
        let mut writes = JoinSet::new();
        push();
        tokio::time::advance(STALE + Duration::from_millis(1)).await;
        tier.spawn_write(queue.recv().await.unwrap(), &mut writes);
        assert!(writes.is_empty());
        assert_eq!(tier.metrics.dropped.get(), 1, "stale");
        push();
        tier.spawn_write(queue.recv().await.unwrap(), &mut writes);
        writes.join_all().await;
        assert_eq!(tier.metrics.dropped.get(), 2, "the circuit is open");
    }
}
