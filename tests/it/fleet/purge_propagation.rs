//! Purge propagation: a purge on one gateway applies to the tier at once, and to the memory of every gateway
//! within a second.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Fleet, expect_fetched, expect_memory_hit, expect_shared_hit, is_fetched, is_memory_hit,
    is_shared_hit, purge, step_of_thread, store_in_tier, wait_purge_propagated, wait_written,
};
use crate::support::{STEP, step, text};

/// The time until a purge is complete. Two seconds after the first removal, the bucket is removed again if
/// a failover has lost that removal.
const SETTLED: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_purge_reaches_every_gateway_within_a_second() {
    let other_step = step("step_2");
    let other_run = "/v1/threads/thread_1/runs/run_2/steps/step_1";
    let other_thread = step_of_thread("thread_10");
    let paths = [STEP, &other_step, other_run, &other_thread];
    for (below, covered) in [
        ("run-step", 4),
        ("run-step/thread_1", 3),
        ("run-step/thread_1/run_1", 2),
        ("run-step/thread_1/run_1/step_1", 1),
    ] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        // A gateway that has none of the steps in memory.
        let idle = fleet.gateway().await;
        store_in_tier(&a, &paths).await;
        for path in paths {
            assert!(is_shared_hit(&b.get(path).await), "{below}: {path}");
        }
        assert_eq!(purge(&a, below).await, covered as u64, "{below}");
        for path in &paths[..covered] {
            let answer = a.get(path).await;
            assert!(
                !answer.is_hit(),
                "{below}: {path} on the gateway that purged"
            );
        }
        // Purges what the requests above stored again.
        purge(&a, below).await;
        wait_purge_propagated().await;
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
                assert!(is_memory_hit(&answer), "{below}: {path} was not purged");
            }
        }
        wait_written(&b, covered as f64).await;
        for path in &paths[..covered] {
            // The body fetched after the purge is shared.
            let answer = idle.get(path).await;
            assert_eq!(
                answer.json()["status"],
                "failed",
                "{below}: {path} on the idle gateway"
            );
        }
    }
}

#[tokio::test]
async fn a_purged_body_is_not_read_from_the_tier() {
    for below in [
        "run-step",
        "run-step/thread_1",
        "run-step/thread_1/run_1/step_1",
    ] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        store_in_tier(&a, &[STEP]).await;
        purge(&a, below).await;
        // A purge of ids removes the bucket at once. A purge of a rule gives its buckets new names, which
        // the other gateway has to read from the log.
        if below == "run-step" {
            wait_purge_propagated().await;
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
async fn a_forwarded_delete_invalidates_the_resource_in_the_fleet() {
    let fleet = Fleet::start().await;
    let forwards = "\n[server]\nforward = \"all\"\n";
    let (a, b) = (fleet.gateway_with(forwards).await, fleet.gateway().await);
    let kept = step_of_thread("thread_2");
    store_in_tier(&a, &[STEP, &kept]).await;
    for path in [STEP, &kept] {
        expect_shared_hit(&b, path).await;
    }
    let deleted = a.request("DELETE", "/v1/threads/thread_1", &[]).await;
    assert_eq!(deleted.status, 200);
    wait_purge_propagated().await;
    expect_fetched(&b, STEP).await;
    expect_memory_hit(&b, &kept).await;
}

#[tokio::test]
async fn a_gateway_can_purge_what_it_has_not_in_memory() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    store_in_tier(&a, &[STEP]).await;
    assert_eq!(
        purge(&b, "run-step/thread_1").await,
        0,
        "its memory has no body"
    );
    assert!(
        is_fetched(&b.get(STEP).await),
        "it was purged from the tier"
    );
    purge(&b, "run-step/thread_1").await;
    wait_purge_propagated().await;
    fleet.origin.set_status("failed");
    assert_eq!(a.get(STEP).await.text(), text("failed"));
}

#[tokio::test]
async fn after_a_purge_steps_are_shared_as_before() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    for below in ["run-step/thread_1", "run-step"] {
        fleet.origin.set_status("completed");
        store_in_tier(&a, &[STEP]).await;
        assert!(is_shared_hit(&b.get(STEP).await), "{below}");
        purge(&b, below).await;
        sleep(SETTLED).await;
        fleet.origin.set_status("failed");
        store_in_tier(&a, &[STEP]).await;
        let shared = b.get(STEP).await;
        assert!(is_shared_hit(&shared), "{below}: {}", shared.cache_status());
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
        store_in_tier(&a, &[STEP, response]).await;
        purge(&a, below).await;
        wait_purge_propagated().await;
        assert!(is_fetched(&b.get(gone).await), "{below}");
        assert!(is_shared_hit(&b.get(stays).await), "{below}");
        for rule in ["run-step", "response"] {
            purge(&a, rule).await;
        }
        wait_purge_propagated().await;
    }
}

#[tokio::test]
async fn concurrent_purges_of_all_gateways_all_propagate() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let c = fleet.gateway().await;
    let threads: Vec<String> = (0..60).map(|nth| format!("many_{nth}")).collect();
    let paths: Vec<String> = threads.iter().map(|t| step_of_thread(t)).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    store_in_tier(&a, &paths).await;
    for path in &paths {
        assert!(is_shared_hit(&b.get(path).await) && is_shared_hit(&c.get(path).await));
    }
    let below: Vec<String> = threads.iter().map(|t| format!("run-step/{t}")).collect();
    for three in below.chunks(3) {
        tokio::join!(
            purge(&a, &three[0]),
            purge(&b, &three[1]),
            purge(&c, &three[2])
        );
    }
    wait_purge_propagated().await;
    fleet.origin.set_status("failed");
    for gateway in [&a, &b, &c] {
        for path in &paths {
            let answer = gateway.get(path).await;
            assert_eq!(answer.json()["status"], "failed", "{path}");
        }
    }
}

#[tokio::test]
async fn a_purge_without_matches_takes_less_than_200_bytes_in_redis() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    for nth in 0..50 {
        assert_eq!(purge(&a, &format!("run-step/unknown_{nth}")).await, 0);
    }
    sleep(Duration::from_millis(100)).await;
    let bytes: usize = fleet.redis.everything().await.iter().map(Vec::len).sum();
    assert!(bytes < 50 * 200, "{bytes} bytes for 50 purges");
    assert_eq!(fleet.redis.threads().await, [] as [Vec<u8>; 0]);
}
