//! The world of a schedule: the product's cache and holds, the time, a log of everything.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stepgate::cache::Cache;
use stepgate::coalesce::{ConcurrencyLimit, RetryAfterGate};
use stepgate::config;
use stepgate::policy::{CacheKey, Partition, PurgeScope};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::log::{Answer, Entry, Event, Number};
use super::schedule::{Ms, PLACES, Reach, Reply, Schedule, step_of};

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
    pub(super) gate: RetryAfterGate<usize, Number>,
    pub(super) keys: [CacheKey; PLACES],
    start: Instant,
    departed: AtomicUsize,
    log: Mutex<Vec<Entry>>,
}

impl World {
    pub(super) fn new(schedule: &Schedule) -> Self {
        let key = |place: usize| {
            let thread = THREADS[step_of(place)];
            let variant = if place == 1 { "include[]=x" } else { "" };
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
            limit: ConcurrencyLimit::new(schedule.berths, Duration::from_millis(schedule.patience)),
            gate: RetryAfterGate::default(),
            keys: std::array::from_fn(key),
            start: Instant::now(),
            departed: AtomicUsize::new(0),
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

    pub(super) fn told(&self) -> Vec<Entry> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    pub(super) fn ms(&self, at: Instant) -> Ms {
        u64::try_from((at - self.start).as_millis()).unwrap()
    }

    pub(super) fn instant(&self, at: Ms) -> Instant {
        self.start + Duration::from_millis(at)
    }

    /// Waits for a moment and then for its turn in it.
    pub(super) async fn until(&self, at: Ms, turn: usize) {
        sleep_until(self.instant(at)).await;
        for _ in 0..turn {
            yield_now().await;
        }
    }

    pub(super) fn purge(&self, reach: Reach) {
        self.note(Event::Purged(reach));
        let scope = match reach {
            Reach::Everything => PurgeScope::All,
            Reach::Step(step) => PurgeScope::prefix(RULE, &THREADS[step..=step]),
        };
        self.cache.purge(&scope);
    }

    pub(super) fn hit(&self, place: usize) -> Option<Answer> {
        let found = self.cache.lookup(&self.keys[place], Instant::now())?;
        let body = str::from_utf8(found.body()).unwrap();
        Some(Answer::Hit(body.parse().unwrap()))
    }

    /// What holds the place right now.
    pub(super) fn held(&self, place: usize) -> Option<Answer> {
        let (number, until) = self.gate.blocked(&step_of(place))?;
        Some(Answer::AtTheDoor(number, self.ms(until)))
    }

    pub(super) fn next_reply(&self) -> Reply {
        let replies = &self.schedule.replies;
        replies[self.departed.fetch_add(1, Ordering::Relaxed) % replies.len()]
    }
}
