//! Live steps, and questions that want no stored answer: the tier changes nothing about them.

use std::time::Duration;

use tokio::time::sleep;

use super::{Fleet, has_written, is_fetched, is_own, is_shared, lookups, reached, spread};
use crate::support::redis::Redis;
use crate::support::{Action, Gateway, STEP, body, respond, text};

const FRESH: [(&str, &str); 1] = [("Cache-Control", "no-cache")];

/// Scripts that the server has run: lookups and writes, whoever counts them.
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
async fn a_live_step_is_asked_for_upstream_by_everybody_and_never_stored() {
    let fleet = Fleet::start().await;
    fleet.origin.set_status("in_progress");
    let (a, b) = fleet.pair().await;
    for polls in 0..5 {
        for (gateway, fetches) in [(&a, 2 * polls + 1), (&b, 2 * polls + 2)] {
            let answer = gateway.get(STEP).await;
            assert!(is_fetched(&answer), "{}", answer.cache_status());
            assert_eq!(answer.text(), text("in_progress"));
            assert_eq!(fleet.origin.count(), fetches);
        }
    }
    assert_eq!(fleet.redis.stored().await, []);
    for bytes in fleet.redis.everything().await {
        let there = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!there.contains("in_progress"), "{there}");
    }
    // Then it ends, for both.
    fleet.origin.set_status("completed");
    spread(&a, &[STEP]).await;
    let end = b.get(STEP).await;
    assert_eq!(end.text(), text("completed"));
}

/// A caller polls about once a second; between its polls a live step is not forgotten.
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
    spread(&a, &[STEP]).await;
    assert!(is_shared(&b.get(STEP).await));
}

#[tokio::test]
async fn a_question_for_a_fresh_answer_is_not_answered_by_the_tier() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    spread(&a, &[STEP]).await;
    for (nth, headers) in [
        ("Cache-Control", "no-cache"),
        ("Pragma", "no-cache"),
        ("Cache-Control", "max-age=0"),
    ]
    .into_iter()
    .enumerate()
    {
        // Whoever asked last has replaced it.
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
async fn a_fresh_final_answer_replaces_what_the_tier_has() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    spread(&a, &[STEP]).await;
    fleet.origin.set_status("failed");
    let fresh = b.get_with(STEP, &FRESH).await;
    assert_eq!(fresh.text(), text("failed"));
    has_written(&b, 1.0).await;
    let c = fleet.gateway().await;
    let shared = c.get(STEP).await;
    assert!(is_shared(&shared), "{}", shared.cache_status());
    assert_eq!(shared.text(), text("failed"));
}

#[tokio::test]
async fn a_step_that_is_live_again_or_gone_leaves_memory_and_tier() {
    for (what, act) in [
        ("live", Action::RespondStatus("in_progress")),
        ("404", Action::Send(respond("404 Not Found", &[], "{}"))),
        ("410", Action::Send(respond("410 Gone", &[], "{}"))),
    ] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        let variant = format!("{STEP}?include[]=a");
        spread(&a, &[STEP, &variant]).await;
        // One has it in memory, one only in the tier.
        assert!(is_shared(&b.get(STEP).await), "{what}");
        fleet.origin.always(vec![act]);
        let answer = a.get_with(STEP, &FRESH).await;
        assert!(!answer.is_hit(), "{what}");
        for path in [STEP, &variant] {
            assert!(!a.get(path).await.is_hit(), "{what}: {path}");
        }
        reached().await;
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

/// Who finds it out need not have had it: it was looked up here before another gateway stored it.
#[tokio::test]
async fn a_step_that_is_live_again_leaves_the_fleet_whoever_finds_out() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    fleet.origin.set_status("in_progress");
    assert!(is_fetched(&a.get(STEP).await));
    fleet.origin.set_status("completed");
    spread(&b, &[STEP]).await;
    fleet.origin.set_status("in_progress");
    assert!(is_own(&b.get(STEP).await));
    assert!(is_fetched(&a.get_with(STEP, &FRESH).await));
    reached().await;
    for gateway in [&a, &b] {
        let answer = gateway.get(STEP).await;
        assert!(is_fetched(&answer), "{}", answer.cache_status());
    }
}

#[tokio::test]
async fn another_failure_of_a_fresh_question_takes_nothing_from_the_tier() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    spread(&a, &[STEP]).await;
    fleet
        .origin
        .always(vec![Action::Send(respond("500 Oops", &[], "{}"))]);
    let fresh = |gateway: Gateway| async move { gateway.get_with(STEP, &FRESH).await.status };
    assert_eq!(fresh(fleet.gateway().await).await, 500);
    assert_eq!(a.get_with(STEP, &FRESH).await.status, 500);
    assert!(is_own(&a.get(STEP).await));
    reached().await;
    assert!(is_shared(&fleet.gateway().await.get(STEP).await));
}

#[tokio::test]
async fn what_is_not_to_be_stored_is_not_stored_in_the_tier() {
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
