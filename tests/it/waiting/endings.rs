//! Waits that end otherwise than with the step or with their time: failures, callers that leave,
//! drains (catalogue 41).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{poll_after, wait};
use crate::support::{Act, Gateway, Origin, Raw, STEP, respond, text};

/// So long that only something else can end the wait within a test's patience.
const LONG: [(&str, &str); 1] = [("Prefer", "wait=60")];

/// A failure that asks to be polled again soon.
fn failure(status: &str) -> Vec<Act> {
    let soon = [("openai-poll-after-ms", "50")];
    vec![Act::Send(respond(status, &soon, "{\"error\": {}}"))]
}

fn nonsense() -> Vec<Act> {
    vec![Act::Send(b"nonsense\r\n\r\n".to_vec()), Act::Close]
}

/// Asks and waits until a live body has come for it.
async fn waiter_with_a_body(origin: &Origin, gateway: &Gateway) -> Raw {
    origin.always(poll_after("50"));
    let waiter = gateway.question(STEP, &LONG).await;
    origin.arrived(3).await;
    waiter
}

#[tokio::test]
async fn failures_that_may_pass_do_not_end_a_wait() {
    let origin = Origin::start().await;
    origin.next(poll_after("50"));
    for status in [
        "408 Slow",
        "429 Often",
        "500 Oh",
        "502 Bad",
        "503 Busy",
        "529 Full",
    ] {
        origin.next(failure(status));
    }
    origin.next(nonsense());
    let gateway = Gateway::start(&origin, "").await;
    let (answer, _) = wait(&gateway, "wait=60").await;
    assert_eq!((answer.status, answer.text()), (200, text("completed")));
    assert_eq!(origin.count(), 9);
}

#[tokio::test]
async fn a_wait_that_failed_until_its_end_gives_the_latest_body_or_else_that_failure() {
    let error = "{\"error\": {}}".to_owned();
    for (first, expected) in [
        (poll_after("50"), (200, text("in_progress"))),
        (failure("500 Oh"), (503, error)),
    ] {
        let origin = Origin::start().await;
        origin.next(first);
        origin.always(failure("503 Busy"));
        let gateway = Gateway::start(&origin, "").await;
        let (answer, took) = wait(&gateway, "wait=1").await;
        assert_eq!((answer.status, answer.text()), expected);
        assert!(took >= Duration::from_millis(900), "{took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert!(origin.count() > 3, "it polled {} times", origin.count());
    }
}

#[tokio::test]
async fn a_wait_that_never_reached_the_upstream_ends_with_that_error() {
    let origin = Origin::start().await;
    origin.always(nonsense());
    let gateway = Gateway::start(&origin, "").await;
    let (answer, took) = wait(&gateway, "wait=2").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.code().as_deref(), Some("upstream_invalid"));
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    assert!(origin.count() >= 2, "it polled {} times", origin.count());
}

#[tokio::test]
async fn a_failure_that_will_not_pass_is_answered_at_once() {
    for status in [
        "400 Bad",
        "401 Who",
        "403 No",
        "404 Not Found",
        "410 Gone",
        "412 Budget",
    ] {
        let origin = Origin::start().await;
        origin.next(poll_after("50"));
        origin.next(failure(status));
        let gateway = Gateway::start(&origin, "").await;
        let (answer, took) = wait(&gateway, "wait=60").await;
        assert!(
            status.starts_with(&answer.status.to_string()),
            "{status}: {}",
            answer.status
        );
        assert_eq!(answer.text(), "{\"error\": {}}", "{status}");
        assert!(took < Duration::from_secs(2), "{status}: {took:?}");
        assert_eq!(origin.count(), 2, "{status}");
    }
}

#[tokio::test]
async fn a_wait_respects_a_hold() {
    let origin = Origin::start().await;
    let held = [("retry-after-ms", "1500"), ("openai-poll-after-ms", "50")];
    origin.next(vec![Act::Send(respond("429 Often", &held, "{}"))]);
    let gateway = Gateway::start(&origin, "").await;
    let (answer, took) = wait(&gateway, "wait=30").await;
    assert_eq!((answer.status, answer.text()), (200, text("completed")));
    assert!(took >= Duration::from_millis(1400), "{took:?}");
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn catalogue_41_a_step_that_fails_upstream_ends_the_wait() {
    for status in ["failed", "cancelled", "expired"] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        let mut waiter = waiter_with_a_body(&origin, &gateway).await;
        origin.always(vec![Act::Step(status)]);
        assert_eq!(waiter.answer().await.text(), text(status));
        let after = origin.count();
        sleep(Duration::from_millis(500)).await;
        assert_eq!(origin.count(), after, "{status}: nobody polls on");
    }
}

#[tokio::test]
async fn catalogue_41_when_the_last_who_waits_leaves_the_polling_stops() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let first = waiter_with_a_body(&origin, &gateway).await;
    let second = gateway.question(STEP, &LONG).await;
    gateway.has_read_all().await;
    drop(first);
    gateway.has_open(1).await;
    origin.arrived(origin.count() + 5).await;
    drop(second);
    gateway.has_open(0).await;
    // What was in the air may have arrived since.
    let left = origin.count() + 1;
    sleep(Duration::from_secs(1)).await;
    assert!(origin.count() <= left, "{} after {left}", origin.count());
    assert_eq!(gateway.metric("stepgate_waiters").await, 0.0);
}

#[tokio::test]
async fn catalogue_41_a_caller_that_leaves_during_a_poll_takes_it_along() {
    let origin = Origin::start().await;
    origin.always(vec![Act::Hold]);
    let gateway = Gateway::start(&origin, "").await;
    let waiter = gateway.question(STEP, &LONG).await;
    origin.arrived(1).await;
    drop(waiter);
    origin.abandoned(1).await;
    gateway.has_open(0).await;
    assert_eq!(gateway.metric("stepgate_in_flight").await, 0.0);
}

#[tokio::test]
async fn catalogue_41_a_drain_answers_with_the_latest_body() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut waiter = waiter_with_a_body(&origin, &gateway).await;
    let start = Instant::now();
    let (answer, ()) = tokio::join!(waiter.answer(), gateway.drain());
    assert_eq!((answer.status, answer.text()), (200, text("in_progress")));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn catalogue_41_a_drain_answers_503_where_there_is_no_body_yet() {
    let origin = Origin::start().await;
    origin.always(vec![Act::Hold]);
    let gateway = Gateway::start(&origin, "").await;
    let mut waiter = gateway.question(STEP, &LONG).await;
    origin.arrived(1).await;
    let start = Instant::now();
    let (answer, ()) = tokio::join!(waiter.answer(), gateway.drain());
    assert_eq!(answer.status, 503);
    assert_eq!(answer.code().as_deref(), Some("draining"));
    let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(retry_after >= 1);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    origin.abandoned(1).await;
}
