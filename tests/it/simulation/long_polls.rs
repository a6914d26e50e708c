//! Long polls, checked against an oracle: one loop for all requests that wait for a resource, whatever the
//! upstream replies and whichever requests leave.

mod oracle;
mod scenario;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stepgate::coalesce::{LongPolls, WaitOptions};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use oracle::check;
use scenario::{Answer, Entry, Event, Poll, Reply, Scenario, Waiter, World, poll};

use super::schedule::Ms;

const FOREVER: Duration = Duration::from_secs(3600);

/// Runs a scenario. Returns what happened, or which rule the oracle found violated.
fn trace(scenario: &Scenario) -> Result<Vec<Entry>, String> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets needs nothing");
    let log = runtime.block_on(play(scenario))?;
    match check(scenario, &log) {
        Ok(()) => Ok(log),
        Err((rule, entries)) => {
            let lines = log[..entries].iter().map(|entry| format!("{entry:?}\n"));
            Err(format!("violated: {rule}\n{}", lines.collect::<String>()))
        }
    }
}

async fn play(scenario: &Scenario) -> Result<Vec<Entry>, String> {
    let world = Arc::new(World::new(scenario));
    let long_polls = Arc::new(LongPolls::default());
    let mut tasks = JoinSet::new();
    for id in 0..scenario.waiters.len() {
        tasks.spawn(wait(Arc::clone(&world), Arc::clone(&long_polls), id));
    }
    while let Some(task) = timeout(FOREVER, tasks.join_next())
        .await
        .map_err(|_| "a waiter that never final_at")?
    {
        task.map_err(|error| format!("a request ended in {error}"))?;
    }
    for _ in 0..10 {
        yield_now().await;
    }
    match long_polls.tasks() {
        0 => Ok(world.answer()),
        left => Err(format!("left behind: {left} loops")),
    }
}

async fn wait(world: Arc<World>, long_polls: Arc<LongPolls<usize, Answer>>, id: usize) {
    let waiter = world.scenario.waiters[id];
    world.until(waiter.at, waiter.turn).await;
    world.note(Event::Arrived(id));
    let since = world.next_seq();
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
    let until = world.instant(waiter.at + waiter.timeout_ms);
    let answer = long_polls.wait(
        waiter.resource,
        WaitOptions {
            min_final_seq: after,
            min_seq: since,
            until,
            deadline: until,
        },
        moment(waiter.drained),
        || poll(&world, waiter.resource),
    );
    tokio::select! {
        biased;
        answer = answer => world.note(Event::Answered(id, answer)),
        () = moment(waiter.disconnects_after) => world.note(Event::Disconnected(id)),
    }
}

#[test]
fn two_thousand_scenarios_keep_the_promises() {
    for seed in 0..2_000 {
        let scenario = Scenario::generated(seed);
        if let Err(why) = trace(&scenario) {
            panic!("seed {seed}: {why}\n{scenario:#?}");
        }
    }
}

/// Returns a scenario of a resource that becomes final then. The loop polls once a second; every poll takes
/// 100 ms.
fn scenario<const N: usize>(final_at: Ms, waiters: [Waiter; N]) -> Scenario {
    Scenario {
        final_at: [Some(final_at), None],
        waiters: waiters.into(),
        polls: vec![poll_with(Reply::Truth)],
    }
}

fn poll_with(reply: Reply) -> Poll {
    Poll {
        latency: 100,
        interval: 1000,
        reply,
    }
}

fn waits(at: Ms, timeout_ms: Ms) -> Waiter {
    Waiter {
        at,
        turn: 0,
        resource: 0,
        timeout_ms,
        purged: false,
        drained: None,
        disconnects_after: None,
    }
}

fn polls(log: &[Entry]) -> Vec<Ms> {
    let starts = |entry: &&Entry| matches!(entry.event, Event::PollStarts { .. });
    log.iter().filter(starts).map(|entry| entry.at).collect()
}

/// Returns when each request was answered and with what, by request.
fn answers(log: &[Entry]) -> Vec<(Ms, Option<Answer>)> {
    let answer = |entry: &Entry| {
        let Event::Answered(id, answer) = entry.event else {
            return None;
        };
        Some((id, (entry.at, answer)))
    };
    let answers: BTreeMap<usize, _> = log.iter().filter_map(answer).collect();
    answers.into_values().collect()
}

#[test]
fn any_number_of_requests_shares_one_loop() {
    let scenario = scenario(
        2500,
        std::array::from_fn::<_, 50, _>(|n| waits(n as Ms, 60_000)),
    );
    let log = trace(&scenario).unwrap();
    assert_eq!(polls(&log), [0, 1100, 2200, 3300]);
    assert_eq!(answers(&log), [(3400, Some(Answer::Final(4))); 50]);
}

#[test]
fn a_request_whose_time_is_over_gets_the_latest_fetch_that_started_after_it() {
    let waiters = [waits(0, 5000), waits(50, 1000), waits(50, 1200)];
    let log = trace(&scenario(60_000, waiters)).unwrap();
    let answer = [
        (5000, Some(Answer::Live(5))),
        (1050, None),
        (1250, Some(Answer::Live(2))),
    ];
    assert_eq!(
        answers(&log),
        answer,
        "the first poll started before the other two requests came"
    );
}

#[test]
fn a_failure_answers_only_if_there_is_no_body() {
    let mut scenario = scenario(60_000, [waits(0, 1050), waits(0, 2000)]);
    scenario.polls = vec![
        poll_with(Reply::Failure),
        poll_with(Reply::Truth),
        poll_with(Reply::Failure),
    ];
    let log = trace(&scenario).unwrap();
    let answer = [
        (1050, Some(Answer::Transient(1))),
        (2000, Some(Answer::Live(2))),
    ];
    assert_eq!(answers(&log), answer);
}

#[test]
fn a_poll_that_panics_leaves_no_request_waiting() {
    let waiters = [waits(0, 5000), waits(1150, 5000), waits(2000, 2000)];
    let mut scenario = scenario(60_000, waiters);
    scenario.polls = vec![
        poll_with(Reply::Truth),
        poll_with(Reply::Panic),
        poll_with(Reply::Truth),
    ];
    let log = trace(&scenario).unwrap();
    let answer = [
        (1200, Some(Answer::Live(1))),
        (1200, None),
        (4000, Some(Answer::Live(4))),
    ];
    assert_eq!(answers(&log), answer);
    assert_eq!(
        polls(&log),
        [0, 1100, 2000, 3100],
        "the next request starts a new loop"
    );
}

#[test]
fn a_loop_ends_when_no_request_waits() {
    let leaves = Waiter {
        disconnects_after: Some(1500),
        ..waits(0, 60_000)
    };
    let log = trace(&scenario(60_000, [leaves, leaves])).unwrap();
    assert_eq!(polls(&log), [0, 1100]);
}

#[test]
fn a_drain_answers_at_once() {
    let drained = Waiter {
        drained: Some(1500),
        ..waits(0, 60_000)
    };
    let log = trace(&scenario(60_000, [drained])).unwrap();
    assert_eq!(answers(&log), [(1500, Some(Answer::Live(2)))]);
}
