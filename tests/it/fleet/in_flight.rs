//! A purge during a fetch, a write to the tier or a look-up (catalogue item 41a).

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Fleet, PURGE_PROPAGATION, counted, is_fetched, is_shared_hit, purge, start_gateway,
    step_of_thread, store_in_tier, tier, wait_purge_propagated,
};
use crate::support::client::head;
use crate::support::redis_proxy::RedisProxy;
use crate::support::{Action, Gateway, Latch, RawClient, STEP, step, text};

/// Many round trips, and less than the command timeout and the lease.
const MOMENT: Duration = Duration::from_millis(200);

/// Starts a gateway that reaches Redis through `proxy`.
async fn through(fleet: &Fleet, proxy: &RedisProxy) -> Gateway {
    start_gateway(&fleet.origin, &tier(&proxy.url())).await
}

/// Sends a request that `gateway` fetches, and returns the latch that the origin's response waits for.
async fn latched_fetch(fleet: &Fleet, gateway: &Gateway, path: &str) -> (Latch, RawClient) {
    let gate = Latch::closed();
    fleet
        .origin
        .next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let pending = gateway.send_get(path, &[]).await;
    fleet.origin.wait_for_requests(1).await;
    (gate, pending)
}

#[tokio::test]
async fn c41a_a_write_from_before_a_purge_is_refused() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (through(&fleet, &proxy).await, fleet.gateway().await);
    let (gate, mut pending) = latched_fetch(&fleet, &a, STEP).await;
    // The gateway has its token, and its write is delayed.
    proxy.stall();
    gate.open();
    assert!(pending.response().await.is_stored());
    sleep(MOMENT).await;
    purge(&b, "run-step/thread_1").await;
    fleet.origin.set_status("failed");
    proxy.resume();
    sleep(MOMENT).await;
    assert_eq!(
        fleet.redis.stored().await,
        [],
        "the write came after the purge"
    );
    for gateway in [&b, &fleet.gateway().await] {
        assert_eq!(gateway.get(STEP).await.text(), text("failed"));
    }
    assert_eq!(counted(&a, "writes", "refused").await, 1.0);
    wait_purge_propagated().await;
    assert_eq!(a.get(STEP).await.text(), text("failed"));
}

/// The write succeeds in the old bucket, which no gateway reads any more.
#[tokio::test]
async fn c41a_a_write_from_before_a_purge_of_the_rule_is_never_read() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (through(&fleet, &proxy).await, fleet.gateway().await);
    let (gate, mut pending) = latched_fetch(&fleet, &a, STEP).await;
    proxy.stall();
    gate.open();
    assert!(pending.response().await.is_stored());
    sleep(MOMENT).await;
    purge(&b, "run-step").await;
    fleet.origin.set_status("failed");
    proxy.resume();
    sleep(MOMENT).await;
    for gateway in [&b, &fleet.gateway().await] {
        assert_eq!(gateway.get(STEP).await.text(), text("failed"));
    }
    wait_purge_propagated().await;
    assert_eq!(a.get(STEP).await.text(), text("failed"));
}

#[tokio::test]
async fn c41a_a_fetch_from_before_another_gateways_purge_is_stored_nowhere() {
    for below in ["run-step", "run-step/thread_1"] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        let (gate, mut pending) = latched_fetch(&fleet, &a, STEP).await;
        purge(&b, below).await;
        wait_purge_propagated().await;
        gate.open();
        let answer = pending.response().await;
        assert_eq!(
            answer.text(),
            text("completed"),
            "{below}: the request came before the purge"
        );
        assert!(!answer.is_stored(), "{below}: {}", answer.cache_status());
        sleep(MOMENT).await;
        assert_eq!(fleet.redis.stored().await, [], "{below}");
        fleet.origin.set_status("failed");
        for gateway in [&a, &b] {
            assert_eq!(gateway.get(STEP).await.text(), text("failed"), "{below}");
        }
    }
}

/// The fetch ends before its gateway has read the purge from the log.
#[tokio::test]
async fn c41a_a_fetch_that_ends_right_after_another_gateways_purge_is_refused_by_the_tier() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    for nth in 0..10 {
        let path = step_of_thread(&format!("landing_{nth}"));
        let gate = Latch::closed();
        fleet.origin.set_status("completed");
        fleet.origin.next(vec![
            Action::Wait(gate.clone()),
            Action::RespondStatus("completed"),
        ]);
        let count = fleet.origin.count();
        let mut pending = a.send_get(&path, &[]).await;
        fleet.origin.wait_for_requests(count + 1).await;
        purge(&b, &format!("run-step/landing_{nth}")).await;
        gate.open();
        assert_eq!(pending.response().await.status, 200);
        sleep(MOMENT / 4).await;
        fleet.origin.set_status("failed");
        let answer = b.get(&path).await;
        assert_eq!(
            answer.json()["status"],
            "failed",
            "{}",
            answer.cache_status()
        );
    }
}

