//! Three servers that share the slots: threads are spread over them, head and stream are on one.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    BACK, assert_serves, assert_shares, completed, elsewhere, is_fetched, is_own, is_shared, is_up,
    purge, reached, spread, tier_at,
};
use crate::support::{Gateway, Origin, STEP};
use crate::support::{redis::Redis, redis_cluster::Cluster};

const THREADS: usize = 24;

pub(super) async fn pair(origin: &Origin, cluster: &Cluster) -> (Gateway, Gateway) {
    pair_with(origin, &tier_at(&cluster.urls())).await
}

async fn pair_with(origin: &Origin, toml: &str) -> (Gateway, Gateway) {
    let (a, b) = (
        Gateway::start(origin, toml).await,
        Gateway::start(origin, toml).await,
    );
    is_up(&a).await;
    is_up(&b).await;
    (a, b)
}

fn threads(name: &str) -> Vec<String> {
    (0..THREADS).map(|nth| format!("{name}_{nth}")).collect()
}

/// Steps of many threads, so that every node has some.
async fn assert_serves_many(gateway: &Gateway, name: &str) {
    for thread in threads(name) {
        let right = completed(&thread, "step_1");
        let answer = gateway.get(&elsewhere(&thread)).await;
        assert_eq!((answer.status, answer.text()), (200, right), "{thread}");
    }
}

#[tokio::test]
async fn a_fleet_on_a_cluster_shares_steps_of_every_node() {
    let (origin, cluster) = (Origin::start().await, Cluster::start().await);
    let (a, b) = pair(&origin, &cluster).await;
    let paths: Vec<String> = threads("spread").iter().map(|t| elsewhere(t)).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    spread(&a, &paths).await;
    for node in &cluster.nodes {
        assert!(!node.threads().await.is_empty(), "a node has none");
    }
    for path in &paths {
        let shared = b.get(path).await;
        assert!(is_shared(&shared), "{path}: {}", shared.cache_status());
    }
    assert_eq!(origin.count(), THREADS);
}

#[tokio::test]
async fn a_purge_on_a_cluster_reaches_every_gateway() {
    let (origin, cluster) = (Origin::start().await, Cluster::start().await);
    let (a, b) = pair(&origin, &cluster).await;
    let other = elsewhere("thread_2");
    for below in [
        "run-step/thread_1/run_1/step_1",
        "run-step/thread_1/run_1",
        "run-step/thread_1",
        "run-step",
    ] {
        origin.set_status("completed");
        spread(&a, &[STEP, &other]).await;
        for path in [STEP, &other] {
            assert!(is_shared(&b.get(path).await), "{below}: {path}");
        }
        purge(&a, below).await;
        origin.set_status("failed");
        reached().await;
        let new = Gateway::start(&origin, &tier_at(&cluster.urls())).await;
        is_up(&new).await;
        for gateway in [&new, &b] {
            let answer = gateway.get(STEP).await;
            assert!(!is_own(&answer), "{below}");
            assert_eq!(answer.json()["status"], "failed", "{below}");
        }
        assert_eq!(is_own(&b.get(&other).await), below != "run-step", "{below}");
        purge(&a, "run-step").await;
        reached().await;
    }
}

#[tokio::test]
async fn a_node_that_stops_or_dies_costs_no_answer() {
    let (origin, mut cluster) = (Origin::start().await, Cluster::start().await);
    let toml = tier_at(&cluster.urls()).replace("1s", "50ms");
    let (a, b) = pair_with(&origin, &toml).await;
    for nth in 0..3 {
        cluster.nodes[nth].stop().await;
        let start = Instant::now();
        assert_serves_many(&a, &format!("stopped_{nth}")).await;
        assert_serves_many(&b, &format!("stopped_too_{nth}")).await;
        purge(&a, &format!("run-step/stopped_{nth}_1")).await;
        assert_serves(&a, &format!("meanwhile_{nth}")).await;
        // No more than a few budgets, however many threads that node has.
        let took = start.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
        cluster.nodes[nth].resume().await;
        cluster.wait_until_whole().await;
        is_up(&a).await;
        is_up(&b).await;
        assert_shares(&origin, &a, &b, &format!("gone_on_{nth}")).await;
    }
    cluster.nodes[2].kill();
    assert_serves_many(&a, "killed").await;
    assert_serves_many(&b, "killed_too").await;
}

