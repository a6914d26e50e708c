//! Failover and migration: a replica takes over slots, or an operator moves them.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cluster::{assert_shares_thread, pair};
use super::{
    RECOVERY, assert_serves, assert_shares, errors, expect_shared_hit, is_fetched, purge,
    step_of_thread, store_in_tier, wait_purge_propagated, wait_up,
};
use crate::support::{Gateway, Origin, STEP, text};
use crate::support::{redis::Redis, redis_cluster::Cluster};

/// Has `gateway` write until a bucket appears on `node`. Returns the thread and the key of the bucket.
async fn thread_of(node: &Redis, gateway: &Gateway) -> (String, String) {
    for nth in 0..100 {
        let thread = format!("of_it_{nth}");
        let before = node.threads().await;
        store_in_tier(gateway, &[&step_of_thread(&thread)]).await;
        let mut after = node.threads().await;
        after.retain(|key| !before.contains(key));
        if let Some(key) = after.pop() {
            return (thread, String::from_utf8(key).unwrap());
        }
    }
    panic!("no thread of a hundred is on the node");
}

/// The node that crashes holds the log, or it does not.
#[tokio::test]
async fn after_a_failover_the_fleet_shares_again_and_no_purge_is_reverted() {
    for has_log in [true, false] {
        let (origin, mut cluster) = (Origin::start().await, Cluster::start().await);
        let (a, b) = pair(&origin, &cluster).await;
        let (log, [other, _]) = cluster.by_purge_log().await;
        let crashed = if has_log { log } else { other };
        let replica = cluster.replica_of(crashed).await;
        let (thread, _) = thread_of(&cluster.nodes[crashed], &a).await;
        purge(&a, "run-step/before").await;
        store_in_tier(&a, &[STEP]).await;
        expect_shared_hit(&b, STEP).await;
        purge(&a, "run-step/thread_1").await;
        wait_purge_propagated().await;
        cluster.nodes[crashed].kill();
        assert_serves(&b, "headless").await;
        for nth in 0..4 {
            let path = format!("/v1/threads/{thread}/runs/run_1/steps/headless_{nth}");
            for gateway in [&a, &b] {
                assert_eq!(gateway.get(&path).await.status, 200);
            }
        }
        let start = Instant::now();
        while !replica.cli(&["ROLE"]).await.starts_with("master") {
            let waited = start.elapsed();
            assert!(waited < RECOVERY, "no failover within {waited:?}");
            sleep(Duration::from_millis(50)).await;
        }
        wait_up(&a).await;
        wait_up(&b).await;
        // The failover has not reverted the purge.
        origin.set_status("failed");
        for gateway in [&a, &b] {
            assert_eq!(gateway.get(STEP).await.text(), text("failed"), "{has_log}");
        }
        origin.set_status("completed");
        assert_shares_thread(&a, &b, &thread).await;
        assert_shares(&origin, &a, &b, "after").await;
    }
}

/// During the migration the old node redirects commands on moved keys (ASK), afterwards all (MOVED).
#[tokio::test]
async fn entries_are_shared_during_a_slot_migration() {
    let (origin, cluster) = (Origin::start().await, Cluster::start().await);
    let (a, b) = pair(&origin, &cluster).await;
    let (_, [from, to]) = cluster.by_purge_log().await;
    let (thread, key) = thread_of(&cluster.nodes[from], &a).await;
    let of = |id: &str| format!("/v1/threads/{thread}/runs/run_1/steps/{id}");
    cluster.begin_migration(&key, from, to).await;
    expect_shared_hit(&b, &of("step_1")).await;
    store_in_tier(&a, &[&of("half_way")]).await;
    expect_shared_hit(&b, &of("half_way")).await;
    cluster.end_migration(&key, to).await;
    store_in_tier(&b, &[&of("moved")]).await;
    expect_shared_hit(&a, &of("moved")).await;
    purge(&a, &format!("run-step/{thread}")).await;
    wait_purge_propagated().await;
    for id in ["step_1", "half_way", "moved"] {
        assert!(is_fetched(&b.get(&of(id)).await), "{id}");
    }
    for gateway in [&a, &b] {
        assert_eq!(errors(gateway).await, 0.0);
    }
}
