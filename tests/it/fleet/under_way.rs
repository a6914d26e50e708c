//! A purge while something is under way: a fetch, a write to the tier, a read from it (catalogue 41a).

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Fleet, REACHED, counted, elsewhere, is_fetched, is_shared, is_up, purge, reached, spread, tier,
};
use crate::support::client::head;
use crate::support::redis_proxy::RedisProxy;
use crate::support::{Action, Gateway, Latch, STEP, step, text};

/// What a moment is here: many times a round trip, and within every budget and lease.
const MOMENT: Duration = Duration::from_millis(200);

/// A gateway whose way to Redis can be slowed and held.
async fn behind(fleet: &Fleet, proxy: &RedisProxy) -> Gateway {
    let gateway = Gateway::start(&fleet.origin, &tier(&proxy.url())).await;
    is_up(&gateway).await;
    gateway
}

#[tokio::test]
async fn c41a_a_write_that_was_under_way_is_refused() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (behind(&fleet, &proxy).await, fleet.gateway().await);
    let gate = Latch::closed();
    fleet
        .origin
        .next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let mut asked = a.send_get(STEP, &[]).await;
    fleet.origin.wait_for_requests(1).await;
    // It has its token by now; what it writes is kept on its way.
    proxy.stall();
    gate.open();
    assert!(asked.response().await.is_stored());
    sleep(MOMENT).await;
    purge(&b, "run-step/thread_1").await;
    fleet.origin.set_status("failed");
    proxy.resume();
    sleep(MOMENT).await;
    assert_eq!(fleet.redis.stored().await, [], "written after the purge");
    for gateway in [&b, &fleet.gateway().await] {
        assert_eq!(gateway.get(STEP).await.text(), text("failed"));
    }
    assert_eq!(counted(&a, "refused").await, 1.0);
    reached().await;
    assert_eq!(a.get(STEP).await.text(), text("failed"));
}

/// Under its old name, which nobody uses any more.
#[tokio::test]
async fn c41a_a_write_under_way_is_not_found_after_a_purge_of_everything() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (behind(&fleet, &proxy).await, fleet.gateway().await);
    let gate = Latch::closed();
    fleet
        .origin
        .next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let mut asked = a.send_get(STEP, &[]).await;
    fleet.origin.wait_for_requests(1).await;
    proxy.stall();
    gate.open();
    assert!(asked.response().await.is_stored());
    sleep(MOMENT).await;
    purge(&b, "run-step").await;
    fleet.origin.set_status("failed");
    proxy.resume();
    sleep(MOMENT).await;
    for gateway in [&b, &fleet.gateway().await] {
        assert_eq!(gateway.get(STEP).await.text(), text("failed"));
    }
    reached().await;
    assert_eq!(a.get(STEP).await.text(), text("failed"));
}

#[tokio::test]
async fn c41a_a_fetch_that_departed_before_a_purge_elsewhere_is_written_nowhere() {
    for below in ["run-step", "run-step/thread_1"] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        let gate = Latch::closed();
        fleet
            .origin
            .next(vec![Action::Wait(gate.clone()), Action::Respond]);
        let mut asked = a.send_get(STEP, &[]).await;
        fleet.origin.wait_for_requests(1).await;
        purge(&b, below).await;
        reached().await;
        gate.open();
        let answer = asked.response().await;
        assert_eq!(answer.text(), text("completed"), "{below}: it asked before");
        assert!(!answer.is_stored(), "{below}: {}", answer.cache_status());
        sleep(MOMENT).await;
        assert_eq!(fleet.redis.stored().await, [], "{below}");
        fleet.origin.set_status("failed");
        for gateway in [&a, &b] {
            assert_eq!(gateway.get(STEP).await.text(), text("failed"), "{below}");
        }
    }
}

/// Landed before its gateway has heard of the purge: the tier refuses it all the same.
#[tokio::test]
async fn c41a_a_fetch_that_lands_right_after_a_purge_elsewhere_is_refused_by_the_tier() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    for nth in 0..10 {
        let path = elsewhere(&format!("landing_{nth}"));
        let gate = Latch::closed();
        fleet.origin.set_status("completed");
        fleet.origin.next(vec![
            Action::Wait(gate.clone()),
            Action::RespondStatus("completed"),
        ]);
        let count = fleet.origin.count();
        let mut asked = a.send_get(&path, &[]).await;
        fleet.origin.wait_for_requests(count + 1).await;
        purge(&b, &format!("run-step/landing_{nth}")).await;
        gate.open();
        assert_eq!(asked.response().await.status, 200);
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
async fn c41a_a_read_that_was_under_way_is_served_to_nobody_who_comes_after() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (fleet.gateway().await, behind(&fleet, &proxy).await);
    spread(&a, &[STEP]).await;
    fleet.origin.set_status("failed");
    proxy.delay_replies(2 * MOMENT);
    let mut before = b.send_get(STEP, &[]).await;
    sleep(MOMENT).await;
    // Its wall stands before anything goes to Redis.
    let purged = purge(&b, "run-step/thread_1");
    let after = async {
        sleep(MOMENT / 2).await;
        b.get(STEP).await
    };
    let (_, after) = tokio::join!(purged, after);
    assert_eq!(after.text(), text("failed"), "{}", after.cache_status());
    assert_eq!(before.response().await.status, 200);
    proxy.delay_replies(Duration::ZERO);
    assert_eq!(b.get(STEP).await.text(), text("failed"), "kept from before");
}

