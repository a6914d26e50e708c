//! LongPolls, held against an oracle: one loop for all who wait for a step to end, whatever the
//! upstream does and whoever leaves.

mod check;
mod vigil;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stepgate::coalesce::{LongPolls, WaitOptions};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use check::check;
use vigil::{Bearing, Entry, Event, Poll, Told, Vigil, Waiter, World, poll};

use super::schedule::Ms;

const FOREVER: Duration = Duration::from_secs(3600);

/// What happened, found good by the oracle.
fn story(vigil: &Vigil) -> Result<Vec<Entry>, String> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets needs nothing");
    let log = runtime.block_on(play(vigil))?;
    match check(vigil, &log) {
        Ok(()) => Ok(log),
        Err((rule, entries)) => {
            let lines = log[..entries].iter().map(|entry| format!("{entry:?}\n"));
            Err(format!(
                "does not hold: {rule}\n{}",
                lines.collect::<String>()
            ))
        }
    }
}

async fn play(vigil: &Vigil) -> Result<Vec<Entry>, String> {
    let world = Arc::new(World::new(vigil));
    let patrols = Arc::new(LongPolls::default());
    let mut tasks = JoinSet::new();
    for id in 0..vigil.waiters.len() {
        tasks.spawn(wait(Arc::clone(&world), Arc::clone(&patrols), id));
    }
    while let Some(task) = timeout(FOREVER, tasks.join_next())
        .await
        .map_err(|_| "a waiter that never ends")?
    {
        task.map_err(|error| format!("a waiter that ended in {error}"))?;
    }
    for _ in 0..10 {
        yield_now().await;
    }
    match patrols.tasks() {
        0 => Ok(world.told()),
        left => Err(format!("left behind: {left} loops")),
    }
}

async fn wait(world: Arc<World>, patrols: Arc<LongPolls<usize, Told>>, id: usize) {
    let waiter = world.vigil.waiters[id];
    world.until(waiter.at, waiter.turn).await;
    world.note(Event::Came(id));
    let since = world.next_number();
    let after = if waiter.purged { since } else { 0 };
    let moment = |after: Option<Ms>| {
        let world = &world;
        async move {
            match after {
                Some(after) => world.until(waiter.at + after, 0).await,
                None => std::future::pending().await,
            }
        }
    };
    let until = world.instant(waiter.at + waiter.patience);
    let told = patrols.wait(
        waiter.step,
        WaitOptions {
            min_final_seq: after,
            min_seq: since,
            until,
            deadline: until,
        },
        moment(waiter.drained),
        || poll(&world, waiter.step),
    );
    tokio::select! {
        biased;
        told = told => world.note(Event::Answered(id, told)),
        () = moment(waiter.hangs_up) => world.note(Event::HungUp(id)),
    }
}

#[test]
fn two_thousand_vigils_keep_the_promises() {
    for seed in 0..2_000 {
        let vigil = Vigil::drawn(seed);
        if let Err(why) = story(&vigil) {
            panic!("seed {seed}: {why}\n{vigil:#?}");
        }
    }
}

/// A step that ends then, polled once a second; every poll takes 100 ms.
fn vigil<const N: usize>(ends: Ms, waiters: [Waiter; N]) -> Vigil {
    Vigil {
        ends: [Some(ends), None],
        waiters: waiters.into(),
        polls: vec![brings(Bearing::Truth)],
    }
}

fn brings(bearing: Bearing) -> Poll {
    Poll {
        takes: 100,
        pace: 1000,
        bearing,
    }
}

fn waits(at: Ms, patience: Ms) -> Waiter {
    Waiter {
        at,
        turn: 0,
        step: 0,
        patience,
        purged: false,
        drained: None,
        hangs_up: None,
    }
}

fn polls(log: &[Entry]) -> Vec<Ms> {
    let starts = |entry: &&Entry| matches!(entry.event, Event::Polls { .. });
    log.iter().filter(starts).map(|entry| entry.at).collect()
}

/// By waiter.
fn answers(log: &[Entry]) -> Vec<(Ms, Option<Told>)> {
    let answer = |entry: &Entry| {
        let Event::Answered(id, told) = entry.event else {
            return None;
        };
        Some((id, (entry.at, told)))
    };
    let answers: BTreeMap<usize, _> = log.iter().filter_map(answer).collect();
    answers.into_values().collect()
}

#[test]
fn any_number_of_waiters_costs_one_loop() {
    let vigil = vigil(
        2500,
        std::array::from_fn::<_, 50, _>(|n| waits(n as Ms, 60_000)),
    );
    let log = story(&vigil).unwrap();
    assert_eq!(polls(&log), [0, 1100, 2200, 3300]);
    assert_eq!(answers(&log), [(3400, Some(Told::End(4))); 50]);
}

#[test]
fn whose_time_is_over_gets_the_latest_that_departed_after_it_came() {
    let waiters = [waits(0, 5000), waits(50, 1000), waits(50, 1200)];
    let log = story(&vigil(60_000, waiters)).unwrap();
    let told = [
        (5000, Some(Told::Body(5))),
        (1050, None),
        (1250, Some(Told::Body(2))),
    ];
    assert_eq!(
        answers(&log),
        told,
        "the first poll departed before two came"
    );
}

#[test]
fn a_failing_upstream_is_polled_on_and_told_only_for_want_of_a_body() {
    let mut vigil = vigil(60_000, [waits(0, 1050), waits(0, 2000)]);
    vigil.polls = vec![
        brings(Bearing::Failure),
        brings(Bearing::Truth),
        brings(Bearing::Failure),
    ];
    let log = story(&vigil).unwrap();
    let told = [(1050, Some(Told::Failure(1))), (2000, Some(Told::Body(2)))];
    assert_eq!(answers(&log), told);
}

#[test]
fn a_poll_that_panics_leaves_nobody_waiting() {
    let waiters = [waits(0, 5000), waits(1150, 5000), waits(2000, 2000)];
    let mut vigil = vigil(60_000, waiters);
    vigil.polls = vec![
        brings(Bearing::Truth),
        brings(Bearing::Panic),
        brings(Bearing::Truth),
    ];
    let log = story(&vigil).unwrap();
    let told = [
        (1200, Some(Told::Body(1))),
        (1200, None),
        (4000, Some(Told::Body(4))),
    ];
    assert_eq!(answers(&log), told);
    assert_eq!(polls(&log), [0, 1100, 2000, 3100], "the next starts anew");
}

#[test]
fn a_loop_ends_when_all_have_left() {
    let leaves = Waiter {
        hangs_up: Some(1500),
        ..waits(0, 60_000)
    };
    let log = story(&vigil(60_000, [leaves, leaves])).unwrap();
    assert_eq!(polls(&log), [0, 1100]);
}

#[test]
fn a_drain_answers_at_once() {
    let drained = Waiter {
        drained: Some(1500),
        ..waits(0, 60_000)
    };
    let log = story(&vigil(60_000, [drained])).unwrap();
    assert_eq!(answers(&log), [(1500, Some(Told::Body(2)))]);
}
