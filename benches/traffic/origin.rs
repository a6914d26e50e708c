//! The upstream: one step that ends at its time, and a count of what asking for it cost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The demo's sandbox takes as long.
pub(super) const LATENCY: Duration = Duration::from_millis(120);

pub(super) const IDS: [&str; 3] = ["thread_1", "run_1", "step_1"];
const LIVE: &[u8] = br#"{"id":"step_1","object":"thread.run.step","run_id":"run_1","thread_id":"thread_1","status":"in_progress"}"#;
pub(super) const DONE: &[u8] = br#"{"id":"step_1","object":"thread.run.step","run_id":"run_1","thread_id":"thread_1","status":"completed"}"#;

pub(super) struct Origin {
    ends: Instant,
    log: Mutex<Log>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Log {
    pub(super) fetches: u64,
    pub(super) in_the_air: usize,
    pub(super) most_in_the_air: usize,
    pub(super) last: Option<Instant>,
    /// The shortest time from one departure to the next.
    pub(super) narrowest: Option<Duration>,
}

/// Dropped when the flight lands, or is called off because nobody waits for it any more.
struct Airborne(Arc<Origin>);

impl Drop for Airborne {
    fn drop(&mut self) {
        self.0.write().in_the_air -= 1;
    }
}

impl Origin {
    pub(super) fn new(step: Duration) -> Arc<Self> {
        Arc::new(Self {
            ends: Instant::now() + step,
            log: Mutex::default(),
        })
    }

    /// Departs when it is called. The answer is true of the moment at which it reaches the upstream.
    pub(super) fn fetch(self: &Arc<Self>) -> impl Future<Output = &'static [u8]> + Send + use<> {
        let departed = Instant::now();
        let mut log = self.write();
        log.fetches += 1;
        log.in_the_air += 1;
        log.most_in_the_air = log.most_in_the_air.max(log.in_the_air);
        if let Some(last) = log.last.replace(departed) {
            let gap = departed - last;
            log.narrowest = Some(log.narrowest.map_or(gap, |narrowest| narrowest.min(gap)));
        }
        drop(log);
        let airborne = Airborne(Arc::clone(self));
        async move {
            sleep_until(departed + LATENCY).await;
            if departed + LATENCY / 2 < airborne.0.ends {
                LIVE
            } else {
                DONE
            }
        }
    }

    pub(super) fn log(&self) -> Log {
        *self.write()
    }

    fn write(&self) -> MutexGuard<'_, Log> {
        // After a panic the run is over: no figure is read from it.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
