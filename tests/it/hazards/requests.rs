//! Malformed and ambiguous requests (items 1 to 10): framing, Host, methods, sizes. Paths and queries
//! (items 11 to 13) are in `paths`.

mod paths;

use std::net::SocketAddr;

use crate::support::client::head;
use crate::support::hyper_server::HyperServer;
use crate::support::{Gateway, Origin, RawClient, STEP, client::Response, step};

/// Returns a request that must never be parsed as one: it is smuggled where a body is, or should be.
fn smuggled() -> String {
    head("GET", &step("smuggled"), "127.0.0.1", &[])
}

/// Returns a request that the gateway answers itself, with 404, and that closes the connection.
fn last_request() -> String {
    head("GET", "/last", "127.0.0.1", &[("Connection", "close")])
}

/// Sends `bytes` and then the last request; returns every response up to the end of the connection.
async fn responses(gateway: &Gateway, bytes: &[u8]) -> Vec<Response> {
    let mut client = gateway.connect().await;
    client.send(bytes).await;
    client.send(last_request()).await;
    client.responses().await
}

fn assert_not_smuggled(origin: &Origin, what: &str) {
    for request in origin.requests() {
        let text = request.text();
        assert!(!text.contains("smuggled"), "{what}: fetched {request:?}");
    }
}

fn with_headers(lines: &str, body: &str) -> String {
    format!("GET {STEP} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n{body}")
}

#[tokio::test]
async fn c01_request_smuggling_cl_te_nothing_after_it_is_a_request() {
    let body = format!("0\r\n\r\n{}", smuggled());
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
        let responses = responses(&gateway, with_headers(&lines, &body).as_bytes()).await;
        assert_eq!(responses.len(), 1, "{lines}: {responses:?}");
        assert!([200, 400].contains(&responses[0].status), "{lines}");
        assert_not_smuggled(&origin, &lines);
    }
}

#[tokio::test]
async fn c02_request_smuggling_fat_get_body_is_never_a_request() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let smuggled = smuggled();
    let length = format!("Content-Length: {}\r\n", smuggled.len());
    let chunk = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    // The first request is a fetch, the others are hits.
    for (lines, body) in [
        (length.as_str(), &smuggled),
        (length.as_str(), &smuggled),
        ("Transfer-Encoding: chunked\r\n", &chunk),
    ] {
        let responses = responses(&gateway, with_headers(lines, body).as_bytes()).await;
        let statuses: Vec<u16> = responses.iter().map(|a| a.status).collect();
        // One response for the GET, and at most one for the last request.
        let allowed = [&[200, 404][..], &[200], &[400, 404], &[400]];
        assert!(allowed.contains(&&*statuses), "{lines}: {statuses:?}");
        assert_not_smuggled(&origin, lines);
    }
}

#[tokio::test]
async fn c02_fat_get_body_is_not_sent_upstream() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    responses(
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
async fn c03_upgrade_smuggling_websocket_and_h2c_open_no_tunnel() {
    for upgrade in [
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        let responses = responses(&gateway, with_headers(upgrade, "").as_bytes()).await;
        assert!([200, 400].contains(&responses[0].status), "{upgrade}");
        let after = responses.get(1).map(|a| a.status);
        assert!([None, Some(404)].contains(&after), "{upgrade}: {after:?}");
        for request in origin.requests() {
            assert!(request.all("upgrade").is_empty(), "{upgrade}");
            assert!(request.all("http2-settings").is_empty(), "{upgrade}");
        }
    }
}

#[tokio::test]
async fn c04_request_smuggling_invalid_content_length_is_rejected() {
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
        let responses = responses(&gateway, with_headers(lines, "x").as_bytes()).await;
        let statuses: Vec<u16> = responses.iter().map(|a| a.status).collect();
        assert_eq!(statuses, [400], "{lines}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c04_request_smuggling_http_1_0_transfer_encoding_is_rejected() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let request = format!(
        "GET {STEP} HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
        smuggled()
    );
    let responses = responses(&gateway, request.as_bytes()).await;
    assert_eq!((responses.len(), responses[0].status), (1, 400));
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c05_request_smuggling_te_te_nothing_after_it_is_a_request() {
    let end = format!("0\r\n\r\n{}", smuggled());
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
        let responses = responses(&gateway, with_headers(&lines, &body).as_bytes()).await;
        assert!(responses.len() < 2, "{what}: {responses:?}");
        assert_not_smuggled(&origin, &what);
    }
}

#[tokio::test]
async fn c06_header_injection_nul_bare_cr_and_space_before_colon_are_rejected() {
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
        let responses = responses(&gateway, with_headers(lines, "").as_bytes()).await;
        assert_eq!(
            (responses.len(), responses[0].status),
            (1, 400),
            "{lines:?}"
        );
    }
    assert_eq!(origin.count(), 0);
}

