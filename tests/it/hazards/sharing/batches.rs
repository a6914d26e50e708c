//! Which fetch answers which request (items 36 and 41a): final bodies, disconnects, deadlines, purges,
//! failures, large bodies.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::WIDE;
use crate::support::{Action, Gateway, Latch, Origin, RawClient, STEP, body, respond, text};

const NO_CACHE: [(&str, &str); 1] = [("Cache-Control", "no-cache")];

/// Sends `count` requests that wait in one batch, because a poll before them has opened the window.
async fn batch_of(origin: &Origin, gateway: &Gateway, count: usize) -> Vec<RawClient> {
    origin.next(vec![Action::RespondStatus("in_progress")]);
    assert_eq!(gateway.get(STEP).await.status, 200);
    let mut waiters = Vec::new();
    for _ in 0..count {
        waiters.push(gateway.send_get(STEP, &[]).await);
        // The first request becomes the leader.
        gateway.wait_until_read().await;
    }
    assert_eq!(origin.count(), 1, "the batch has started already");
    waiters
}

#[tokio::test]
async fn a_final_body_also_answers_the_waiters_of_an_earlier_fetch() {
    let origin = Origin::start().await;
    origin.next(vec![Action::Stall]);
    let gateway = Gateway::start(&origin, "").await;
    let mut first = gateway.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    let second = gateway.get(STEP).await;
    assert_eq!(second.text(), text("completed"));
    let first = first.response().await;
    assert_eq!((first.status, first.text()), (200, text("completed")));
    assert_eq!(origin.count(), 2);
    // The first fetch has no waiters left.
    origin.wait_for_hangups(1).await;
}

#[tokio::test]
async fn a_live_body_answers_only_its_own_batch() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gates = [Latch::closed(), Latch::closed()];
    for gate in &gates {
        origin.next(vec![Action::Wait(gate.clone()), Action::RespondNumbered]);
    }
    let gateway = Gateway::start(&origin, "").await;
    let mut clients = Vec::new();
    for fetch in 1..=2 {
        clients.push(gateway.send_get(STEP, &[]).await);
        origin.wait_for_requests(fetch).await;
    }
    gates[1].open();
    assert_eq!(clients[1].response().await.fetch(), 2);
    gates[0].open();
    assert_eq!(clients[0].response().await.fetch(), 1);
}

#[tokio::test]
async fn a_final_body_answers_the_pending_batch_but_not_a_no_cache_request() {
    let origin = Origin::start().await;
    let gate = Latch::closed();
    origin.next(vec![
        Action::Wait(gate.clone()),
        Action::RespondStatus("completed"),
    ]);
    origin.next(vec![Action::RespondStatus("failed")]);
    let gateway = Gateway::start(&origin, "[upstream]\ncoalesce_window = \"2s\"\n").await;
    let mut in_flight = gateway.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    let mut no_cache = gateway.send_get(STEP, &NO_CACHE).await;
    let mut pending = gateway.send_get(STEP, &[]).await;
    gateway.wait_until_read().await;
    gate.open();
    for client in [&mut in_flight, &mut pending] {
        assert_eq!(client.response().await.text(), text("completed"));
    }
    assert_eq!(
        origin.count(),
        1,
        "the batch was fetched for although the final body had come"
    );
    let response = no_cache.response().await;
    assert_eq!(response.text(), text("failed"));
    assert!(
        response
            .cache_status()
            .starts_with("stepgate; fwd=request; fwd-status=200")
    );
    assert_eq!(origin.count(), 2);
    let hit = gateway.get(STEP).await;
    assert_eq!((hit.is_hit(), hit.text()), (true, text("failed")));
}

#[tokio::test]
async fn an_older_fetch_never_overwrites_a_newer_body() {
    let origin = Origin::start().await;
    let gate = Latch::closed();
    let gateway = Gateway::start(&origin, "").await;
    assert!(gateway.get(STEP).await.is_stored());
    origin.next(vec![
        Action::Wait(gate.clone()),
        Action::RespondStatus("cancelled"),
    ]);
    origin.next(vec![Action::RespondStatus("failed")]);
    let mut older = gateway.send_get(STEP, &NO_CACHE).await;
    origin.wait_for_requests(2).await;
    let newer = gateway.get_with(STEP, &NO_CACHE).await;
    assert_eq!(newer.text(), text("failed"));
    gate.open();
    // Both fetches started after the older request, so either may answer it.
    assert_eq!(older.response().await.status, 200);
    assert_eq!(gateway.get(STEP).await.text(), text("failed"));
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn c36_leader_disconnects_in_flight_and_the_waiters_are_answered() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, WIDE).await;
    let mut waiters = batch_of(&origin, &gateway, 3).await;
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::RespondNumbered]);
    origin.wait_for_requests(2).await;
    drop(waiters.remove(0));
    gateway.wait_for_connections(2).await;
    gate.open();
    for waiter in &mut waiters {
        assert_eq!(waiter.response().await.fetch(), 2);
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn c36_leader_disconnects_before_the_fetch_and_the_waiters_are_answered() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, WIDE).await;
    let mut waiters = batch_of(&origin, &gateway, 3).await;
    drop(waiters.remove(0));
    gateway.wait_for_connections(2).await;
    assert_eq!(origin.count(), 1, "the fetch has started already");
    origin.always(vec![Action::RespondNumbered]);
    for waiter in &mut waiters {
        assert_eq!(waiter.response().await.fetch(), 2);
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn c36_fetch_without_waiters_is_cancelled_and_the_next_starts_clean() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, WIDE).await;
    let waiters = batch_of(&origin, &gateway, 3).await;
    origin.next(vec![Action::Stall]);
    origin.wait_for_requests(2).await;
    drop(waiters);
    origin.wait_for_hangups(1).await;
    origin.always(vec![Action::RespondNumbered]);
    assert_eq!(gateway.get(STEP).await.fetch(), 3);
    assert_eq!(gateway.metric("stepgate_upstream_in_flight").await, 0.0);
}

