//! What can be wrong with a request's framing, and that nothing of it reaches the upstream. Paths and
//! queries are in `paths`.

mod paths;

use std::net::SocketAddr;

use crate::support::client::head;
use crate::support::hyper_server::HyperServer;
use crate::support::{Gateway, Origin, RawClient, STEP, client::Response, step};

/// A request that must never be read as one: it hides where a body is, or should be.
fn hidden() -> String {
    head("GET", &step("hidden"), "127.0.0.1", &[])
}

/// Asks openly for something the gateway knows itself, and for the end of the connection.
fn probe() -> String {
    head("GET", "/probe", "127.0.0.1", &[("Connection", "close")])
}

/// Sends `bytes` and then the probe; every answer up to the end of the connection.
async fn answers(gateway: &Gateway, bytes: &[u8]) -> Vec<Response> {
    let mut raw = gateway.connect().await;
    raw.send(bytes).await;
    raw.send(probe()).await;
    raw.responses().await
}

fn assert_nothing_hidden_was_fetched(origin: &Origin, what: &str) {
    for request in origin.requests() {
        assert!(!request.text().contains("hidden"), "{what}: {request:?}");
    }
}

fn with_headers(lines: &str, body: &str) -> String {
    format!("GET {STEP} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n{body}")
}

#[tokio::test]
async fn c01_after_a_length_and_a_chunked_coding_together_nothing_is_a_request() {
    let body = format!("0\r\n\r\n{}", hidden());
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n".to_owned(),
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n",
            body.len()
        ),
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        let answers = answers(&gateway, with_headers(&lines, &body).as_bytes()).await;
        assert_eq!(answers.len(), 1, "{lines}: {answers:?}");
        assert!([200, 400].contains(&answers[0].status), "{lines}");
        assert_nothing_hidden_was_fetched(&origin, &lines);
    }
}

#[tokio::test]
async fn c02_the_body_of_a_get_is_never_a_request() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let hidden = hidden();
    let length = format!("Content-Length: {}\r\n", hidden.len());
    let chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    // The first is a fetch, the others are hits.
    for (lines, body) in [
        (length.as_str(), &hidden),
        (length.as_str(), &hidden),
        ("Transfer-Encoding: chunked\r\n", &chunk),
    ] {
        let answers = answers(&gateway, with_headers(lines, body).as_bytes()).await;
        let statuses: Vec<u16> = answers.iter().map(|a| a.status).collect();
        let one_answer_each = [&[200, 404][..], &[200], &[400, 404], &[400]];
        assert!(
            one_answer_each.contains(&&*statuses),
            "{lines}: {statuses:?}"
        );
        assert_nothing_hidden_was_fetched(&origin, lines);
    }
}

#[tokio::test]
async fn c02_the_body_of_a_get_does_not_go_up() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    answers(
        &gateway,
        with_headers("Content-Length: 4\r\n", "body").as_bytes(),
    )
    .await;
    for request in origin.requests() {
        assert!(request.all("content-length").iter().all(|l| l == "0"));
        assert!(request.all("transfer-encoding").is_empty());
    }
}

#[tokio::test]
async fn c03_an_upgrade_opens_no_tunnel() {
    for upgrade in [
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        let answers = answers(&gateway, with_headers(upgrade, "").as_bytes()).await;
        assert!([200, 400].contains(&answers[0].status), "{upgrade}");
        let after = answers.get(1).map(|a| a.status);
        assert!([None, Some(404)].contains(&after), "{upgrade}: {after:?}");
        for request in origin.requests() {
            assert!(request.all("upgrade").is_empty(), "{upgrade}");
            assert!(request.all("http2-settings").is_empty(), "{upgrade}");
        }
    }
}

#[tokio::test]
async fn c04_lengths_that_are_not_lengths_are_refused() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for lines in [
        "Content-Length: +1\r\n",
        "Content-Length: 0x10\r\n",
        "Content-Length:\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 1, 2\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 99999999999999999999999\r\n",
    ] {
        let answers = answers(&gateway, with_headers(lines, "x").as_bytes()).await;
        let statuses: Vec<u16> = answers.iter().map(|a| a.status).collect();
        assert_eq!(statuses, [400], "{lines}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c04_http_1_0_has_no_transfer_encoding() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let request = format!(
        "GET {STEP} HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
        hidden()
    );
    let answers = answers(&gateway, request.as_bytes()).await;
    assert_eq!((answers.len(), answers[0].status), (1, 400));
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c05_after_a_transfer_coding_in_doubt_nothing_is_a_request() {
    let end = format!("0\r\n\r\n{}", hidden());
    let chunk = |size: &str| format!("{size}\r\nx\r\n{end}");
    for (coding, body) in [
        (",chunked", end.clone()),
        ("chunked, chunked", end.clone()),
        ("chunked\r\nTransfer-Encoding: chunked", end.clone()),
        ("identity, chunked", end.clone()),
        ("chunked, gzip", end.clone()),
        ("xchunked", end.clone()),
        ("\x0bchunked", end.clone()),
        ("chunked", chunk("-1")),
        ("chunked", chunk("0x1")),
        ("chunked", chunk("1g")),
        ("chunked", chunk("")),
        ("chunked", chunk("10000000000000001")),
        ("chunked", format!("1\r\nxx\r\n{end}")),
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        let lines = format!("Transfer-Encoding: {coding}\r\n");
        let what = format!("{lines}{body}");
        let answers = answers(&gateway, with_headers(&lines, &body).as_bytes()).await;
        assert!(answers.len() < 2, "{what}: {answers:?}");
        assert_nothing_hidden_was_fetched(&origin, &what);
    }
}

#[tokio::test]
async fn c06_heads_that_are_read_differently_elsewhere_are_refused() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for lines in [
        "X-A: a\0b\r\n",
        "X-A: a\rb\r\n",
        "X-A : a\r\n",
        "X\0A: a\r\n",
        " X-A: a\r\n",
        "X-A\r\n",
        ": a\r\n",
    ] {
        let answers = answers(&gateway, with_headers(lines, "").as_bytes()).await;
        assert_eq!((answers.len(), answers[0].status), (1, 400), "{lines:?}");
    }
    assert_eq!(origin.count(), 0);
}

