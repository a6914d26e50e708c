//! Purges raced against fetches, writes and reads on both sides.
//!
//! The origin numbers what it gives, so that a body is as old as its fetch: whoever asks after a purge
//! must get a higher number than the highest from before it. At once where it was purged, within a
//! second elsewhere, whichever memory or tier the answer comes from.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Fleet, REACHED, is_own, is_shared, purge};
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
    /// The highest number that had been given when it began.
    before: usize,
}

#[derive(Default)]
struct Counts {
    answers: AtomicUsize,
    own: AtomicUsize,
    shared: AtomicUsize,
}

struct Race {
    purges: Mutex<Vec<Purge>>,
    over: AtomicBool,
    counts: Counts,
}

impl Race {
    /// What an answer to a question of this moment to that gateway must be above.
    fn floor(&self, gateway: usize, asked: Instant) -> usize {
        let purges = self.purges.lock().unwrap();
        let reached = purges.iter().filter(|purge| {
            let grace = if purge.by == gateway {
                Duration::ZERO
            } else {
                REACHED
            };
            purge.finished + grace <= asked
        });
        reached.map(|purge| purge.before).max().unwrap_or(0)
    }

    fn judge(&self, gateway: usize, path: &str, asked: Instant, floor: usize, answer: &Response) {
        let fetch = answer.fetch();
        if fetch <= floor {
            let purges = self.purges.lock().unwrap();
            let covering = purges.iter().filter(|purge| purge.before >= fetch);
            let since: Vec<String> = covering
                .filter_map(|purge| {
                    let since = asked.checked_duration_since(purge.finished)?;
                    Some(format!("{} by {} {since:?} before", purge.below, purge.by))
                })
                .collect();
            let status = answer.cache_status();
            panic!("{path} on gateway {gateway}: fetch {fetch}, {status}; purged: {since:#?}");
        }
        let Counts {
            answers,
            own,
            shared,
        } = &self.counts;
        answers.fetch_add(1, Ordering::Relaxed);
        own.fetch_add(usize::from(is_own(answer)), Ordering::Relaxed);
        shared.fetch_add(usize::from(is_shared(answer)), Ordering::Relaxed);
    }
}

/// Asks one gateway for one step after the other, without a pause to speak of.
async fn poll(race: Arc<Race>, mut raw: RawClient, gateway: usize, first: usize) {
    let mut nth = first;
    while !race.over.load(Ordering::Relaxed) {
        nth += 1;
        let path = step(&format!("raced_{}", nth % STEPS));
        let asked = Instant::now();
        let floor = race.floor(gateway, asked);
        raw.send(head("GET", &path, "127.0.0.1", &[])).await;
        let answer = raw.response().await;
        race.judge(gateway, &path, asked, floor, &answer);
        sleep(Duration::from_millis(1)).await;
    }
}

/// Bursts of purges from both sides, each followed by a silence in which what survived would show.
async fn purge_again_and_again(race: &Race, origin: &Origin, gateways: &[Gateway; 2]) {
    let scopes = ["run-step/thread_1", "run-step/thread_1/run_1", "run-step"];
    for round in 0..ROUNDS {
        for nth in 0..PURGES {
            // Numbers without a common factor, so that moments of the one meet all of the other.
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
        sleep(REACHED + Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c41a_nobody_is_served_what_a_purge_has_taken() {
    let fleet = Fleet::start().await;
    fleet.origin.always(vec![Action::RespondNumbered]);
    let (a, b) = fleet.pair().await;
    let gateways = [a, b];
    let race = Arc::new(Race {
        purges: Mutex::default(),
        over: AtomicBool::new(false),
        counts: Counts::default(),
    });
    let mut pollers = JoinSet::new();
    for (number, gateway) in gateways.iter().enumerate() {
        for nth in 0..POLLERS {
            let raw = gateway.connect().await;
            pollers.spawn(poll(Arc::clone(&race), raw, number, nth));
        }
    }
    purge_again_and_again(&race, &fleet.origin, &gateways).await;
    // Of what the last burst left, whoever comes now gets the new as well.
    let new = fleet.gateway().await;
    let asked = Instant::now();
    let floor = race.floor(usize::MAX, asked);
    for nth in 0..STEPS {
        let path = step(&format!("raced_{nth}"));
        race.judge(2, &path, asked, floor, &new.get(&path).await);
    }
    race.over.store(true, Ordering::Relaxed);
    while let Some(ended) = crate::support::within("the pollers", pollers.join_next()).await {
        ended.unwrap();
    }
    let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let (answers, own, shared) = (
        of(&race.counts.answers),
        of(&race.counts.own),
        of(&race.counts.shared),
    );
    // Else it proves nothing.
    assert!(
        shared > 10 && own > 100,
        "{shared} shared, {own} own of {answers}"
    );
    assert!(fleet.origin.count() > 2 * STEPS, "{}", fleet.origin.count());
}