#[tokio::test]
async fn c41a_a_read_under_way_while_another_purges_is_kept_no_longer_than_a_second() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (fleet.gateway().await, behind(&fleet, &proxy).await);
    spread(&a, &[STEP]).await;
    proxy.delay_replies(MOMENT);
    let mut before = b.send_get(STEP, &[]).await;
    sleep(MOMENT / 2).await;
    purge(&a, "run-step/thread_1").await;
    fleet.origin.set_status("failed");
    assert_eq!(before.response().await.status, 200);
    // Whatever came of that answer.
    sleep(REACHED).await;
    let after = b.get(STEP).await;
    assert_eq!(after.text(), text("failed"), "{}", after.cache_status());
}

/// Only steps of what was purged are fetched again, not what happened to be under way beside it.
#[tokio::test]
async fn c41a_a_write_of_another_thread_is_not_refused() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let gate = Latch::closed();
    let other = elsewhere("thread_2");
    fleet
        .origin
        .next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let mut asked = a.send_get(&other, &[]).await;
    fleet.origin.wait_for_requests(1).await;
    purge(&b, "run-step/thread_1").await;
    gate.open();
    assert!(asked.response().await.is_stored());
    super::has_written(&a, 1.0).await;
    let shared = b.get(&other).await;
    assert!(is_shared(&shared) && !is_fetched(&shared));
}

/// So many steps of one thread, to have one for every moment.
fn many(name: &str) -> Vec<String> {
    (0..40).map(|nth| step(&format!("{name}_{nth}"))).collect()
}

/// Between hearing of a purge and knowing what things are called since, nothing may be read under the
/// old names: nobody would purge it any more. Two purges close together, the log read slowly, and reads
/// at every moment of that.
#[tokio::test]
async fn c41a_nothing_is_read_under_names_that_a_purge_has_ended() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (fleet.gateway().await, behind(&fleet, &proxy).await);
    proxy.delay_replies(MOMENT);
    for round in 0..6 {
        fleet.origin.set_status("completed");
        let paths = many(&format!("named_{round}"));
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        spread(&a, &paths).await;
        fleet.origin.set_status("failed");
        let purges = async {
            purge(&a, "run-step/thread_9").await;
            sleep(MOMENT * 9 / 10).await;
            purge(&a, "run-step").await;
        };
        let reads = async {
            let mut asked = Vec::new();
            for path in &paths {
                asked.push(b.send_get(path, &[]).await);
                sleep(Duration::from_millis(25)).await;
            }
            for mut one in asked {
                assert_eq!(one.response().await.status, 200);
            }
        };
        tokio::join!(purges, reads);
        sleep(REACHED + MOMENT).await;
        for path in &paths {
            let answer = b.get(path).await;
            let said = answer.cache_status();
            assert_eq!(answer.json()["status"], "failed", "{round}: {path}: {said}");
        }
    }
}

/// A purge takes its time where much is stored. What is read meanwhile was there before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c41a_nothing_is_kept_that_was_read_while_a_purge_went_through_memory() {
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
        spread(&a, &paths).await;
        fleet.origin.set_status("failed");
        let purged = async {
            sleep(Duration::from_millis(5)).await;
            purge(&b, "run-step/thread_1").await;
        };
        let reads = async {
            let mut asked = Vec::new();
            for path in &paths {
                asked.push(b.send_get(path, &[]).await);
            }
            for mut one in asked {
                assert_eq!(one.response().await.status, 200);
            }
        };
        tokio::join!(purged, reads);
        for path in &paths {
            let answer = b.get(path).await;
            let said = answer.cache_status();
            // Who asked before it may have been told the old; it is not kept.
            assert_eq!(answer.json()["status"], "failed", "{round}: {path}: {said}");
        }
        // The other one, too, stores nothing that was under way.
        reached().await;
    }
}
