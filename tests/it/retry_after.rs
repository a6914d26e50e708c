//! The shared hold: what an upstream's 429 means for everybody in its partition (DESIGN section 6).

mod ending;

use tokio::time::Instant;

use crate::support::gateway::{BILLING_TOKEN, SUPPORT_TOKEN, TWO_CLIENTS};
use crate::support::{
    Action, Gateway, LIST, Origin, STEP, client::Response, respond, step, text, until,
};

const ERROR: &str = r#"{"error": {"message": "slow down", "type": "requests", "code": null}}"#;

/// A 429 that says so, with an id of its own.
fn too_many(headers: &[(&str, &str)]) -> Vec<Action> {
    let headers = [headers, &[("x-request-id", "req_429")]].concat();
    vec![Action::Send(respond(
        "429 Too Many Requests",
        &headers,
        ERROR,
    ))]
}

/// A gateway whose upstream has just said 429 to the poll of a step of its own, and when.
async fn held(origin: &Origin, toml: &str, headers: &[(&str, &str)]) -> (Gateway, Instant) {
    let gateway = Gateway::start(origin, toml).await;
    origin.next(too_many(headers));
    let at = Instant::now();
    let answer = gateway.get(&step("held")).await;
    assert_eq!((answer.status, answer.text()), (429, ERROR.to_owned()));
    for (name, value) in headers {
        assert_eq!(answer.header(name), Some(*value), "untouched");
    }
    assert_eq!(answer.header("x-request-id"), Some("req_429"));
    (gateway, at)
}

/// That a 429 is the hold's: its seconds, and nothing of the request that it came from.
fn assert_held(answer: &Response, seconds: &[&str]) {
    assert_eq!((answer.status, answer.text()), (429, ERROR.to_owned()));
    let retry_after = answer.header("retry-after").expect("the remaining seconds");
    assert!(
        seconds.contains(&retry_after),
        "{retry_after} of {seconds:?}"
    );
    assert_eq!(answer.header("x-request-id"), None);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    // The SDKs believe this one first: it must not outlast the other.
    if let Some(milliseconds) = answer.header("retry-after-ms") {
        let (most, rest): (u64, u64) =
            (retry_after.parse().unwrap(), milliseconds.parse().unwrap());
        assert!(rest <= most * 1000, "{rest} ms, {most} s");
    }
}

#[tokio::test]
async fn a_429_with_retry_after_blocks_the_whole_partition() {
    for headers in [[("retry-after", "2")], [("retry-after-ms", "1500")]] {
        let origin = Origin::start().await;
        let (gateway, _) = held(&origin, "", &headers).await;
        assert_held(&gateway.get(STEP).await, &["2"]);
        let variant = format!("{STEP}?include[]=a");
        let unknown = format!("{STEP}?unknown=a");
        for path in [&variant, &unknown, LIST, &step("held")] {
            assert_held(&gateway.get(path).await, &["2", "1"]);
        }
        let counts_down = async || {
            let answer = gateway.get(STEP).await;
            assert_held(&answer, &["2", "1"]);
            answer.header("retry-after") == Some("1")
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
    assert_eq!(gateway.get(&step("held")).await.status, 429);
    for _ in 0..3 {
        let hit = gateway.get(STEP).await;
        assert_eq!((hit.is_hit(), hit.text()), (true, text("completed")));
    }
    let no_cache = [("Cache-Control", "no-cache")];
    assert_held(&gateway.get_with(STEP, &no_cache).await, &["20", "19"]);
    assert!(gateway.get(STEP).await.is_hit(), "it is stored as before");
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn the_batch_in_flight_gets_the_429_and_the_pending_batch_is_rate_limited() {
    let origin = Origin::start().await;
    origin.next(too_many(&[("retry-after", "20")]));
    let toml = "[upstream]\ncoalesce_window = \"500ms\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    let mut first = gateway.send_get(STEP, &[]).await;
    let mut gather = Vec::new();
    for _ in 0..3 {
        gather.push(gateway.send_get(STEP, &[]).await);
    }
    assert_eq!(first.response().await.status, 429);
    for one in &mut gather {
        assert_held(&one.response().await, &["20", "19"]);
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
        let (gateway, _) = held(&origin, "", headers).await;
        for path in [&step("held"), STEP] {
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
        gateway.get(&step("held")).await;
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
    assert_held(
        &gateway.get_with(&step("other"), &billing).await,
        &["20", "19"],
    );
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn a_max_retry_after_of_zero_disables_the_gate() {
    let origin = Origin::start().await;
    let toml = "[upstream]\nmax_retry_after = \"0s\"\n";
    let (gateway, _) = held(&origin, toml, &[("retry-after", "20")]).await;
    assert_eq!(gateway.get(STEP).await.status, 200);
    assert_eq!(origin.count(), 2);
    assert_eq!(gateway.outcomes("rate_limited").await, 0.0);
}
