//! Requests that wait for the end of a step which comes otherwise, or not at all.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::{Action, Gateway, Origin, RawClient, STEP, poll_after, text};

/// So long that only something else can end the wait within a test's patience.
const LONG: [(&str, &str); 1] = [("Prefer", "wait=60")];

/// Asks and waits until a live body has come for it.
async fn waiter_with_a_body(origin: &Origin, gateway: &Gateway) -> RawClient {
    origin.always(poll_after("50"));
    let waiter = gateway.send_get(STEP, &LONG).await;
    origin.wait_for_requests(3).await;
    waiter
}

#[tokio::test]
async fn c41_long_poll_ends_when_the_resource_fails() {
    for status in ["failed", "cancelled", "expired"] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        let mut waiter = waiter_with_a_body(&origin, &gateway).await;
        origin.always(vec![Action::RespondStatus(status)]);
        assert_eq!(waiter.response().await.text(), text(status));
        let after = origin.count();
        sleep(Duration::from_millis(500)).await;
        assert_eq!(origin.count(), after, "{status}: nobody polls on");
    }
}

#[tokio::test]
async fn c41_long_poll_loop_stops_when_the_last_client_disconnects() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let first = waiter_with_a_body(&origin, &gateway).await;
    let second = gateway.send_get(STEP, &LONG).await;
    gateway.wait_until_read().await;
    drop(first);
    gateway.wait_for_connections(1).await;
    origin.wait_for_requests(origin.count() + 5).await;
    drop(second);
    gateway.wait_for_connections(0).await;
    // What was in the air may have arrived since.
    let left = origin.count() + 1;
    sleep(Duration::from_secs(1)).await;
    assert!(origin.count() <= left, "{} after {left}", origin.count());
    assert_eq!(gateway.metric("stepgate_long_polls").await, 0.0);
}

#[tokio::test]
async fn c41_long_poll_fetch_is_cancelled_when_its_client_disconnects() {
    let origin = Origin::start().await;
    origin.always(vec![Action::Stall]);
    let gateway = Gateway::start(&origin, "").await;
    let waiter = gateway.send_get(STEP, &LONG).await;
    origin.wait_for_requests(1).await;
    drop(waiter);
    origin.wait_for_hangups(1).await;
    gateway.wait_for_connections(0).await;
    assert_eq!(gateway.metric("stepgate_upstream_in_flight").await, 0.0);
}

#[tokio::test]
async fn c41_long_poll_is_answered_with_the_latest_body_at_a_drain() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut waiter = waiter_with_a_body(&origin, &gateway).await;
    let start = Instant::now();
    let (answer, ()) = tokio::join!(waiter.response(), gateway.drain());
    assert_eq!((answer.status, answer.text()), (200, text("in_progress")));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn c41_long_poll_without_a_body_is_503_at_a_drain() {
    let origin = Origin::start().await;
    origin.always(vec![Action::Stall]);
    let gateway = Gateway::start(&origin, "").await;
    let mut waiter = gateway.send_get(STEP, &LONG).await;
    origin.wait_for_requests(1).await;
    let start = Instant::now();
    let (answer, ()) = tokio::join!(waiter.response(), gateway.drain());
    assert_eq!(answer.status, 503);
    assert_eq!(answer.code().as_deref(), Some("draining"));
    let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(retry_after >= 1);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    origin.wait_for_hangups(1).await;
}
