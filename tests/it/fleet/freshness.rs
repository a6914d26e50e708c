//! Live steps, and requests that refuse stored responses: the tier changes nothing about them.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Fleet, expect_fetched, expect_memory_hit, expect_shared_hit, is_fetched, is_shared_hit,
    lookups, store_in_tier, wait_purge_propagated, wait_written,
};
use crate::support::redis::Redis;
use crate::support::{Action, Gateway, STEP, body, respond, text};

const FRESH: [(&str, &str); 1] = [("Cache-Control", "no-cache")];

/// Returns the number of scripts that the server has run for look-ups and writes.
async fn scripts(redis: &Redis) -> usize {
    let stats = redis.cli(&["INFO", "commandstats"]).await;
    let calls = stats.lines().filter_map(|line| {
        let (command, figures) = line.split_once(":calls=")?;
        let eval = ["cmdstat_eval", "cmdstat_evalsha", "cmdstat_fcall"].contains(&command);
        eval.then(|| figures.split(',').next()?.parse::<usize>().ok())?
    });
    calls.sum()
}

#[tokio::test]
async fn a_live_step_is_fetched_by_every_gateway_and_never_stored() {
    let fleet = Fleet::start().await;
    fleet.origin.set_status("in_progress");
    let (a, b) = fleet.pair().await;
    for polls in 0..5 {
        for (gateway, fetches) in [(&a, 2 * polls + 1), (&b, 2 * polls + 2)] {
            let answer = expect_fetched(gateway, STEP).await;
            assert_eq!(answer.text(), text("in_progress"));
            assert_eq!(fleet.origin.count(), fetches);
        }
    }
    assert_eq!(fleet.redis.stored().await, []);
    for bytes in fleet.redis.everything().await {
        let there = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!there.contains("in_progress"), "{there}");
    }
    // The final body is shared.
    fleet.origin.set_status("completed");
    store_in_tier(&a, &[STEP]).await;
    let end = b.get(STEP).await;
    assert_eq!(end.text(), text("completed"));
}

#[tokio::test]
async fn a_live_step_is_looked_up_once_however_often_it_is_polled() {
    for pause in [Duration::ZERO, Duration::from_millis(250)] {
        let fleet = Fleet::start().await;
        fleet.origin.set_status("in_progress");
        let gateway = fleet.gateway().await;
        let before = scripts(&fleet.redis).await;
        for _ in 0..20 {
            assert_eq!(gateway.get(STEP).await.text(), text("in_progress"));
            sleep(pause).await;
        }
        assert_eq!(fleet.origin.count(), 20);
        assert_eq!(lookups(&gateway).await, 1.0, "with {pause:?} between polls");
        let ran = scripts(&fleet.redis).await - before;
        assert_eq!(ran, 1, "with {pause:?} between polls");
    }
}

#[tokio::test]
async fn the_end_of_a_step_that_was_looked_up_while_live_is_shared() {
    let fleet = Fleet::start().await;
    fleet.origin.set_status("in_progress");
    let (a, b) = fleet.pair().await;
    for _ in 0..3 {
        a.get(STEP).await;
    }
    fleet.origin.set_status("completed");
    store_in_tier(&a, &[STEP]).await;
    expect_shared_hit(&b, STEP).await;
}

#[tokio::test]
async fn a_no_cache_request_is_not_answered_from_the_tier() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    store_in_tier(&a, &[STEP]).await;
    for (nth, headers) in [
        ("Cache-Control", "no-cache"),
        ("Pragma", "no-cache"),
        ("Cache-Control", "max-age=0"),
    ]
    .into_iter()
    .enumerate()
    {
        // The last request has replaced the entry, which is to be older than a second.
        sleep(Duration::from_millis(1_200)).await;
        let b = fleet.gateway().await;
        let answer = b.get_with(STEP, &[headers]).await;
        assert!(
            is_fetched(&answer),
            "{headers:?}: {}",
            answer.cache_status()
        );
        assert_eq!(fleet.origin.count(), nth + 2, "{headers:?}");
    }
}