/// It is one of three that is named first, and it is not there.
#[tokio::test]
async fn a_gateway_finds_a_cluster_by_any_of_its_nodes() {
    let (origin, mut cluster) = (Origin::start().await, Cluster::start().await);
    let (a, _b) = pair(&origin, &cluster).await;
    assert_serves(&a, "before").await;
    cluster.nodes[0].kill();
    let start = Instant::now();
    let new = Gateway::start(&origin, &tier_at(&cluster.urls())).await;
    assert_serves_many(&new, "new").await;
    let took = start.elapsed();
    assert!(took < BACK, "{took:?}");
    sleep(Duration::from_millis(100)).await;
    assert!(is_fetched(&new.get(&elsewhere("alone")).await));
}

/// So many more threads are needed that each node has enough of them.
const MORE: usize = 60;

/// Threads of one node of a cluster, and of the others.
struct Split {
    its: Vec<String>,
    others: Vec<String>,
}

impl Split {
    /// By what appears where, when `gateway` writes a step of each.
    async fn by(gateway: &Gateway, node: &Redis, name: &str) -> Self {
        let mut split = Self {
            its: Vec::new(),
            others: Vec::new(),
        };
        for nth in 0..MORE {
            let thread = format!("{name}_{nth}");
            let before = node.threads().await.len();
            spread(gateway, &[&elsewhere(&thread)]).await;
            match node.threads().await.len() - before {
                0 => split.others.push(thread),
                _ => split.its.push(thread),
            }
        }
        split
    }
}

#[tokio::test]
async fn a_node_that_hangs_costs_its_threads_a_few_budgets_and_then_nothing() {
    /// Far more than an answer takes here, and less than the sum of a few.
    const BUDGET: Duration = Duration::from_millis(500);
    /// Two, one for each of some eleven parts, and a few that a busy machine is late with.
    const PAID: usize = 18;
    let (origin, cluster) = (Origin::start().await, Cluster::start().await);
    let toml = tier_at(&cluster.urls()).replace("1s", "500ms");
    let (a, b) = pair_with(&origin, &toml).await;
    let (_, [nth, _]) = cluster.by_purge_log().await;
    let node = &cluster.nodes[nth];
    let split = Split::by(&a, node, "split").await;
    assert!(split.its.len() > 8, "{} are its", split.its.len());
    node.stop().await;

    // Steps that nobody knows yet, of threads that everybody knows where they are.
    let path =
        |thread: &str, round: usize| format!("/v1/threads/{thread}/runs/run_1/steps/s_{round}");
    let mut paid = Vec::new();
    for round in 0..4 {
        let mut late = 0;
        for thread in &split.its {
            let start = Instant::now();
            assert!(is_fetched(&b.get(&path(thread, round)).await), "{thread}");
            late += usize::from(start.elapsed() >= BUDGET);
        }
        paid.push(late);
    }
    assert!(paid[0] >= 3, "it does not even hang: {paid:?}");
    assert!(paid.iter().sum::<usize>() <= PAID, "{paid:?}");
    assert!(paid[2] + paid[3] <= 2, "{paid:?}");
    let mut shared = 0;
    for thread in &split.others {
        shared += usize::from(is_shared(&b.get(&elsewhere(thread)).await));
    }
    // One part may be of two nodes.
    let others = split.others.len();
    assert!(shared * 10 >= others * 8, "{shared} of {others} are shared");
    node.resume().await;
    cluster.wait_until_whole().await;
    let thread = &split.its[0];
    assert_shares_thread(&a, &b, thread).await;

    // Nor does a purge of what it holds wait for it.
    node.stop().await;
    origin.set_status("failed");
    let purged = Instant::now();
    purge(&b, &format!("run-step/{thread}")).await;
    while a.get(&elsewhere(thread)).await.json()["status"] != "failed" {
        let waited = purged.elapsed();
        assert!(waited < Duration::from_secs(6), "not told after {waited:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Sooner or later steps of this thread are shared.
pub(super) async fn assert_shares_thread(one: &Gateway, other: &Gateway, thread: &str) {
    let start = Instant::now();
    for nth in 0.. {
        let path = format!("/v1/threads/{thread}/runs/run_1/steps/back_{nth}");
        one.get(&path).await;
        sleep(Duration::from_millis(100)).await;
        if is_shared(&other.get(&path).await) {
            return;
        }
        let waited = start.elapsed();
        assert!(waited < BACK, "nothing is shared after {waited:?}");
    }
}