/// None, and two.
const NOT_ONE_HOST: [&str; 2] = ["", "Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n"];

async fn answer_with_hosts(address: SocketAddr, hosts: &str) -> Response {
    let mut raw = RawClient::connect(address).await;
    let close = "Connection: close\r\n";
    raw.send(format!("GET {STEP} HTTP/1.1\r\n{hosts}{close}\r\n"))
        .await;
    raw.response().await
}

#[tokio::test]
async fn c07_exactly_one_host_is_needed() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for hosts in NOT_ONE_HOST {
        let answer = answer_with_hosts(gateway.address(), hosts).await;
        assert_eq!(answer.status, 400, "{hosts}");
        assert_eq!(answer.code().as_deref(), Some("invalid_request"), "{hosts}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c07_an_open_listener_answers_nobody_who_names_no_host() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut raw = gateway.connect().await;
    raw.send(format!("GET {STEP} HTTP/1.0\r\n\r\n")).await;
    let answer = raw.response().await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.code().as_deref(), Some("forbidden_origin"));
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c07_hyper_alone_asks_for_no_host() {
    let bare = HyperServer::start().await;
    for hosts in NOT_ONE_HOST {
        let answer = answer_with_hosts(bare.address, hosts).await;
        assert_eq!(answer.status, 200, "{hosts}");
    }
}

#[tokio::test]
async fn c08_the_host_of_an_absolute_target_is_never_dialled() {
    let origin = Origin::start().await;
    let other = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for authority in [other.address.to_string(), format!("a@{}", other.address)] {
        let mut raw = gateway.connect().await;
        let target = format!("http://{authority}{STEP}");
        raw.send(head("GET", &target, &gateway.address().to_string(), &[]))
            .await;
        let answer = raw.response().await;
        assert!([200, 400, 403].contains(&answer.status), "{target}");
    }
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn c09_connect_opens_no_tunnel() {
    let origin = Origin::start().await;
    let other = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let target = other.address.to_string();
    let mut raw = gateway.connect().await;
    raw.send(head("CONNECT", &target, &target, &[])).await;
    assert_eq!(raw.response().await.status, 405);
    raw.send(probe()).await;
    raw.rest().await;
    assert_eq!((origin.count(), other.connections()), (0, 0));
}

#[tokio::test]
async fn c09_hyper_alone_opens_a_tunnel() {
    let bare = HyperServer::start().await;
    let mut raw = RawClient::connect(bare.address).await;
    raw.send(head("CONNECT", "127.0.0.1:1", "127.0.0.1:1", &[]))
        .await;
    // What follows the head of this answer is the tunnel's.
    assert_eq!(raw.response_to("HEAD").await.status, 200);
}

#[tokio::test]
async fn c09_other_methods_on_a_rules_path_are_refused_with_the_allowed_ones() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for path in [STEP, crate::support::LIST] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            let answer = gateway.request(method, path, &[]).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.code().as_deref(), Some("method_not_allowed"));
            assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c09_options_for_the_whole_server_is_refused() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let answer = gateway.request("OPTIONS", "*", &[]).await;
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c10_heads_beyond_measure_are_refused() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let many: String = (0..101).map(|i| format!("x-{i}: a\r\n")).collect();
    let large = format!("x-large: {}\r\n", "a".repeat(500 * 1024));
    let long = format!("{STEP}?include[]={}", "a".repeat(70 * 1024));
    for (request, status) in [
        (with_headers(&many, ""), 431),
        (with_headers(&large, ""), 431),
        (head("GET", &long, "127.0.0.1", &[]), 414),
    ] {
        let mut raw = gateway.connect().await;
        raw.send(request).await;
        assert_eq!(raw.response().await.status, status);
    }
    assert_eq!(origin.count(), 0);
}
