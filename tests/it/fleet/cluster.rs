//! A Redis cluster of three nodes: buckets are spread over the nodes, and the log is on one of them.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    RECOVERY, assert_serves, assert_shares, completed, expect_fetched, expect_shared_hit,
    is_fetched, is_memory_hit, is_shared_hit, purge, start_gateway, start_pair, step_of_thread,
    store_in_tier, tier_at, wait_purge_propagated, wait_up,
};
use crate::support::{Gateway, Origin, STEP};
use crate::support::{redis::Redis, redis_cluster::Cluster};

const THREADS: usize = 24;

pub(super) async fn pair(origin: &Origin, cluster: &Cluster) -> (Gateway, Gateway) {
    start_pair(origin, &tier_at(&cluster.urls())).await
}

fn threads(name: &str) -> Vec<String> {
    (0..THREADS).map(|nth| format!("{name}_{nth}")).collect()
}

/// Asserts that steps of many threads are served, so that every node has some.
async fn assert_serves_many(gateway: &Gateway, name: &str) {
    for thread in threads(name) {
        let expected = completed(&thread, "step_1");
        let answer = gateway.get(&step_of_thread(&thread)).await;
        assert_eq!((answer.status, answer.text()), (200, expected), "{thread}");
    }
}

#[tokio::test]
async fn a_fleet_on_a_cluster_shares_steps_of_every_node() {
    let (origin, cluster) = (Origin::start().await, Cluster::start().await);
    let (a, b) = pair(&origin, &cluster).await;
    let paths: Vec<String> = threads("spread")
        .iter()
        .map(|t| step_of_thread(t))
        .collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    store_in_tier(&a, &paths).await;
    for node in &cluster.nodes {
        assert!(!node.threads().await.is_empty(), "a node has no bucket");
    }
    for path in &paths {
        expect_shared_hit(&b, path).await;
    }
    assert_eq!(origin.count(), THREADS);
}

#[tokio::test]
async fn a_purge_on_a_cluster_reaches_every_gateway() {
    let (origin, cluster) = (Origin::start().await, Cluster::start().await);
    let (a, b) = pair(&origin, &cluster).await;
    let other = step_of_thread("thread_2");
    for below in [
        "run-step/thread_1/run_1/step_1",
        "run-step/thread_1/run_1",
        "run-step/thread_1",
        "run-step",
    ] {
        origin.set_status("completed");
        store_in_tier(&a, &[STEP, &other]).await;
        for path in [STEP, &other] {
            assert!(is_shared_hit(&b.get(path).await), "{below}: {path}");
        }
        purge(&a, below).await;
        origin.set_status("failed");
        wait_purge_propagated().await;
        let new = start_gateway(&origin, &tier_at(&cluster.urls())).await;
        for gateway in [&new, &b] {
            let answer = gateway.get(STEP).await;
            assert!(!is_memory_hit(&answer), "{below}");
            assert_eq!(answer.json()["status"], "failed", "{below}");
        }
        assert_eq!(
            is_memory_hit(&b.get(&other).await),
            below != "run-step",
            "{below}"
        );
        purge(&a, "run-step").await;
        wait_purge_propagated().await;
    }
}

#[tokio::test]
async fn a_node_that_hangs_or_crashes_fails_no_request() {
    let (origin, mut cluster) = (Origin::start().await, Cluster::start().await);
    let toml = tier_at(&cluster.urls()).replace("1s", "50ms");
    let (a, b) = start_pair(&origin, &toml).await;
    for nth in 0..3 {
        cluster.nodes[nth].stop().await;
        let start = Instant::now();
        assert_serves_many(&a, &format!("stopped_{nth}")).await;
        assert_serves_many(&b, &format!("stopped_too_{nth}")).await;
        purge(&a, &format!("run-step/stopped_{nth}_1")).await;
        assert_serves(&a, &format!("meanwhile_{nth}")).await;
        // A few command timeouts, independent of the number of the node's buckets.
        let took = start.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
        cluster.nodes[nth].resume().await;
        cluster.wait_until_whole().await;
        wait_up(&a).await;
        wait_up(&b).await;
        assert_shares(&origin, &a, &b, &format!("gone_on_{nth}")).await;
    }
    cluster.nodes[2].kill();
    assert_serves_many(&a, "killed").await;
    assert_serves_many(&b, "killed_too").await;
}

