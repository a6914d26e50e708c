//! A fresh answer finds a step live or gone: all variants of it leave the tier, whoever finds out.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{BACK, Fleet, is_fetched, is_own, is_resting, is_shared, is_up, reached, spread};
use crate::support::redis::Redis;
use crate::support::{Action, Latch, STEP, respond, step, until};

const FRESH: [(&str, &str); 1] = [("Cache-Control", "no-cache")];

fn variant() -> String {
    format!("{STEP}?include[]=a")
}

/// How many purges the log has had.
async fn purges(redis: &Redis) -> u64 {
    let head = redis.log_key("head").await;
    let words: [&[u8]; 3] = [b"HGET", &head, b"n"];
    redis.command::<u64>(&words).await
}

/// What the server was asked for behind: whether there is anything of a step.
async fn questions(redis: &Redis) -> usize {
    let stats = redis.cli(&["INFO", "commandstats"]).await;
    let calls = stats
        .lines()
        .find_map(|l| l.strip_prefix("cmdstat_hexists:calls="));
    calls.map_or(0, |l| l.split(',').next().unwrap().parse().unwrap())
}

/// It never had any variant of it: not in memory, and what it asked for was another one.
#[tokio::test]
async fn a_variant_that_only_the_tier_has_leaves_it() {
    for (what, act) in [
        ("live", Action::RespondStatus("in_progress")),
        ("404", Action::Send(respond("404 Not Found", &[], "{}"))),
        ("410", Action::Send(respond("410 Gone", &[], "{}"))),
    ] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        spread(&b, &[&variant(), &step("step_2")]).await;
        fleet.origin.always(vec![act]);
        assert!(!a.get_with(STEP, &FRESH).await.is_hit(), "{what}");
        reached().await;
        assert_eq!(fleet.redis.stored().await, [], "{what}: all of the thread");
        assert!(
            is_own(&b.get(&step("step_2")).await),
            "{what}: another step"
        );
        for gateway in [&a, &b, &fleet.gateway().await] {
            let answer = gateway.get(&variant()).await;
            assert!(!answer.is_hit(), "{what}: {}", answer.cache_status());
        }
    }
}

/// Between the question and its answer another gateway wrote it.
#[tokio::test]
async fn what_was_written_while_a_fresh_answer_was_under_way_leaves_too() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let gate = Latch::closed();
    fleet.origin.next(vec![
        Action::Wait(gate.clone()),
        Action::RespondStatus("in_progress"),
    ]);
    let mut asked = a.send_get(STEP, &FRESH).await;
    fleet.origin.wait_for_requests(1).await;
    spread(&b, &[&variant()]).await;
    gate.open();
    assert!(is_fetched(&asked.response().await));
    reached().await;
    assert_eq!(fleet.redis.stored().await, []);
    assert!(is_fetched(&b.get(&variant()).await));
}

/// Nobody has anything of them: nothing is purged, and each answer costs a command at most.
#[tokio::test]
async fn fresh_answers_about_live_steps_purge_nothing() {
    const POLLS: usize = 50;
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    spread(&b, &[&step("ended")]).await;
    fleet.origin.set_status("in_progress");
    for nth in 0..POLLS {
        let live = step(&format!("live_{}", nth % 5));
        assert!(is_fetched(&a.get_with(&live, &FRESH).await));
    }
    until("the last question", async || {
        let asked = questions(&fleet.redis).await;
        assert!(asked <= POLLS, "{asked} questions");
        asked >= 5
    })
    .await;
    reached().await;
    assert_eq!(purges(&fleet.redis).await, 0);
    assert!(is_shared(&a.get(&step("ended")).await));
    assert_eq!(super::lookups(&a).await, 6.0, "once a step");
}

/// Whether there is anything nobody can say by then.
#[tokio::test]
async fn what_was_found_gone_while_the_tier_rests_leaves_it_when_it_is_back() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    spread(&b, &[&variant()]).await;
    fleet.redis.stop().await;
    is_resting(&a).await;
    fleet.origin.set_status("in_progress");
    assert!(is_fetched(&a.get_with(STEP, &FRESH).await));
    fleet.redis.resume().await;
    is_up(&a).await;
    is_up(&b).await;
    let start = Instant::now();
    while is_own(&b.get(&variant()).await) {
        let waited = start.elapsed();
        assert!(waited < BACK, "kept for {waited:?}");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fleet.redis.stored().await, []);
}
