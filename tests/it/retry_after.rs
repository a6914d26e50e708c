//! The Retry-After gate: an upstream 429 blocks the fetches of its whole partition.

mod ending;

use tokio::time::Instant;

use crate::support::gateway::{BILLING_TOKEN, SUPPORT_TOKEN, TWO_CLIENTS};
use crate::support::{
    Action, Gateway, LIST, Origin, STEP, client::Response, respond, step, text, until,
};

const ERROR: &str = r#"{"error": {"message": "slow down", "type": "requests", "code": null}}"#;

/// Returns a 429 with these headers and a request id.
fn too_many(headers: &[(&str, &str)]) -> Vec<Action> {
    let headers = [headers, &[("x-request-id", "req_429")]].concat();
    vec![Action::Send(respond(
        "429 Too Many Requests",
        &headers,
        ERROR,
    ))]
}

/// Starts a gateway and polls the step `blocked`, which the upstream answers with a 429; returns when.
async fn blocked(origin: &Origin, toml: &str, headers: &[(&str, &str)]) -> (Gateway, Instant) {
    let gateway = Gateway::start(origin, toml).await;
    origin.next(too_many(headers));
    let at = Instant::now();
    let response = gateway.get(&step("blocked")).await;
    assert_eq!((response.status, response.text()), (429, ERROR.to_owned()));
    for (name, value) in headers {
        assert_eq!(response.header(name), Some(*value), "untouched");
    }
    assert_eq!(response.header("x-request-id"), Some("req_429"));
    (gateway, at)
}

/// Asserts that a 429 is the gate's: it has the remaining seconds, and no request id.
fn assert_rate_limited(response: &Response, seconds: &[&str]) {
    assert_eq!((response.status, response.text()), (429, ERROR.to_owned()));
    let retry_after = response
        .header("retry-after")
        .expect("the remaining seconds");
    assert!(
        seconds.contains(&retry_after),
        "{retry_after} of {seconds:?}"
    );
    assert_eq!(response.header("x-request-id"), None);
    assert_eq!(response.header("content-type"), Some("application/json"));
    // The SDKs prefer retry-after-ms, so it must not exceed retry-after.
    if let Some(milliseconds) = response.header("retry-after-ms") {
        let (most, remaining): (u64, u64) =
            (retry_after.parse().unwrap(), milliseconds.parse().unwrap());
        assert!(remaining <= most * 1000, "{remaining} ms, {most} s");
    }
}

#[tokio::test]
async fn a_429_with_retry_after_blocks_the_whole_partition() {
    for headers in [[("retry-after", "2")], [("retry-after-ms", "1500")]] {
        let origin = Origin::start().await;
        let (gateway, _) = blocked(&origin, "", &headers).await;
        assert_rate_limited(&gateway.get(STEP).await, &["2"]);
        let variant = format!("{STEP}?include[]=a");
        let unknown = format!("{STEP}?unknown=a");
        for path in [&variant, &unknown, LIST, &step("blocked")] {
            assert_rate_limited(&gateway.get(path).await, &["2", "1"]);
        }
        let counts_down = async || {
            let response = gateway.get(STEP).await;
            assert_rate_limited(&response, &["2", "1"]);
            response.header("retry-after") == Some("1")
        };
        until("the second of the last second", counts_down).await;
        assert_eq!(origin.count(), 1, "{headers:?}");
        assert!(gateway.outcomes("rate_limited").await >= 6.0);
        assert_eq!(gateway.outcomes("miss").await, 1.0);
    }
}

#[tokio::test]
async fn hits_are_served_while_fetches_are_blocked() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    assert!(gateway.get(STEP).await.is_stored());
    origin.next(too_many(&[("retry-after", "20")]));
    assert_eq!(gateway.get(&step("blocked")).await.status, 429);
    for _ in 0..3 {
        let hit = gateway.get(STEP).await;
        assert_eq!((hit.is_hit(), hit.text()), (true, text("completed")));
    }
    let no_cache = [("Cache-Control", "no-cache")];
    assert_rate_limited(&gateway.get_with(STEP, &no_cache).await, &["20", "19"]);
    assert!(gateway.get(STEP).await.is_hit(), "a hit was blocked");
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn the_batch_in_flight_gets_the_429_and_the_pending_batch_is_rate_limited() {
    let origin = Origin::start().await;
    origin.next(too_many(&[("retry-after", "20")]));
    let toml = "[upstream]\ncoalesce_window = \"500ms\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    let mut first = gateway.send_get(STEP, &[]).await;
    let mut pending = Vec::new();
    for _ in 0..3 {
        pending.push(gateway.send_get(STEP, &[]).await);
    }
    assert_eq!(first.response().await.status, 429);
    for one in &mut pending {
        assert_rate_limited(&one.response().await, &["20", "19"]);
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_429_without_retry_after_blocks_nothing() {
    for headers in [
        &[][..],
        &[("retry-after", "0")],
        &[("retry-after", "-5")],
        &[("retry-after", "soon")],
        &[("retry-after", "")],
        &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("retry-after-ms", "0")],
        &[("retry-after-ms", "x")],
        &[("x-should-retry", "true")],
    ] {
        let origin = Origin::start().await;
        let (gateway, _) = blocked(&origin, "", headers).await;
        for path in [&step("blocked"), STEP] {
            assert_eq!(gateway.get(path).await.status, 200, "{headers:?}: {path}");
        }
        assert_eq!(origin.count(), 3, "{headers:?}");
    }
}

#[tokio::test]
async fn retry_after_of_another_status_blocks_nothing() {
    for status in ["503 Busy", "500 Oh", "408 Slow", "403 No", "200 OK"] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        let bytes = respond(status, &[("retry-after", "20")], ERROR);
        origin.next(vec![Action::Send(bytes)]);
        gateway.get(&step("blocked")).await;
        assert_eq!(gateway.get(STEP).await.status, 200, "{status}");
        assert_eq!(origin.count(), 2, "{status}");
    }
}

#[tokio::test]
async fn another_partition_is_not_blocked() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, TWO_CLIENTS).await;
    let bearer = |token| format!("Bearer {token}");
    let (billing, support) = (bearer(BILLING_TOKEN), bearer(SUPPORT_TOKEN));
    let (billing, support) = (
        [("Authorization", &*billing)],
        [("Authorization", &*support)],
    );
    origin.next(too_many(&[("retry-after", "20")]));
    assert_eq!(gateway.get_with(STEP, &billing).await.status, 429);
    assert_eq!(gateway.get_with(STEP, &support).await.status, 200);
    assert_rate_limited(
        &gateway.get_with(&step("other"), &billing).await,
        &["20", "19"],
    );
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn a_max_retry_after_of_zero_disables_the_gate() {
    let origin = Origin::start().await;
    let toml = "[upstream]\nmax_retry_after = \"0s\"\n";
    let (gateway, _) = blocked(&origin, toml, &[("retry-after", "20")]).await;
    assert_eq!(gateway.get(STEP).await.status, 200);
    assert_eq!(origin.count(), 2);
    assert_eq!(gateway.outcomes("rate_limited").await, 0.0);
}
