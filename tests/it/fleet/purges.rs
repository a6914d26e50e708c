//! A purge on one gateway is a purge on all: in their memories within a second, in the tier at once.

use std::time::Duration;

use tokio::time::sleep;

use super::{Fleet, elsewhere, has_written, is_fetched, is_own, is_shared, purge, reached, spread};
use crate::support::{STEP, step, text};

/// Until nothing more is done for a purge: what it removed is removed again after two seconds, should a
/// failover have lost it, and with it what was stored since.
const SETTLED: Duration = Duration::from_secs(3);

#[tokio::test]
async fn what_is_purged_on_one_is_served_by_no_other_within_a_second() {
    let other_step = step("step_2");
    let other_run = "/v1/threads/thread_1/runs/run_2/steps/step_1";
    let other_thread = elsewhere("thread_10");
    let paths = [STEP, &other_step, other_run, &other_thread];
    for (below, covered) in [
        ("run-step", 4),
        ("run-step/thread_1", 3),
        ("run-step/thread_1/run_1", 2),
        ("run-step/thread_1/run_1/step_1", 1),
    ] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        // It had never asked for any of it, and has fetched nothing of it.
        let idle = fleet.gateway().await;
        spread(&a, &paths).await;
        for path in paths {
            assert!(is_shared(&b.get(path).await), "{below}: {path}");
        }
        assert_eq!(purge(&a, below).await, covered as u64, "{below}");
        for path in &paths[..covered] {
            let answer = a.get(path).await;
            assert!(!answer.is_hit(), "{below}: {path} on the purging one");
        }
        // So that nothing is there again but what must not be.
        purge(&a, below).await;
        reached().await;
        fleet.origin.set_status("failed");
        for (nth, path) in paths.iter().enumerate() {
            let answer = b.get(path).await;
            if nth < covered {
                assert!(
                    is_fetched(&answer),
                    "{below}: {path}: {}",
                    answer.cache_status()
                );
                assert_eq!(answer.json()["status"], "failed", "{below}: {path}");
            } else {
                assert!(is_own(&answer), "{below}: {path} was not meant");
            }
        }
        has_written(&b, covered as f64).await;
        for path in &paths[..covered] {
            // What was fetched since is shared; it is the new one.
            let answer = idle.get(path).await;
            assert_eq!(
                answer.json()["status"],
                "failed",
                "{below}: {path} of one that was idle"
            );
        }
    }
}

#[tokio::test]
async fn a_gateway_that_never_had_it_does_not_get_it_from_the_tier_after_a_purge() {
    for below in [
        "run-step",
        "run-step/thread_1",
        "run-step/thread_1/run_1/step_1",
    ] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        spread(&a, &[STEP]).await;
        purge(&a, below).await;
        // Of its thread at once: the name is gone. Of all threads: names are new to those who know.
        if below == "run-step" {
            reached().await;
        }
        fleet.origin.set_status("failed");
        let answer = b.get(STEP).await;
        assert!(is_fetched(&answer), "{below}: {}", answer.cache_status());
        assert_eq!(answer.text(), text("failed"), "{below}");
        let new = fleet.gateway().await.get(STEP).await;
        assert_eq!(new.text(), text("failed"), "{below}");
    }
}

#[tokio::test]
async fn what_is_deleted_through_one_is_served_by_no_other_within_a_second() {
    let fleet = Fleet::start().await;
    let forwards = "\n[server]\nforward = \"all\"\n";
    let (a, b) = (fleet.gateway_with(forwards).await, fleet.gateway().await);
    let kept = elsewhere("thread_2");
    spread(&a, &[STEP, &kept]).await;
    for path in [STEP, &kept] {
        assert!(is_shared(&b.get(path).await), "{path}");
    }
    let deleted = a.request("DELETE", "/v1/threads/thread_1", &[]).await;
    assert_eq!(deleted.status, 200);
    reached().await;
    assert!(is_fetched(&b.get(STEP).await));
    assert!(is_own(&b.get(&kept).await));
}