/// The first of the configured nodes is down.
#[tokio::test]
async fn a_gateway_connects_to_a_cluster_through_any_configured_node() {
    let (origin, mut cluster) = (Origin::start().await, Cluster::start().await);
    let (a, _b) = pair(&origin, &cluster).await;
    assert_serves(&a, "before").await;
    cluster.nodes[0].kill();
    let start = Instant::now();
    let new = Gateway::start(&origin, &tier_at(&cluster.urls())).await;
    assert_serves_many(&new, "new").await;
    let took = start.elapsed();
    assert!(took < RECOVERY, "{took:?}");
    sleep(Duration::from_millis(100)).await;
    expect_fetched(&new, &step_of_thread("alone")).await;
}

/// Enough threads for every node to have some.
const MORE: usize = 60;

/// The threads of one node, and those of the other nodes.
struct Split {
    own: Vec<String>,
    others: Vec<String>,
}

impl Split {
    /// Has `gateway` write a step of each thread, and checks whether `node` has a new bucket.
    async fn by(gateway: &Gateway, node: &Redis, name: &str) -> Self {
        let mut split = Self {
            own: Vec::new(),
            others: Vec::new(),
        };
        for nth in 0..MORE {
            let thread = format!("{name}_{nth}");
            let before = node.threads().await.len();
            store_in_tier(gateway, &[&step_of_thread(&thread)]).await;
            match node.threads().await.len() - before {
                0 => split.others.push(thread),
                _ => split.own.push(thread),
            }
        }
        split
    }
}

#[tokio::test]
async fn a_hung_node_costs_a_few_timeouts_until_its_breakers_open() {
    /// Far longer than a response takes.
    const TIMEOUT: Duration = Duration::from_millis(500);
    /// Two, one for each of about eleven slot ranges, and a few for a busy machine.
    const MAX_TIMEOUTS: usize = 18;
    let (origin, cluster) = (Origin::start().await, Cluster::start().await);
    let toml = tier_at(&cluster.urls()).replace("1s", "500ms");
    let (a, b) = start_pair(&origin, &toml).await;
    let (_, [nth, _]) = cluster.by_purge_log().await;
    let node = &cluster.nodes[nth];
    let split = Split::by(&a, node, "split").await;
    assert!(
        split.own.len() > 8,
        "{} threads are on the node",
        split.own.len()
    );
    node.stop().await;

    // New steps of threads whose buckets are known.
    let path =
        |thread: &str, round: usize| format!("/v1/threads/{thread}/runs/run_1/steps/s_{round}");
    let mut timeouts = Vec::new();
    for round in 0..4 {
        let mut late = 0;
        for thread in &split.own {
            let start = Instant::now();
            assert!(is_fetched(&b.get(&path(thread, round)).await), "{thread}");
            late += usize::from(start.elapsed() >= TIMEOUT);
        }
        timeouts.push(late);
    }
    assert!(timeouts[0] >= 3, "the node does not hang: {timeouts:?}");
    assert!(
        timeouts.iter().sum::<usize>() <= MAX_TIMEOUTS,
        "{timeouts:?}"
    );
    assert!(timeouts[2] + timeouts[3] <= 2, "{timeouts:?}");
    let mut shared = 0;
    for thread in &split.others {
        shared += usize::from(is_shared_hit(&b.get(&step_of_thread(thread)).await));
    }
    // A slot range may belong to two nodes.
    let others = split.others.len();
    assert!(shared * 10 >= others * 8, "{shared} of {others} are shared");
    node.resume().await;
    cluster.wait_until_whole().await;
    let thread = &split.own[0];
    assert_shares_thread(&a, &b, thread).await;

    // A purge of its bucket does not wait for the node.
    node.stop().await;
    origin.set_status("failed");
    let purged = Instant::now();
    purge(&b, &format!("run-step/{thread}")).await;
    while a.get(&step_of_thread(thread)).await.json()["status"] != "failed" {
        let waited = purged.elapsed();
        assert!(
            waited < Duration::from_secs(6),
            "not purged within {waited:?}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

/// Asserts that steps of this thread are shared, after some time.
pub(super) async fn assert_shares_thread(one: &Gateway, other: &Gateway, thread: &str) {
    let start = Instant::now();
    for nth in 0.. {
        let path = format!("/v1/threads/{thread}/runs/run_1/steps/back_{nth}");
        one.get(&path).await;
        sleep(Duration::from_millis(100)).await;
        if is_shared_hit(&other.get(&path).await) {
            return;
        }
        let waited = start.elapsed();
        assert!(waited < RECOVERY, "no step was shared within {waited:?}");
    }
}