#[tokio::test]
async fn c36_leader_timeout_does_not_shorten_the_deadline_of_other_waiters() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let toml = format!("{WIDE}timeout = \"2s\"\n");
    let gateway = Gateway::start(&origin, &toml).await;
    assert_eq!(gateway.get(STEP).await.status, 200);
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::RespondNumbered]);
    let mut early = gateway.send_get(STEP, &[]).await;
    gateway.wait_until_read().await;
    sleep(Duration::from_millis(500)).await;
    let mut late = gateway.send_get(STEP, &[]).await;
    let response = early.response().await;
    assert_eq!(response.code().as_deref(), Some("upstream_timeout"));
    gate.open();
    assert_eq!(late.response().await.fetch(), 2);
    assert_eq!(origin.count(), 2, "the requests were not in one batch");
}

#[tokio::test]
async fn c41a_stale_set_a_purge_is_a_barrier_for_fetches_in_flight() {
    let origin = Origin::start().await;
    let gates = [Latch::closed(), Latch::closed()];
    origin.next(vec![
        Action::Wait(gates[0].clone()),
        Action::RespondStatus("completed"),
    ]);
    origin.next(vec![
        Action::Wait(gates[1].clone()),
        Action::RespondStatus("failed"),
    ]);
    let gateway = Gateway::start(&origin, WIDE).await;
    let mut before = gateway.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    let purged = gateway.admin("DELETE", "/cache/run-step/thread_1").await;
    assert_eq!(purged.status, 200);
    let mut after = gateway.send_get(STEP, &[]).await;
    gateway.wait_until_read().await;
    gates[0].open();
    let response = before.response().await;
    assert_eq!(response.text(), text("completed"));
    assert!(
        response.cache_status().contains("detail=purged"),
        "{}",
        response.cache_status()
    );
    let stored = [("Cache-Control", "only-if-cached")];
    assert_eq!(gateway.get_with(STEP, &stored).await.status, 504);
    gates[1].open();
    assert_eq!(after.response().await.text(), text("failed"));
    let hit = gateway.get(STEP).await;
    assert_eq!((hit.is_hit(), hit.text()), (true, text("failed")));
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn a_failed_fetch_fails_its_own_batch_only() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::RespondNumbered]);
    origin.next(vec![
        Action::Send(b"nonsense\r\n\r\n".to_vec()),
        Action::Close,
    ]);
    let gateway = Gateway::start(&origin, WIDE).await;
    let mut earlier = gateway.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    let mut waiters = Vec::new();
    for _ in 0..3 {
        waiters.push(gateway.send_get(STEP, &[]).await);
    }
    for waiter in &mut waiters {
        let response = waiter.response().await;
        assert_eq!(response.status, 502);
        assert_eq!(response.code().as_deref(), Some("upstream_invalid"));
    }
    assert_eq!(origin.count(), 2);
    assert_eq!(gateway.get(STEP).await.text(), text("in_progress"));
    gate.open();
    assert_eq!(earlier.response().await.fetch(), 1);
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn a_fetch_past_its_deadline_is_504_for_each_waiter_and_the_next_starts_clean() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let toml = format!("{WIDE}timeout = \"2s\"\n");
    let gateway = Gateway::start(&origin, &toml).await;
    let mut waiters = batch_of(&origin, &gateway, 3).await;
    origin.next(vec![Action::Stall]);
    for waiter in &mut waiters {
        let response = waiter.response().await;
        assert_eq!(response.status, 504);
        assert_eq!(response.code().as_deref(), Some("upstream_timeout"));
    }
    origin.wait_for_hangups(1).await;
    assert_eq!(gateway.get(STEP).await.text(), text("in_progress"));
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn an_upstream_error_reaches_every_waiter_untouched() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, WIDE).await;
    let mut waiters = batch_of(&origin, &gateway, 3).await;
    let error = br#"{"error": {"message": "no such step", "code": null}}"#;
    origin.next(vec![Action::Send(respond("404 Not Found", &[], error))]);
    for waiter in &mut waiters {
        let response = waiter.response().await;
        assert_eq!((response.status, &*response.body), (404, &error[..]));
    }
    assert_eq!(origin.count(), 2);
    assert!(
        gateway.get(STEP).await.is_stored(),
        "the next fetch did not start clean"
    );
}

#[tokio::test]
async fn a_body_over_max_entry_bytes_is_streamed_to_one_and_fetched_by_the_others() {
    let mut large = body("completed");
    large.resize(300 * 1024, b' ');
    let origin = Origin::start().await;
    let toml = format!("{WIDE}[cache]\nmax_entry_bytes = \"4KiB\"\n");
    let gateway = Gateway::start(&origin, &toml).await;
    let mut waiters = batch_of(&origin, &gateway, 3).await;
    origin.always(vec![Action::Send(respond("200 OK", &[], &large))]);
    for waiter in &mut waiters {
        let response = waiter.response().await;
        assert!(response.body == large, "{}: other bytes", response.status);
        assert!(response.cache_status().contains("detail=too_large"));
    }
    assert_eq!(origin.count(), 1 + 3);
    // From now on each request of this key fetches on its own, without a window.
    let start = Instant::now();
    for _ in 0..5 {
        assert!(gateway.get(STEP).await.body == large);
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "five polls took {took:?}");
    assert_eq!(origin.count(), 1 + 3 + 5);
}
