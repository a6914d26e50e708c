//! What befalls a soak, and when: faults by chance, outages and reloads by the clock.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{FIRST_KEY, health};
use crate::fault::{self, Effect};
use crate::fixtures::origin::{Connections, Protocol};
use crate::fixtures::random::seeded;
use crate::fixtures::redis::Redis;
use crate::ledger::Case;
use crate::testbed::Testbed;
use crate::upstream::Chance;
use crate::upstream_faults::UNSOLICITED;

/// One of so many fetches meets a fault.
const ONE_IN: u32 = 150;

/// An outage lasts this part of a round, and at most [`MAX_OUTAGE`].
const OUTAGE: u32 = 12;
const MAX_OUTAGE: Duration = Duration::from_millis(1500);

/// A round has one outage, one good and one broken reload, and one rotated secret.
const ROUND: Duration = Duration::from_secs(20);

/// The schedule, and what of it has happened.
#[derive(Debug)]
pub(super) struct ChaosSchedule {
    started: Instant,
    calm: [Range<Duration>; 2],
    round: Duration,
    /// The start of each outage of the upstream, and its end once it is over.
    outages: Mutex<Vec<(Instant, Option<Instant>)>>,
    reloads: AtomicU64,
    rotations: AtomicU64,
    redis_outages: AtomicU64,
}

/// Returns what chooses the fault of a fetch, given its number.
pub(super) fn chance(seed: u64) -> Chance {
    let mut faults = fault::all();
    faults.retain(|fault| {
        fault.protocol == Protocol::Http1
            && matches!(fault.effect, Effect::Response(_))
            && !UNSOLICITED.contains(&fault.name)
    });
    Box::new(move |step, fetch| {
        let mut rng = seeded(seed, &["chance", &fetch.to_string()]);
        // A list has no id for a body to be wrong about.
        let strikes = step.id.is_some() && rng.u32(..ONE_IN) == 0;
        strikes.then(|| faults[rng.usize(..faults.len())])
    })
}

impl ChaosSchedule {
    pub(super) fn new(duration: Duration) -> Self {
        Self {
            started: Instant::now(),
            calm: health::calm_times(duration),
            round: ROUND.min(duration / 2),
            outages: Mutex::default(),
            reloads: AtomicU64::new(0),
            rotations: AtomicU64::new(0),
            redis_outages: AtomicU64::new(0),
        }
    }

    fn outage(&self) -> Duration {
        (self.round / OUTAGE).min(MAX_OUTAGE)
    }

    /// Waits for the end of a calm time, also of one that would begin in the next round.
    async fn wait_for_chaos(&self) {
        for calm in &self.calm {
            let now = self.started.elapsed();
            if calm.start < now + self.round && now < calm.end {
                sleep(calm.end - now).await;
            }
        }
    }

    /// Stops, kills or pauses Redis twice a round, until it is dropped. No request is touched by it.
    pub(super) async fn strike_redis(&self, redis: &tokio::sync::Mutex<Redis>) {
        for round in 0_usize.. {
            self.wait_for_chaos().await;
            sleep(self.round / 4).await;
            let mut redis = redis.lock().await;
            match round % 3 {
                // Connections stay open, and no command is answered.
                0 => {
                    redis.stop().await;
                    sleep(self.outage()).await;
                    redis.resume().await;
                }
                1 => {
                    redis.kill();
                    sleep(self.outage()).await;
                    redis.restart().await;
                }
                _ => {
                    let time = self.outage().as_millis().to_string();
                    redis.cli(&["CLIENT", "PAUSE", &time, "ALL"]).await;
                    sleep(self.outage()).await;
                }
            }
            drop(redis);
            self.redis_outages.fetch_add(1, Ordering::Relaxed);
            sleep(self.round / 4).await;
        }
    }

    /// Runs round after round, until it is dropped. `text` is the configuration.
    pub(super) async fn strike_upstream(&self, testbed: &Testbed, text: &str) {
        let part = self.round / 5;
        for round in 0_usize.. {
            self.wait_for_chaos().await;
            sleep(part).await;
            let outages = [Connections::Refuse, Connections::Stall, Connections::Reset];
            self.strike_connections(testbed, outages[round % 3]).await;
            sleep(part).await;
            let max_retry_after = ["160ms", "150ms"][round % 2];
            let changed = text.replace("150ms", max_retry_after);
            self.reload(testbed, &changed, "success").await;
            sleep(part).await;
            self.reload(testbed, "[server]\nlisten = nothing", "failure")
                .await;
            self.reload(testbed, text, "success").await;
            sleep(part).await;
            self.rotate_key(testbed).await;
        }
    }

    async fn strike_connections(&self, testbed: &Testbed, connections: Connections) {
        self.lock_outages().push((Instant::now(), None));
        testbed.set_connections(connections).await;
        sleep(self.outage()).await;
        testbed.set_connections(Connections::Serve).await;
        if let Some((_, end)) = self.lock_outages().last_mut() {
            *end = Some(Instant::now());
        }
    }

    fn lock_outages(&self) -> MutexGuard<'_, Vec<(Instant, Option<Instant>)>> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether an outage of the upstream touched a request of this time.
    pub(super) fn touched(&self, sent: Instant, answered: Instant) -> bool {
        let outages = self.lock_outages();
        let mut outages = outages.iter().rev();
        outages.any(|(start, end)| *start <= answered && end.is_none_or(|end| sent <= end))
    }

    fn next_reload(&self) -> Case {
        Case::new(0, self.reloads.fetch_add(1, Ordering::Relaxed), "reload")
    }

    async fn reload(&self, testbed: &Testbed, text: &str, result: &str) {
        testbed.reload(&self.next_reload(), text, result).await;
    }

    /// Rotates the API key. The old one stays valid until the next rotation.
    async fn rotate_key(&self, testbed: &Testbed) {
        let number = self.rotations.fetch_add(1, Ordering::Relaxed) + 1;
        let key = FIRST_KEY.replace('0', &number.to_string());
        testbed.upstream.rotate_key(&key);
        testbed
            .write_key(&self.next_reload(), &key, "success")
            .await;
    }

    /// Returns lines of the table.
    pub(super) fn report(&self) -> String {
        let rotations = self.rotations.load(Ordering::Relaxed);
        let reloads = self
            .reloads
            .load(Ordering::Relaxed)
            .saturating_sub(rotations);
        format!(
            "| outages of the upstream, of Redis | {}, {} |\n\
             | reloads, rotated secrets | {reloads}, {rotations} |\n",
            self.lock_outages().len(),
            self.redis_outages.load(Ordering::Relaxed),
        )
    }
}
