//! Invalidation (RFC 9111 section 4.4): a forwarded request that changes a resource purges its entries.

use super::ALL;
use crate::support::client::head;
use crate::support::{Action, Gateway, Latch, Origin, STEP, respond, until};

const OTHER: &str = "/v1/threads/thread_2/runs/run_1/steps/step_1";
const THREAD: &str = "/v1/threads/thread_1";

async fn with_two_stored() -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, ALL).await;
    for path in [STEP, OTHER] {
        assert!(gateway.get(path).await.is_stored());
    }
    // The next forwarded request then finds an idle connection.
    assert_eq!(gateway.get("/v1/models").await.status, 200);
    (origin, gateway)
}

#[tokio::test]
async fn deleting_a_thread_invalidates_its_steps() {
    let (origin, gateway) = with_two_stored().await;
    for (method, path) in [
        ("DELETE", THREAD.to_owned()),
        ("POST", THREAD.to_owned()),
        ("POST", format!("{THREAD}/runs/run_1")),
        ("DELETE", STEP.to_owned()),
        ("DELETE", "/v1/threads/%74hread_1/".to_owned()),
        ("DELETE", format!("{THREAD}/runs")),
    ] {
        assert_eq!(gateway.request(method, &path, &[]).await.status, 200);
        let fetches = origin.count();
        assert!(!gateway.get(STEP).await.is_hit(), "{method} {path}");
        assert!(gateway.get(OTHER).await.is_hit(), "{method} {path}");
        assert_eq!(origin.count(), fetches + 1);
    }
}

#[tokio::test]
async fn safe_or_failed_requests_invalidate_nothing() {
    let (origin, gateway) = with_two_stored().await;
    for (method, path) in [
        ("GET", THREAD.to_owned()),
        ("POST", "/v1/threads".to_owned()),
        ("POST", format!("{THREAD}/runs")),
        ("POST", format!("{THREAD}/messages")),
        ("POST", format!("{THREAD}/runs/run_1/cancel")),
        ("DELETE", "/v1/threads/thread_3".to_owned()),
    ] {
        assert_eq!(gateway.request(method, &path, &[]).await.status, 200);
        assert!(gateway.get(STEP).await.is_hit(), "{method} {path}");
    }
    for status in ["404 Not Found", "500 Oh", "302 Found"] {
        origin.next(vec![Action::Send(respond(status, &[], ""))]);
        gateway.request("DELETE", THREAD, &[]).await;
        assert!(gateway.get(STEP).await.is_hit(), "{status}");
    }
}

#[tokio::test]
async fn a_fetch_started_before_an_invalidation_stores_nothing() {
    let (origin, gateway) = with_two_stored().await;
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let path = "/v1/threads/thread_1/runs/run_1/steps/step_2";
    let mut client = gateway.send_get(path, &[]).await;
    origin.wait_for_requests(4).await;
    assert_eq!(gateway.request("DELETE", THREAD, &[]).await.status, 200);
    gate.open();
    let response = client.response().await;
    assert!(
        response.cache_status().ends_with("detail=purged"),
        "{}",
        response.cache_status()
    );
    assert!(!gateway.get(path).await.is_hit());
}

#[tokio::test]
async fn an_unsafe_request_without_a_response_invalidates() {
    let (origin, gateway) = with_two_stored().await;
    // The connection is lost twice.
    origin.next(vec![Action::Cut]);
    origin.next(vec![Action::Cut]);
    assert_eq!(gateway.request("DELETE", THREAD, &[]).await.status, 502);
    // The purge precedes the error, because the client may know that its request was processed.
    assert!(!gateway.get(STEP).await.is_hit());
    assert!(gateway.get(STEP).await.is_hit());
    // The client disconnects.
    let before = origin.count();
    origin.next(vec![Action::Stall]);
    let mut leaving = gateway.connect().await;
    leaving.send(head("DELETE", THREAD, "127.0.0.1", &[])).await;
    origin.wait_for_requests(before + 1).await;
    drop(leaving);
    origin.wait_for_hangups(1).await;
    until("the step to be forgotten", async || {
        !gateway.get(STEP).await.is_hit()
    })
    .await;
}

#[tokio::test]
async fn a_request_on_a_collection_invalidates_nothing() {
    let (origin, gateway) = with_two_stored().await;
    origin.next(vec![Action::Cut]);
    origin.next(vec![Action::Cut]);
    let response = gateway.request("DELETE", "/v1/threads", &[]).await;
    assert_eq!(response.status, 502);
    for path in [STEP, OTHER] {
        assert!(gateway.get(path).await.is_hit(), "{path}");
    }
    assert_eq!(
        gateway.request("DELETE", "/v1/threads", &[]).await.status,
        200
    );
    for path in [STEP, OTHER] {
        assert!(!gateway.get(path).await.is_hit(), "{path}");
    }
}

#[tokio::test]
async fn a_retried_unsafe_request_invalidates_whatever_its_second_response_says() {
    let (origin, gateway) = with_two_stored().await;
    for method in ["DELETE", "PUT"] {
        // A used connection is lost, so the request goes out again on a new one and finds nothing.
        origin.next(vec![Action::Cut]);
        origin.next(vec![Action::Send(respond("404 Gone", &[], "{}"))]);
        let before = origin.count();
        assert_eq!(gateway.request(method, THREAD, &[]).await.status, 404);
        assert_eq!(origin.count(), before + 2);
        assert!(!gateway.get(STEP).await.is_hit(), "{method}");
        assert!(gateway.get(OTHER).await.is_hit(), "{method}");
    }
}

#[tokio::test]
async fn a_request_that_was_never_sent_invalidates_nothing() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, ALL).await;
    assert!(gateway.get(STEP).await.is_stored());
    drop(origin);
    let response = gateway.request("DELETE", THREAD, &[]).await;
    assert_eq!(response.code().as_deref(), Some("upstream_unreachable"));
    assert!(gateway.get(STEP).await.is_hit());
}
