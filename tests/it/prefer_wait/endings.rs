//! Failures and 429s during a long poll. Disconnects and drains are in `hazards::sharing::long_polls`.

use std::time::Duration;

use super::wait;
use crate::support::{Action, Gateway, Origin, poll_after, respond, text};

/// Returns an error response that asks for the next poll after 50 ms.
fn failure(status: &str) -> Vec<Action> {
    let soon = [("openai-poll-after-ms", "50")];
    vec![Action::Send(respond(status, &soon, "{\"error\": {}}"))]
}

fn malformed() -> Vec<Action> {
    vec![Action::Send(b"nonsense\r\n\r\n".to_vec()), Action::Close]
}

#[tokio::test]
async fn transient_failures_do_not_end_a_long_poll() {
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
    origin.next(malformed());
    let gateway = Gateway::start(&origin, "").await;
    let (response, _) = wait(&gateway, "wait=60").await;
    assert_eq!((response.status, response.text()), (200, text("completed")));
    assert_eq!(origin.count(), 9);
}

#[tokio::test]
async fn a_long_poll_that_keeps_failing_returns_the_latest_body_or_the_failure() {
    let error = "{\"error\": {}}".to_owned();
    for (first, expected) in [
        (poll_after("50"), (200, text("in_progress"))),
        (failure("500 Oh"), (503, error)),
    ] {
        let origin = Origin::start().await;
        origin.next(first);
        origin.always(failure("503 Busy"));
        let gateway = Gateway::start(&origin, "").await;
        let (response, took) = wait(&gateway, "wait=1").await;
        assert_eq!((response.status, response.text()), expected);
        assert!(took >= Duration::from_millis(900), "{took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert!(origin.count() > 3, "it polled {} times", origin.count());
    }
}

#[tokio::test]
async fn a_long_poll_that_never_reached_the_upstream_returns_that_error() {
    let origin = Origin::start().await;
    origin.always(malformed());
    let gateway = Gateway::start(&origin, "").await;
    let (response, took) = wait(&gateway, "wait=2").await;
    assert_eq!(response.status, 502);
    assert_eq!(response.code().as_deref(), Some("upstream_invalid"));
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    assert!(origin.count() >= 2, "it polled {} times", origin.count());
}

#[tokio::test]
async fn a_permanent_failure_ends_a_long_poll_at_once() {
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
        let (response, took) = wait(&gateway, "wait=60").await;
        assert!(
            status.starts_with(&response.status.to_string()),
            "{status}: {}",
            response.status
        );
        assert_eq!(response.text(), "{\"error\": {}}", "{status}");
        assert!(took < Duration::from_secs(2), "{status}: {took:?}");
        assert_eq!(origin.count(), 2, "{status}");
    }
}

#[tokio::test]
async fn a_long_poll_respects_retry_after() {
    let origin = Origin::start().await;
    let retry_after = [("retry-after-ms", "1500"), ("openai-poll-after-ms", "50")];
    origin.next(vec![Action::Send(respond("429 Often", &retry_after, "{}"))]);
    let gateway = Gateway::start(&origin, "").await;
    let (response, took) = wait(&gateway, "wait=30").await;
    assert_eq!((response.status, response.text()), (200, text("completed")));
    assert!(took >= Duration::from_millis(1400), "{took:?}");
    assert_eq!(origin.count(), 2);
}
