//! What a run shares: stepgate's own cache, limit and gate, the time, and the log.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stepgate::cache::Cache;
use stepgate::coalesce::{ConcurrencyLimit, RetryAfterGate};
use stepgate::config;
use stepgate::policy::{CacheKey, Partition, PurgeScope};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::log::{Answer, Entry, Event, Seq};
use super::schedule::{Ms, Reply, Schedule, Scope, TARGETS, resource_of};

const THREADS: [&str; 2] = ["thread_0", "thread_1"];
const RULE: &str = "run-step";

pub(super) const TERMS: config::Cache = config::Cache {
    max_bytes: 1 << 20,
    max_entry_bytes: 1 << 10,
    ttl: Duration::from_secs(24 * 3600),
    honor_no_store: true,
    redis: None,
};

pub(super) struct World {
    pub(super) schedule: Schedule,
    pub(super) cache: Cache,
    pub(super) limit: ConcurrencyLimit,
    pub(super) batch: RetryAfterGate<usize, Seq>,
    pub(super) keys: [CacheKey; TARGETS],
    start: Instant,
    started_at: AtomicUsize,
    log: Mutex<Vec<Entry>>,
}

impl World {
    pub(super) fn new(schedule: &Schedule) -> Self {
        let key = |target: usize| {
            let thread = THREADS[resource_of(target)];
            let variant = if target == 1 { "include[]=x" } else { "" };
            CacheKey::new(
                Partition::of([thread]),
                RULE,
                &[thread, "run", "step"],
                variant,
            )
        };
        Self {
            schedule: schedule.clone(),
            cache: Cache::new(TERMS.max_bytes),
            limit: ConcurrencyLimit::new(
                schedule.permits,
                Duration::from_millis(schedule.queue_timeout),
            ),
            batch: RetryAfterGate::default(),
            keys: std::array::from_fn(key),
            start: Instant::now(),
            started_at: AtomicUsize::new(0),
            log: Mutex::default(),
        }
    }

    pub(super) fn note(&self, event: Event) {
        let entry = Entry {
            at: self.ms(Instant::now()),
            event,
        };
        self.log.lock().unwrap().push(entry);
    }

    pub(super) fn log_entries(&self) -> Vec<Entry> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    pub(super) fn ms(&self, at: Instant) -> Ms {
        u64::try_from((at - self.start).as_millis()).unwrap()
    }

    pub(super) fn instant(&self, at: Ms) -> Instant {
        self.start + Duration::from_millis(at)
    }

    /// Waits until `at`, then yields `turn` times.
    pub(super) async fn until(&self, at: Ms, turn: usize) {
        sleep_until(self.instant(at)).await;
        for _ in 0..turn {
            yield_now().await;
        }
    }

    pub(super) fn purge(&self, scope: Scope) {
        self.note(Event::Purged(scope));
        let scope = match scope {
            Scope::All => PurgeScope::All,
            Scope::Resource(step) => PurgeScope::prefix(RULE, &THREADS[step..=step]),
        };
        self.cache.purge(&scope);
    }

    pub(super) fn hit(&self, target: usize) -> Option<Answer> {
        let found = self.cache.lookup(&self.keys[target], Instant::now())?;
        let body = str::from_utf8(found.body()).unwrap();
        Some(Answer::Hit(body.parse().unwrap()))
    }

    /// Returns the block of the target that is in force now.
    pub(super) fn blocked(&self, target: usize) -> Option<Answer> {
        let (seq, until) = self.batch.blocked(&resource_of(target))?;
        Some(Answer::Blocked(seq, self.ms(until)))
    }

    pub(super) fn next_reply(&self) -> Reply {
        let replies = &self.schedule.replies;
        replies[self.started_at.fetch_add(1, Ordering::Relaxed) % replies.len()]
    }
}