#[tokio::test]
async fn who_purges_is_not_needed_to_have_it() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    spread(&a, &[STEP]).await;
    assert_eq!(purge(&b, "run-step/thread_1").await, 0, "not in its memory");
    assert!(is_fetched(&b.get(STEP).await), "from the tier");
    purge(&b, "run-step/thread_1").await;
    reached().await;
    fleet.origin.set_status("failed");
    assert_eq!(a.get(STEP).await.text(), text("failed"));
}

#[tokio::test]
async fn after_a_purge_steps_are_shared_as_before() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    for below in ["run-step/thread_1", "run-step"] {
        fleet.origin.set_status("completed");
        spread(&a, &[STEP]).await;
        assert!(is_shared(&b.get(STEP).await), "{below}");
        purge(&b, below).await;
        sleep(SETTLED).await;
        fleet.origin.set_status("failed");
        spread(&a, &[STEP]).await;
        let shared = b.get(STEP).await;
        assert!(is_shared(&shared), "{below}: {}", shared.cache_status());
        assert_eq!(shared.text(), text("failed"), "{below}");
        purge(&a, below).await;
        sleep(SETTLED).await;
    }
}

#[tokio::test]
async fn a_purge_of_one_rule_leaves_the_others() {
    let rules = r#"
[[rule]]
name = "run-step"
path = "/threads/{thread_id}/runs/{run_id}/steps/{step_id}"
object = "thread.run.step"
identity = { id = "step_id", run_id = "run_id", thread_id = "thread_id" }
terminal = ["completed", "failed", "cancelled", "expired"]

[[rule]]
name = "response"
path = "/responses/{response_id}"
object = "response"
identity = { id = "response_id" }
terminal = ["completed", "failed"]
"#;
    let fleet = Fleet::start().await;
    let a = fleet.gateway_with(rules).await;
    let b = fleet.gateway_with(rules).await;
    let response = "/v1/responses/thread_1";
    for (below, gone, stays) in [
        ("run-step", STEP, response),
        ("response", response, STEP),
        ("run-step/thread_1", STEP, response),
        ("response/thread_1", response, STEP),
    ] {
        spread(&a, &[STEP, response]).await;
        purge(&a, below).await;
        reached().await;
        assert!(is_fetched(&b.get(gone).await), "{below}");
        assert!(is_shared(&b.get(stays).await), "{below}");
        for rule in ["run-step", "response"] {
            purge(&a, rule).await;
        }
        reached().await;
    }
}

/// Many at once, from all sides: none is lost among them.
#[tokio::test]
async fn every_one_of_many_purges_arrives() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let c = fleet.gateway().await;
    let threads: Vec<String> = (0..60).map(|nth| format!("many_{nth}")).collect();
    let paths: Vec<String> = threads.iter().map(|t| elsewhere(t)).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    spread(&a, &paths).await;
    for path in &paths {
        assert!(is_shared(&b.get(path).await) && is_shared(&c.get(path).await));
    }
    let below: Vec<String> = threads.iter().map(|t| format!("run-step/{t}")).collect();
    for three in below.chunks(3) {
        tokio::join!(
            purge(&a, &three[0]),
            purge(&b, &three[1]),
            purge(&c, &three[2])
        );
    }
    reached().await;
    fleet.origin.set_status("failed");
    for gateway in [&a, &b, &c] {
        for path in &paths {
            let answer = gateway.get(path).await;
            assert_eq!(answer.json()["status"], "failed", "{path}");
        }
    }
}

/// The log of purges does not grow with their number.
#[tokio::test]
async fn a_purge_that_matches_nothing_stores_next_to_nothing() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    for nth in 0..50 {
        assert_eq!(purge(&a, &format!("run-step/nobody_{nth}")).await, 0);
    }
    sleep(Duration::from_millis(100)).await;
    let bytes: usize = fleet.redis.everything().await.iter().map(Vec::len).sum();
    assert!(bytes < 50 * 200, "{bytes} bytes for 50 purges");
    assert_eq!(fleet.redis.threads().await, [] as [Vec<u8>; 0]);
}
