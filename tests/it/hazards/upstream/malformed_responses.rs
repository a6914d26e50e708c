//! Truncated, malformed and endless responses, resets and error statuses (items 21, 22, 26, 28 to 31).

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Action, Gateway, Origin, STEP, body, respond};

/// A short deadline for fetches.
const SHORT: &str = "[upstream]\ntimeout = \"400ms\"\n";

/// Returns a 200 whose framing is given by `headers`.
fn framed(headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    respond("200 OK", headers, body)
}

async fn assert_error(gateway: &Gateway, status: u16, code: &str, what: &str) {
    let response = gateway.get(STEP).await;
    assert_eq!(response.status, status, "{what}");
    assert_eq!(response.code().as_deref(), Some(code), "{what}");
    assert_eq!(response.header("content-type"), Some("application/json"));
}

/// Asserts that nothing was stored: the next request is a fetch, and is stored.
async fn assert_nothing_was_stored(gateway: &Gateway, what: &str) {
    let response = gateway.get(STEP).await;
    assert_eq!((response.status, response.is_hit()), (200, false), "{what}");
    assert_eq!(response.body, body("completed"), "{what}");
    assert!(gateway.get(STEP).await.is_hit(), "{what}");
}

#[tokio::test]
async fn c21_truncated_body_is_an_error_and_never_stored() {
    let whole = body("completed");
    let longer = (whole.len() + 1).to_string();
    let chunked = [("transfer-encoding", "chunked")];
    let chunk = [format!("{:x}\r\n", whole.len()).as_bytes(), &whole, b"\r\n"].concat();
    for (what, response) in [
        (
            "one byte short",
            framed(&[("content-length", &longer)], &whole),
        ),
        ("no last chunk", framed(&chunked, &chunk)),
        (
            "half a last chunk",
            framed(&chunked, [&chunk[..], b"0\r\n"].concat()),
        ),
        ("half a chunk", framed(&chunked, &chunk[..chunk.len() / 2])),
        (
            "a bad chunk size",
            framed(&chunked, [&chunk[..], b"zz\r\n"].concat()),
        ),
        ("no body at all", framed(&[("content-length", "9")], "")),
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        origin.next(vec![Action::Send(response), Action::Close]);
        assert_error(&gateway, 502, "upstream_invalid", what).await;
        assert_nothing_was_stored(&gateway, what).await;
    }
}

#[tokio::test]
async fn c21_truncated_streamed_body_is_truncated_for_the_client() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "[cache]\nmax_entry_bytes = \"4KiB\"\n").await;
    let large = " ".repeat(64 * 1024);
    for headers in [
        ("content-length", "65537"),
        ("transfer-encoding", "chunked"),
    ] {
        let bytes = match headers.0 {
            "content-length" => framed(&[headers], &large),
            _ => framed(&[headers], format!("10000\r\n{large}\r\n")),
        };
        origin.next(vec![Action::Send(bytes), Action::Close]);
        // If the gateway sees the truncation before it has sent its head, it answers 502.
        match gateway.try_request("GET", STEP, &[]).await {
            Ok(response) => assert_eq!(response.status, 502, "{headers:?}"),
            Err(broken) => assert_eq!(broken.status, Some(200), "{broken}"),
        }
    }
    assert_nothing_was_stored(&gateway, "streams").await;
}

#[tokio::test]
async fn c22_malformed_response_head_is_a_502() {
    for head in [
        "HTTP/1.1 200 OK\r\nX-A: a\rb\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nX-A: a\nb c\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}}",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n{}}",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "ICY 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "{\"status\": \"completed\"}\r\n\r\n",
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        origin.next(vec![Action::Send(head.into()), Action::Close]);
        assert_error(&gateway, 502, "upstream_invalid", head).await;
        assert_nothing_was_stored(&gateway, head).await;
    }
}

#[tokio::test]
async fn c30_interim_responses_before_a_long_head_are_accepted() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let long = "x".repeat(1000);
    let names: Vec<String> = (0..60).map(|n| format!("x-long-{n}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (&**name, &*long)).collect();
    let early = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100);
    let response = respond("200 OK", &headers, body("completed"));
    origin.next(vec![Action::Send([early.as_bytes(), &response].concat())]);
    let response = gateway.get(STEP).await;
    assert_eq!(
        (response.status, response.body.clone()),
        (200, body("completed"))
    );
    assert_eq!(response.header("x-long-59"), Some(&*long));
}

#[tokio::test]
async fn c22_unsolicited_304_is_a_502_and_validates_nothing() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    origin.next(vec![Action::Send(respond(
        "304 Not Modified",
        &[("ETag", "\"x\"")],
        "",
    ))]);
    let response = gateway.get_with(STEP, &[("If-None-Match", "\"x\"")]).await;
    assert_eq!(response.status, 502);
    assert_eq!(response.code().as_deref(), Some("upstream_invalid"));
    assert_nothing_was_stored(&gateway, "304").await;
}

#[tokio::test]
async fn c22_unsolicited_101_is_a_502_and_opens_no_tunnel() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello";
    origin.next(vec![Action::Send(switch.into())]);
    assert_error(&gateway, 502, "upstream_invalid", "101").await;
    assert_nothing_was_stored(&gateway, "101").await;
}