#[tokio::test]
async fn c41a_a_look_up_from_before_a_purge_answers_no_later_request() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (fleet.gateway().await, through(&fleet, &proxy).await);
    store_in_tier(&a, &[STEP]).await;
    fleet.origin.set_status("failed");
    proxy.delay_replies(2 * MOMENT);
    let mut before = b.send_get(STEP, &[]).await;
    sleep(MOMENT).await;
    // The barrier is inserted before any command is sent.
    let purged = purge(&b, "run-step/thread_1");
    let after = async {
        sleep(MOMENT / 2).await;
        b.get(STEP).await
    };
    let (_, after) = tokio::join!(purged, after);
    assert_eq!(after.text(), text("failed"), "{}", after.cache_status());
    assert_eq!(before.response().await.status, 200);
    proxy.delay_replies(Duration::ZERO);
    assert_eq!(
        b.get(STEP).await.text(),
        text("failed"),
        "stored from before the purge"
    );
}

#[tokio::test]
async fn c41a_a_look_up_during_another_gateways_purge_is_stored_for_at_most_a_second() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (fleet.gateway().await, through(&fleet, &proxy).await);
    store_in_tier(&a, &[STEP]).await;
    proxy.delay_replies(MOMENT);
    let mut before = b.send_get(STEP, &[]).await;
    sleep(MOMENT / 2).await;
    purge(&a, "run-step/thread_1").await;
    fleet.origin.set_status("failed");
    assert_eq!(before.response().await.status, 200);
    sleep(PURGE_PROPAGATION).await;
    let after = b.get(STEP).await;
    assert_eq!(after.text(), text("failed"), "{}", after.cache_status());
}

#[tokio::test]
async fn c41a_a_write_of_another_thread_is_not_refused_by_a_purge() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let gate = Latch::closed();
    let other = step_of_thread("thread_2");
    fleet
        .origin
        .next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let mut pending = a.send_get(&other, &[]).await;
    fleet.origin.wait_for_requests(1).await;
    purge(&b, "run-step/thread_1").await;
    gate.open();
    assert!(pending.response().await.is_stored());
    super::wait_written(&a, 1.0).await;
    let shared = b.get(&other).await;
    assert!(is_shared_hit(&shared) && !is_fetched(&shared));
}

/// Returns the paths of 40 steps of one thread.
fn many(name: &str) -> Vec<String> {
    (0..40).map(|nth| step(&format!("{name}_{nth}"))).collect()
}

/// A purge of a rule renames its buckets. Between the purge of memory and the new names, no look-up may
/// read an old bucket, since no purge would remove that body. Two purges follow each other while the log is
/// read slowly, and look-ups are sent throughout.
#[tokio::test]
async fn c41a_no_look_up_reads_a_bucket_that_a_purge_has_renamed() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (fleet.gateway().await, through(&fleet, &proxy).await);
    proxy.delay_replies(MOMENT);
    for round in 0..6 {
        fleet.origin.set_status("completed");
        let paths = many(&format!("named_{round}"));
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        store_in_tier(&a, &paths).await;
        fleet.origin.set_status("failed");
        let purges = async {
            purge(&a, "run-step/thread_9").await;
            sleep(MOMENT * 9 / 10).await;
            purge(&a, "run-step").await;
        };
        let look_ups = async {
            let mut pending = Vec::new();
            for path in &paths {
                pending.push(b.send_get(path, &[]).await);
                sleep(Duration::from_millis(25)).await;
            }
            for mut one in pending {
                assert_eq!(one.response().await.status, 200);
            }
        };
        tokio::join!(purges, look_ups);
        sleep(PURGE_PROPAGATION + MOMENT).await;
        for path in &paths {
            let answer = b.get(path).await;
            let status = answer.cache_status();
            assert_eq!(
                answer.json()["status"],
                "failed",
                "{round}: {path}: {status}"
            );
        }
    }
}

/// The purge takes long because memory holds many steps. Look-ups during it return bodies from before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c41a_a_look_up_during_the_walk_of_a_purge_is_not_stored() {
    const FILLING: usize = 1_500;
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let mut raw = b.connect().await;
    for nth in 0..FILLING {
        let path = format!("/v1/threads/full/runs/run_1/steps/step_{nth}");
        raw.send(head("GET", &path, "127.0.0.1", &[])).await;
        assert_eq!(raw.response().await.status, 200);
    }
    for round in 0..5 {
        fleet.origin.set_status("completed");
        let paths = many(&format!("meanwhile_{round}"));
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        store_in_tier(&a, &paths).await;
        fleet.origin.set_status("failed");
        let purged = async {
            sleep(Duration::from_millis(5)).await;
            purge(&b, "run-step/thread_1").await;
        };
        let look_ups = async {
            let mut pending = Vec::new();
            for path in &paths {
                pending.push(b.send_get(path, &[]).await);
            }
            for mut one in pending {
                assert_eq!(one.response().await.status, 200);
            }
        };
        tokio::join!(purged, look_ups);
        for path in &paths {
            let answer = b.get(path).await;
            let status = answer.cache_status();
            // A request from before the purge may get the old body, but the body is not stored.
            assert_eq!(
                answer.json()["status"],
                "failed",
                "{round}: {path}: {status}"
            );
        }
        wait_purge_propagated().await;
    }
}
