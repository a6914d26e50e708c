//! Long polls that end otherwise than with a completed step (item 41).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::{Action, Gateway, Origin, RawClient, STEP, poll_after, text};

/// A wait that is longer than any test: something else must end it.
const LONG: [(&str, &str); 1] = [("Prefer", "wait=60")];

/// Starts a long poll, and returns once live bodies have been fetched for it.
async fn long_poll_with_a_body(origin: &Origin, gateway: &Gateway) -> RawClient {
    origin.always(poll_after("50"));
    let long_poll = gateway.send_get(STEP, &LONG).await;
    origin.wait_for_requests(3).await;
    long_poll
}

#[tokio::test]
async fn c41_long_poll_ends_when_the_resource_fails() {
    for status in ["failed", "cancelled", "expired"] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        let mut long_poll = long_poll_with_a_body(&origin, &gateway).await;
        origin.always(vec![Action::RespondStatus(status)]);
        assert_eq!(long_poll.response().await.text(), text(status));
        let after = origin.count();
        sleep(Duration::from_millis(500)).await;
        assert_eq!(origin.count(), after, "{status}: the poll loop went on");
    }
}

#[tokio::test]
async fn c41_long_poll_loop_stops_when_the_last_client_disconnects() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let first = long_poll_with_a_body(&origin, &gateway).await;
    let second = gateway.send_get(STEP, &LONG).await;
    gateway.wait_until_read().await;
    drop(first);
    gateway.wait_for_connections(1).await;
    origin.wait_for_requests(origin.count() + 5).await;
    drop(second);
    gateway.wait_for_connections(0).await;
    // One more request may have been on its way to the origin.
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
    let long_poll = gateway.send_get(STEP, &LONG).await;
    origin.wait_for_requests(1).await;
    drop(long_poll);
    origin.wait_for_hangups(1).await;
    gateway.wait_for_connections(0).await;
    assert_eq!(gateway.metric("stepgate_upstream_in_flight").await, 0.0);
}

#[tokio::test]
async fn c41_long_poll_is_answered_with_the_latest_body_at_a_drain() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut long_poll = long_poll_with_a_body(&origin, &gateway).await;
    let start = Instant::now();
    let (response, ()) = tokio::join!(long_poll.response(), gateway.drain());
    assert_eq!(
        (response.status, response.text()),
        (200, text("in_progress"))
    );
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn c41_long_poll_without_a_body_is_503_at_a_drain() {
    let origin = Origin::start().await;
    origin.always(vec![Action::Stall]);
    let gateway = Gateway::start(&origin, "").await;
    let mut long_poll = gateway.send_get(STEP, &LONG).await;
    origin.wait_for_requests(1).await;
    let start = Instant::now();
    let (response, ()) = tokio::join!(long_poll.response(), gateway.drain());
    assert_eq!(response.status, 503);
    assert_eq!(response.code().as_deref(), Some("draining"));
    let retry_after: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!(retry_after >= 1);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    origin.wait_for_hangups(1).await;
}