#[tokio::test]
async fn the_final_body_of_a_no_cache_request_replaces_the_entry() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    store_in_tier(&a, &[STEP]).await;
    fleet.origin.set_status("failed");
    let fresh = b.get_with(STEP, &FRESH).await;
    assert_eq!(fresh.text(), text("failed"));
    wait_written(&b, 1.0).await;
    let c = fleet.gateway().await;
    let shared = expect_shared_hit(&c, STEP).await;
    assert_eq!(shared.text(), text("failed"));
}

#[tokio::test]
async fn a_step_found_live_or_gone_is_removed_from_memory_and_tier() {
    for (what, act) in [
        ("live", Action::RespondStatus("in_progress")),
        ("404", Action::Send(respond("404 Not Found", &[], "{}"))),
        ("410", Action::Send(respond("410 Gone", &[], "{}"))),
    ] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        let variant = format!("{STEP}?include[]=a");
        store_in_tier(&a, &[STEP, &variant]).await;
        // `b` has one variant in memory, and the other is only in the tier.
        assert!(is_shared_hit(&b.get(STEP).await), "{what}");
        fleet.origin.always(vec![act]);
        let answer = a.get_with(STEP, &FRESH).await;
        assert!(!answer.is_hit(), "{what}");
        for path in [STEP, &variant] {
            assert!(!a.get(path).await.is_hit(), "{what}: {path}");
        }
        wait_purge_propagated().await;
        let c = fleet.gateway().await;
        for (name, gateway) in [("a", &a), ("b", &b), ("c", &c)] {
            for path in [STEP, &variant] {
                let answer = gateway.get(path).await;
                assert!(!answer.is_hit(), "{what} on {name}: {path}");
            }
        }
        assert_eq!(fleet.redis.stored().await, [], "{what}");
    }
}

/// The gateway that finds the step live had looked it up before another gateway stored it.
#[tokio::test]
async fn a_step_found_live_by_a_gateway_that_never_stored_it_is_removed_from_the_fleet() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    fleet.origin.set_status("in_progress");
    expect_fetched(&a, STEP).await;
    fleet.origin.set_status("completed");
    store_in_tier(&b, &[STEP]).await;
    fleet.origin.set_status("in_progress");
    expect_memory_hit(&b, STEP).await;
    assert!(is_fetched(&a.get_with(STEP, &FRESH).await));
    wait_purge_propagated().await;
    for gateway in [&a, &b] {
        expect_fetched(gateway, STEP).await;
    }
}

#[tokio::test]
async fn a_failed_no_cache_request_removes_nothing_from_the_tier() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    store_in_tier(&a, &[STEP]).await;
    fleet
        .origin
        .always(vec![Action::Send(respond("500 Oops", &[], "{}"))]);
    let fresh = |gateway: Gateway| async move { gateway.get_with(STEP, &FRESH).await.status };
    assert_eq!(fresh(fleet.gateway().await).await, 500);
    assert_eq!(a.get_with(STEP, &FRESH).await.status, 500);
    expect_memory_hit(&a, STEP).await;
    wait_purge_propagated().await;
    assert!(is_shared_hit(&fleet.gateway().await.get(STEP).await));
}

#[tokio::test]
async fn a_no_store_response_is_not_written_to_the_tier() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    let answer = a.get_with(STEP, &[("Cache-Control", "no-store")]).await;
    assert!(is_fetched(&answer) && !answer.is_stored());
    let never = respond(
        "200 OK",
        &[("cache-control", "no-store")],
        body("completed"),
    );
    fleet.origin.next(vec![Action::Send(never)]);
    a.get(STEP).await;
    let cached = respond("200 OK", &[("age", "7")], body("completed"));
    fleet.origin.next(vec![Action::Send(cached)]);
    a.get(STEP).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(fleet.redis.stored().await, []);
}
