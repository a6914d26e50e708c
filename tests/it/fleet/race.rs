//! Purges race with fetches, writes and reads of two gateways.
//!
//! The origin numbers its responses. A request after a purge must get a higher number than the highest one
//! before the purge: at once on the gateway that purged, and within a second on the other one. It does not
//! matter whether the response comes from memory, from the tier or from a fetch.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Fleet, PURGE_PROPAGATION, is_memory_hit, is_shared_hit, purge};
use crate::support::client::head;
use crate::support::{Action, Gateway, Origin, RawClient, client::Response, step};

const STEPS: usize = 4;
const POLLERS: usize = 3;
const ROUNDS: usize = 4;
const PURGES: usize = 20;

struct Purge {
    finished: Instant,
    below: &'static str,
    by: usize,
    /// The highest number that the origin had returned when the purge began.
    before: usize,
}

#[derive(Default)]
struct Counts {
    responses: AtomicUsize,
    memory: AtomicUsize,
    shared: AtomicUsize,
}

struct Race {
    purges: Mutex<Vec<Purge>>,
    is_over: AtomicBool,
    counts: Counts,
}

impl Race {
    /// Returns the number that a response of `gateway` to a request sent at `sent` must exceed.
    fn floor(&self, gateway: usize, sent: Instant) -> usize {
        let purges = self.purges.lock().unwrap();
        let propagated = purges.iter().filter(|purge| {
            let grace = if purge.by == gateway {
                Duration::ZERO
            } else {
                PURGE_PROPAGATION
            };
            purge.finished + grace <= sent
        });
        propagated.map(|purge| purge.before).max().unwrap_or(0)
    }

    fn check(&self, gateway: usize, path: &str, sent: Instant, floor: usize, answer: &Response) {
        let fetch = answer.fetch();
        if fetch <= floor {
            let purges = self.purges.lock().unwrap();
            let covering = purges.iter().filter(|purge| purge.before >= fetch);
            let since: Vec<String> = covering
                .filter_map(|purge| {
                    let since = sent.checked_duration_since(purge.finished)?;
                    Some(format!("{} by {} {since:?} before", purge.below, purge.by))
                })
                .collect();
            let status = answer.cache_status();
            panic!("{path} on gateway {gateway}: fetch {fetch}, {status}; purged: {since:#?}");
        }
        let Counts {
            responses,
            memory,
            shared,
        } = &self.counts;
        responses.fetch_add(1, Ordering::Relaxed);
        memory.fetch_add(usize::from(is_memory_hit(answer)), Ordering::Relaxed);
        shared.fetch_add(usize::from(is_shared_hit(answer)), Ordering::Relaxed);
    }
}

/// Requests one step after the other from one gateway, a millisecond apart.
async fn poll(race: Arc<Race>, mut raw: RawClient, gateway: usize, first: usize) {
    let mut nth = first;
    while !race.is_over.load(Ordering::Relaxed) {
        nth += 1;
        let path = step(&format!("raced_{}", nth % STEPS));
        let sent = Instant::now();
        let floor = race.floor(gateway, sent);
        raw.send(head("GET", &path, "127.0.0.1", &[])).await;
        let answer = raw.response().await;
        race.check(gateway, &path, sent, floor, &answer);
        sleep(Duration::from_millis(1)).await;
    }
}

/// Purges in bursts on both gateways. A pause after each burst shows whether a purged body survived.
async fn purge_in_bursts(race: &Race, origin: &Origin, gateways: &[Gateway; 2]) {
    let scopes = ["run-step/thread_1", "run-step/thread_1/run_1", "run-step"];
    for round in 0..ROUNDS {
        for nth in 0..PURGES {
            // Periods without a common factor, so that every phase of one meets every phase of the other.
            let turn = u64::try_from(round * PURGES + nth).unwrap();
            let latency = Duration::from_millis(turn * 5 % 8);
            let pause = Duration::from_millis(turn * 7 % 25);
            origin.always(vec![Action::Pause(latency), Action::RespondNumbered]);
            let by = (round + nth) % 2;
            let before = origin.count();
            purge(&gateways[by], scopes[nth % 3]).await;
            race.purges.lock().unwrap().push(Purge {
                finished: Instant::now(),
                below: scopes[nth % 3],
                by,
                before,
            });
            sleep(pause).await;
        }
        sleep(PURGE_PROPAGATION + Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c41a_purges_racing_with_fetches_writes_and_reads_let_no_purged_body_through() {
    let fleet = Fleet::start().await;
    fleet.origin.always(vec![Action::RespondNumbered]);
    let (a, b) = fleet.pair().await;
    let gateways = [a, b];
    let race = Arc::new(Race {
        purges: Mutex::default(),
        is_over: AtomicBool::new(false),
        counts: Counts::default(),
    });
    let mut pollers = JoinSet::new();
    for (number, gateway) in gateways.iter().enumerate() {
        for nth in 0..POLLERS {
            let raw = gateway.connect().await;
            pollers.spawn(poll(Arc::clone(&race), raw, number, nth));
        }
    }
    purge_in_bursts(&race, &fleet.origin, &gateways).await;
    // A new gateway gets no purged body from the tier either.
    let new = fleet.gateway().await;
    let sent = Instant::now();
    let floor = race.floor(usize::MAX, sent);
    for nth in 0..STEPS {
        let path = step(&format!("raced_{nth}"));
        race.check(2, &path, sent, floor, &new.get(&path).await);
    }
    race.is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = crate::support::within("the pollers", pollers.join_next()).await {
        ended.unwrap();
    }
    let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let (responses, memory, shared) = (
        of(&race.counts.responses),
        of(&race.counts.memory),
        of(&race.counts.shared),
    );
    // With fewer hits the test would prove nothing.
    assert!(
        shared > 10 && memory > 100,
        "{shared} shared hits, {memory} memory hits of {responses} responses"
    );
    assert!(fleet.origin.count() > 2 * STEPS, "{}", fleet.origin.count());
}
