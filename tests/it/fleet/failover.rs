//! A cluster whose slots change hands: a replica takes over, or an operator moves them.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cluster::{assert_shares_thread, pair};
use super::{
    BACK, assert_serves, assert_shares, counted, elsewhere, is_fetched, is_shared, is_up, purge,
    reached, spread,
};
use crate::support::{Gateway, Origin, STEP, text};
use crate::support::{redis::Redis, redis_cluster::Cluster};

/// A thread that is on this node, by what `gateway` writes, and its key.
async fn thread_of(node: &Redis, gateway: &Gateway) -> (String, String) {
    for nth in 0..100 {
        let thread = format!("of_it_{nth}");
        let before = node.threads().await;
        spread(gateway, &[&elsewhere(&thread)]).await;
        let mut after = node.threads().await;
        after.retain(|key| !before.contains(key));
        if let Some(key) = after.pop() {
            return (thread, String::from_utf8(key).unwrap());
        }
    }
    panic!("none of a hundred");
}

/// With the log on the node that dies, and without.
#[tokio::test]
async fn a_fleet_goes_on_where_a_replica_takes_over() {
    for has_log in [true, false] {
        let (origin, mut cluster) = (Origin::start().await, Cluster::start().await);
        let (a, b) = pair(&origin, &cluster).await;
        let (log, [other, _]) = cluster.by_purge_log().await;
        let dies = if has_log { log } else { other };
        let replica = cluster.replica_of(dies).await;
        let (thread, _) = thread_of(&cluster.nodes[dies], &a).await;
        purge(&a, "run-step/before").await;
        spread(&a, &[STEP]).await;
        assert!(is_shared(&b.get(STEP).await));
        purge(&a, "run-step/thread_1").await;
        reached().await;
        cluster.nodes[dies].kill();
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
            assert!(waited < BACK, "nobody took over within {waited:?}");
            sleep(Duration::from_millis(50)).await;
        }
        is_up(&a).await;
        is_up(&b).await;
        // As long as it took, nothing that was purged came back.
        origin.set_status("failed");
        for gateway in [&a, &b] {
            assert_eq!(gateway.get(STEP).await.text(), text("failed"), "{has_log}");
        }
        origin.set_status("completed");
        assert_shares_thread(&a, &b, &thread).await;
        assert_shares(&origin, &a, &b, "after").await;
    }
}

/// Half way the old node sends on who asks for what has gone (ASK), then who asks for anything (MOVED).
#[tokio::test]
async fn what_moves_to_another_node_is_shared_all_along() {
    let (origin, cluster) = (Origin::start().await, Cluster::start().await);
    let (a, b) = pair(&origin, &cluster).await;
    let (_, [from, to]) = cluster.by_purge_log().await;
    let (thread, key) = thread_of(&cluster.nodes[from], &a).await;
    let of = |id: &str| format!("/v1/threads/{thread}/runs/run_1/steps/{id}");
    cluster.begin_migration(&key, from, to).await;
    let shared = b.get(&of("step_1")).await;
    assert!(is_shared(&shared), "{}", shared.cache_status());
    spread(&a, &[&of("half_way")]).await;
    assert!(is_shared(&b.get(&of("half_way")).await));
    cluster.end_migration(&key, to).await;
    spread(&b, &[&of("moved")]).await;
    assert!(is_shared(&a.get(&of("moved")).await));
    purge(&a, &format!("run-step/{thread}")).await;
    reached().await;
    for id in ["step_1", "half_way", "moved"] {
        assert!(is_fetched(&b.get(&of(id)).await), "{id}");
    }
    for gateway in [&a, &b] {
        assert_eq!(counted(gateway, "error").await, 0.0);
    }
}