#[tokio::test]
async fn c26_endless_body_is_cut_at_the_deadline() {
    let origin = Origin::start().await;
    // A small max_entry_bytes: the gateway streams to the client well before the deadline.
    let toml = "[upstream]\ntimeout = \"2s\"\n[cache]\nmax_entry_bytes = \"4KiB\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    let head = framed(&[("transfer-encoding", "chunked")], "");
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    origin.always(vec![
        Action::Send(head),
        Action::Flood(chunk.into(), Duration::from_millis(1)),
    ]);
    let broken = gateway.try_request("GET", STEP, &[]).await.unwrap_err();
    assert_eq!(broken.status, Some(200), "{broken}");
}

#[tokio::test]
async fn c28_error_status_with_a_terminal_body_passes_through_unstored() {
    // With the Retry-After gate disabled, each request reaches the upstream.
    let toml = "[upstream]\nmax_retry_after = \"0s\"\n";
    for status in [
        "400 Bad",
        "401 No",
        "404 Gone?",
        "408 Late",
        "409 Both",
        "410 Gone",
        "412 Budget",
        "429 Slow",
        "500 Oh",
        "502 Bad",
        "503 Busy",
        "504 Late",
        "201 Made",
        "203 Other",
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, toml).await;
        let headers = [
            ("retry-after", "7"),
            ("retry-after-ms", "6500"),
            ("x-should-retry", "true"),
            ("openai-poll-after-ms", "900"),
            ("x-request-id", "req_upstream"),
        ];
        origin.always(vec![Action::Send(respond(
            status,
            &headers,
            body("completed"),
        ))]);
        for _ in 0..2 {
            let response = gateway.get(STEP).await;
            assert_eq!(response.status.to_string(), status[..3]);
            assert_eq!(response.body, body("completed"), "{status}");
            for (name, value) in headers {
                assert_eq!(response.header(name), Some(value), "{status}: {name}");
            }
            let expected = format!("stepgate; fwd=uri-miss; fwd-status={}", &status[..3]);
            let cache_status = response.cache_status();
            assert!(cache_status.starts_with(&expected), "{cache_status}");
            assert!(cache_status.contains("detail=bad_status"), "{cache_status}");
        }
        assert_eq!(origin.count(), 2, "{status}");
    }
}

#[tokio::test]
async fn c29_set_cookie_and_per_response_headers_are_never_replayed_from_the_cache() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("set-cookie", "__cf_bm=a; path=/"),
        ("x-ratelimit-remaining-requests", "12"),
        ("x-request-id", "req_upstream"),
        ("openai-processing-ms", "40"),
        ("openai-organization", "org_1"),
        ("cf-ray", "8a"),
    ];
    origin.next(vec![Action::Send(respond(
        "200 OK",
        &headers,
        body("completed"),
    ))]);
    let fetched = gateway.get(STEP).await;
    let hit = gateway.get(STEP).await;
    assert!(fetched.is_stored() && hit.is_hit());
    assert_eq!(fetched.header("set-cookie"), None);
    assert_eq!(fetched.header("x-request-id"), Some("req_upstream"));
    assert_eq!(
        hit.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    for (name, _) in &headers[1..] {
        assert_eq!(hit.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn c30_slow_drip_or_1xx_flood_is_a_504_at_the_deadline() {
    let pace = Duration::from_millis(20);
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    let whole = respond("200 OK", &[], body("completed"));
    let head_end = whole.len() - body("completed").len();
    let dripped_body = vec![
        Action::Send(whole[..head_end].to_vec()),
        Action::Drip(whole[head_end..].to_vec(), pace),
    ];
    for (what, script) in [
        (
            "interim answers",
            vec![Action::Flood(interim, Duration::from_millis(1))],
        ),
        ("a dripped head", vec![Action::Drip(whole, pace)]),
        ("a dripped body", dripped_body),
        ("silence", vec![Action::Stall]),
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, SHORT).await;
        origin.next(script);
        let start = Instant::now();
        let response = gateway.get(STEP).await;
        let took = start.elapsed();
        assert_eq!(response.status, 504, "{what}");
        assert_eq!(
            response.code().as_deref(),
            Some("upstream_timeout"),
            "{what}"
        );
        assert!(took >= Duration::from_millis(390), "{what}: {took:?}");
        assert!(took < Duration::from_secs(3), "{what}: {took:?}");
        assert_nothing_was_stored(&gateway, what).await;
    }
}

#[tokio::test]
async fn c31_connection_reset_is_a_502() {
    let whole = respond("200 OK", &[], body("completed"));
    for (what, script) in [
        ("before the head", vec![Action::Reset]),
        (
            "in the head",
            vec![Action::Send(whole[..20].to_vec()), Action::Reset],
        ),
        (
            "in the body",
            vec![
                Action::Send(whole[..whole.len() - 9].to_vec()),
                Action::Reset,
            ],
        ),
        ("a close before the head", vec![Action::Close]),
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        origin.next(script);
        let response = gateway.get(STEP).await;
        assert_eq!(response.status, 502, "{what}");
        let codes = [Some("upstream_unreachable"), Some("upstream_invalid")];
        assert!(codes.contains(&response.code().as_deref()), "{what}");
        assert_eq!(
            origin.count(),
            1,
            "a fresh connection is not tried again: {what}"
        );
        assert_nothing_was_stored(&gateway, what).await;
    }
}
