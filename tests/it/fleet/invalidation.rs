//! Invalidation: a no-cache fetch finds a step live or gone, and all its variants are purged from the tier.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Fleet, RECOVERY, expect_fetched, expect_shared_hit, is_fetched, is_memory_hit, store_in_tier,
    wait_circuit_open, wait_purge_propagated, wait_up,
};
use crate::support::redis::Redis;
use crate::support::{Action, Latch, STEP, respond, step, until};

const FRESH: [(&str, &str); 1] = [("Cache-Control", "no-cache")];

fn variant() -> String {
    format!("{STEP}?include[]=a")
}

/// Returns the number of purges in the log.
async fn purges(redis: &Redis) -> u64 {
    let head = redis.log_key("head").await;
    let words: [&[u8]; 3] = [b"HGET", &head, b"n"];
    redis.command::<u64>(&words).await
}

/// Returns the number of checks whether the tier has a body of a suspect step.
async fn checks(redis: &Redis) -> usize {
    let stats = redis.cli(&["INFO", "commandstats"]).await;
    let calls = stats
        .lines()
        .find_map(|l| l.strip_prefix("cmdstat_hexists:calls="));
    calls.map_or(0, |l| l.split(',').next().unwrap().parse().unwrap())
}

/// The gateway that finds out has no variant in memory and requests another one.
#[tokio::test]
async fn a_variant_that_only_the_tier_holds_is_purged() {
    for (what, act) in [
        ("live", Action::RespondStatus("in_progress")),
        ("404", Action::Send(respond("404 Not Found", &[], "{}"))),
        ("410", Action::Send(respond("410 Gone", &[], "{}"))),
    ] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        store_in_tier(&b, &[&variant(), &step("step_2")]).await;
        fleet.origin.always(vec![act]);
        assert!(!a.get_with(STEP, &FRESH).await.is_hit(), "{what}");
        wait_purge_propagated().await;
        assert_eq!(
            fleet.redis.stored().await,
            [],
            "{what}: the bucket is removed"
        );
        assert!(
            is_memory_hit(&b.get(&step("step_2")).await),
            "{what}: another step"
        );
        for gateway in [&a, &b, &fleet.gateway().await] {
            let answer = gateway.get(&variant()).await;
            assert!(!answer.is_hit(), "{what}: {}", answer.cache_status());
        }
    }
}

#[tokio::test]
async fn a_variant_written_during_the_fetch_is_purged_as_well() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let gate = Latch::closed();
    fleet.origin.next(vec![
        Action::Wait(gate.clone()),
        Action::RespondStatus("in_progress"),
    ]);
    let mut pending = a.send_get(STEP, &FRESH).await;
    fleet.origin.wait_for_requests(1).await;
    store_in_tier(&b, &[&variant()]).await;
    gate.open();
    assert!(is_fetched(&pending.response().await));
    wait_purge_propagated().await;
    assert_eq!(fleet.redis.stored().await, []);
    expect_fetched(&b, &variant()).await;
}

/// The tier holds nothing of the steps. Each response costs at most one command.
#[tokio::test]
async fn no_cache_polls_of_live_steps_announce_no_purge() {
    const POLLS: usize = 50;
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    store_in_tier(&b, &[&step("ended")]).await;
    fleet.origin.set_status("in_progress");
    for nth in 0..POLLS {
        let live = step(&format!("live_{}", nth % 5));
        assert!(is_fetched(&a.get_with(&live, &FRESH).await));
    }
    until("the last check", async || {
        let count = checks(&fleet.redis).await;
        assert!(count <= POLLS, "{count} checks");
        count >= 5
    })
    .await;
    wait_purge_propagated().await;
    assert_eq!(purges(&fleet.redis).await, 0);
    expect_shared_hit(&a, &step("ended")).await;
    assert_eq!(super::lookups(&a).await, 6.0, "one look-up for each step");
}

/// The check waits until the circuit closes.
#[tokio::test]
async fn a_step_found_live_while_the_circuit_is_open_is_purged_after_it_closes() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    store_in_tier(&b, &[&variant()]).await;
    fleet.redis.stop().await;
    wait_circuit_open(&a).await;
    fleet.origin.set_status("in_progress");
    assert!(is_fetched(&a.get_with(STEP, &FRESH).await));
    fleet.redis.resume().await;
    wait_up(&a).await;
    wait_up(&b).await;
    let start = Instant::now();
    while is_memory_hit(&b.get(&variant()).await) {
        let waited = start.elapsed();
        assert!(waited < RECOVERY, "still stored after {waited:?}");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fleet.redis.stored().await, []);
}