/// No Host header, and two.
const NOT_ONE_HOST: [&str; 2] = ["", "Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n"];

async fn answer_with_hosts(address: SocketAddr, hosts: &str) -> Response {
    let mut client = RawClient::connect(address).await;
    let close = "Connection: close\r\n";
    client
        .send(format!("GET {STEP} HTTP/1.1\r\n{hosts}{close}\r\n"))
        .await;
    client.response().await
}

#[tokio::test]
async fn c07_host_header_injection_missing_or_duplicate_host_is_rejected() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for hosts in NOT_ONE_HOST {
        let response = answer_with_hosts(gateway.address(), hosts).await;
        assert_eq!(response.status, 400, "{hosts}");
        assert_eq!(
            response.code().as_deref(),
            Some("invalid_request"),
            "{hosts}"
        );
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c07_missing_host_on_http_1_0_is_forbidden_without_clients() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut client = gateway.connect().await;
    client.send(format!("GET {STEP} HTTP/1.0\r\n\r\n")).await;
    let response = client.response().await;
    assert_eq!(response.status, 403);
    assert_eq!(response.code().as_deref(), Some("forbidden_origin"));
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c07_bare_hyper_accepts_a_missing_or_duplicate_host() {
    let bare = HyperServer::start().await;
    for hosts in NOT_ONE_HOST {
        let response = answer_with_hosts(bare.address, hosts).await;
        assert_eq!(response.status, 200, "{hosts}");
    }
}

#[tokio::test]
async fn c08_ssrf_by_absolute_form_target_is_never_dialled() {
    let origin = Origin::start().await;
    let other = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for authority in [other.address.to_string(), format!("a@{}", other.address)] {
        let mut client = gateway.connect().await;
        let target = format!("http://{authority}{STEP}");
        client
            .send(head("GET", &target, &gateway.address().to_string(), &[]))
            .await;
        let response = client.response().await;
        assert!([200, 400, 403].contains(&response.status), "{target}");
    }
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn c09_connect_tunnel_is_rejected() {
    let origin = Origin::start().await;
    let other = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let target = other.address.to_string();
    let mut client = gateway.connect().await;
    client.send(head("CONNECT", &target, &target, &[])).await;
    assert_eq!(client.response().await.status, 405);
    client.send(last_request()).await;
    client.rest().await;
    assert_eq!((origin.count(), other.connections()), (0, 0));
}

#[tokio::test]
async fn c09_bare_hyper_opens_a_connect_tunnel() {
    let bare = HyperServer::start().await;
    let mut client = RawClient::connect(bare.address).await;
    client
        .send(head("CONNECT", "127.0.0.1:1", "127.0.0.1:1", &[]))
        .await;
    // The bytes after this head belong to the tunnel, as those after a HEAD response to none.
    assert_eq!(client.response_to("HEAD").await.status, 200);
}

#[tokio::test]
async fn c09_method_not_allowed_on_a_rules_path_lists_the_allowed_ones() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for path in [STEP, crate::support::LIST] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            let response = gateway.request(method, path, &[]).await;
            assert_eq!(response.status, 405, "{method} {path}");
            assert_eq!(response.code().as_deref(), Some("method_not_allowed"));
            assert_eq!(
                response.header("allow"),
                Some("GET, HEAD"),
                "{method} {path}"
            );
        }
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c09_options_asterisk_is_rejected() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let response = gateway.request("OPTIONS", "*", &[]).await;
    assert!((400..500).contains(&response.status), "{}", response.status);
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c10_oversized_head_is_431_and_oversized_target_is_414() {
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
        let mut client = gateway.connect().await;
        client.send(request).await;
        assert_eq!(client.response().await.status, status);
    }
    assert_eq!(origin.count(), 0);
}
