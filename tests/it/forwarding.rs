//! `server.forward = "all"`: requests that no rule answers are streamed in both directions.

mod changes;
mod limits;
mod streams;

use crate::support::client::{self, head};
use crate::support::gateway::{API_KEY, BILLING_KEY, BILLING_TOKEN, TWO_CLIENTS, VIRTUAL_KEY};
use crate::support::{Action, Gateway, Origin, Process, STEP, respond, step, text};

const ALL: &str = "[server]\nforward = \"all\"";

#[tokio::test]
async fn every_other_request_below_v1_is_forwarded() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, ALL).await;
    for (count, (method, target)) in [
        ("GET", "/v1/models"),
        ("POST", "/v1/threads"),
        ("GET", "/v1/threads/thread_1/runs/run_1?x=1&y=%2F&x=2"),
        ("DELETE", "/v1/files/file-1.txt"),
        ("PATCH", "/v1/a%20b/c%2Fd/"),
        ("OPTIONS", "/v1/models"),
        ("POST", STEP),
        ("FROB", "/v1/models"),
    ]
    .into_iter()
    .enumerate()
    {
        let created = respond("201 Made", &[("x-upstream", "yes")], format!("{target}!"));
        origin.next(vec![Action::Send(created)]);
        let response = gateway.request(method, target, &[]).await;
        assert_eq!(
            response.status,
            201,
            "{method} {target}: {}",
            response.text()
        );
        assert_eq!(response.text(), format!("{target}!"));
        assert_eq!(response.header("x-upstream"), Some("yes"));
        assert_eq!(
            response.cache_status(),
            "stepgate; fwd=bypass; fwd-status=201",
            "{target}"
        );
        assert_eq!(origin.count(), count + 1);
        assert_eq!(origin.last().line(), format!("{method} {target}"));
    }
    let forwarded = r#"stepgate_requests_total{rule="none",outcome="bypass"}"#;
    assert_eq!(gateway.metric(forwarded).await, 8.0);
    let fetched = r#"stepgate_upstream_requests_total{rule="none",class="2xx"}"#;
    assert_eq!(gateway.metric(fetched).await, 8.0);
    // Forwarded requests are not part of the upstream latency of a rule.
    assert_eq!(
        gateway
            .metric("stepgate_upstream_duration_seconds_count")
            .await,
        0.0
    );
}

#[tokio::test]
async fn a_rules_path_is_still_cached() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, ALL).await;
    assert!(gateway.get(STEP).await.is_stored());
    assert!(gateway.get(STEP).await.is_hit());
    assert_eq!(gateway.request("HEAD", STEP, &[]).await.status, 200);
    let response = gateway.get(&format!("{}%20", step("a"))).await;
    assert_eq!(response.code().as_deref(), Some("invalid_path"));
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn paths_outside_v1_and_tunnels_are_not_forwarded() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, ALL).await;
    for path in [
        "/",
        "/v1",
        "/v1x/models",
        "/metrics",
        "/admin",
        "/V1/models",
    ] {
        let response = gateway.get(path).await;
        assert_eq!(
            response.code().as_deref(),
            Some("route_not_found"),
            "{path}"
        );
        assert!(response.text().contains("/v1/"), "{}", response.text());
    }
    for path in ["/v1/../admin", "/v1/x/%2e%2e/%2E%2e/admin", "/v1/./models"] {
        let response = gateway.get(path).await;
        assert_eq!(response.code().as_deref(), Some("invalid_path"), "{path}");
    }
    for method in ["TRACE", "CONNECT"] {
        let response = gateway.request(method, "/v1/models", &[]).await;
        assert_eq!(response.code().as_deref(), Some("method_not_allowed"));
    }
    let long = format!("/v1/files/{}", "x".repeat(40_000));
    let response = gateway.get(&long).await;
    assert_eq!(response.code().as_deref(), Some("invalid_request"));
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn credentials_and_routing_headers_are_removed_and_others_forwarded() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, ALL).await;
    let passed = [
        ("accept", "text/event-stream"),
        ("content-type", "application/json"),
        ("user-agent", "sdk/1"),
        ("openai-organization", "org-1"),
        ("x-stainless-lang", "python"),
        ("idempotency-key", "once"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("x-request-id", "mine"),
        ("if-none-match", "\"x\""),
        ("range", "bytes=0-1"),
    ];
    let stopped = [
        ("authorization", "Bearer dummy"),
        ("api-key", "mine"),
        ("x-api-key", "mine"),
        ("x-portkey-custom-host", "http://evil.example"),
        ("x-portkey-config", "{}"),
        ("x-portkey-provider", "evil"),
        ("x-portkey-anything", "1"),
        ("cookie", "a=b"),
        ("proxy-authorization", "Basic x"),
        ("forwarded", "host=evil"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
        ("cookie2", "a=b"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("x-hop", "1"),
        ("x-portkey-api-key", "mine"),
    ];
    let named = (
        "connection",
        "x-hop, x-portkey-api-key, upgrade, openai-beta",
    );
    let headers = [&passed[..], &stopped, &[named]].concat();
    gateway.request("POST", "/v1/threads", &headers).await;
    let sent = origin.last();
    for (name, value) in passed {
        assert_eq!(sent.all(name), [value], "{name}");
    }
    for (name, _) in stopped {
        let injected = match name {
            "x-portkey-api-key" => vec![API_KEY.to_owned()],
            _ => vec![],
        };
        assert_eq!(sent.all(name), injected, "{name}");
    }
    assert_eq!(sent.all("x-portkey-virtual-key"), [VIRTUAL_KEY]);
    assert_eq!(sent.all("accept-encoding"), ["identity"]);
    assert_eq!(sent.all("openai-beta"), ["assistants=v2"]);
    assert_eq!(sent.all("host"), [origin.address.to_string()]);
    // The client's own value is kept, and only that.
    gateway
        .request("GET", "/v1/threads", &[("OpenAI-Beta", "realtime=v1")])
        .await;
    assert_eq!(origin.last().all("openai-beta"), ["realtime=v1"]);
    assert!(origin.last().all("accept").is_empty());
}

#[tokio::test]
async fn a_forwarded_request_is_authenticated_and_gets_the_headers_of_its_client() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, &format!("{ALL}\n{TWO_CLIENTS}")).await;
    let response = gateway.request("POST", "/v1/threads", &[]).await;
    assert_eq!(response.status, 401);
    let token = format!("Bearer {BILLING_TOKEN}");
    let known = [("Authorization", token.as_str())];
    assert_eq!(
        gateway.request("POST", "/v1/threads", &known).await.status,
        200
    );
    assert_eq!(origin.count(), 1);
    assert_eq!(origin.last().all("x-portkey-virtual-key"), [BILLING_KEY]);
    let page = [("Sec-Fetch-Site", "cross-site")];
    let open = Gateway::start(&origin, ALL).await;
    assert_eq!(open.request("POST", "/v1/threads", &page).await.status, 403);
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn upstream_query_overrides_the_query_of_a_forwarded_request() {
    let origin = Origin::start().await;
    let toml = format!("{ALL}\n[upstream.query]\napi-version = \"2025\"");
    let gateway = Gateway::start(&origin, &toml).await;
    gateway
        .get("/v1/models?api-version=1&b=2&api%2Dversion=3")
        .await;
    assert_eq!(origin.last().target(), "/v1/models?b=2&api-version=2025");
}

#[tokio::test]
async fn hop_by_hop_headers_and_reflected_secrets_are_removed_from_forwarded_responses() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, ALL).await;
    let headers = [
        ("set-cookie", "a=b"),
        ("keep-alive", "timeout=5"),
        ("x-echo", API_KEY),
        ("location", "https://elsewhere.example/v1"),
        ("x-ratelimit-remaining", "7"),
    ];
    origin.next(vec![Action::Send(respond("302 Found", &headers, ""))]);
    let response = gateway.get("/v1/models").await;
    assert_eq!(response.status, 302);
    assert_eq!(
        response.header("location"),
        Some("https://elsewhere.example/v1")
    );
    assert_eq!(response.header("x-ratelimit-remaining"), Some("7"));
    for name in ["set-cookie", "keep-alive", "x-echo"] {
        assert_eq!(response.header(name), None);
    }
    let echo = format!(r#"{{"error": "bad key {VIRTUAL_KEY}"}}"#);
    origin.next(vec![Action::Send(respond("401 No", &[], echo))]);
    let response = gateway.request("POST", "/v1/threads", &[]).await;
    assert_eq!(response.code().as_deref(), Some("upstream_invalid"));
    assert!(!response.everything().contains("canary"));
    let error = r#"{"error": {"message": "no such model"}}"#;
    origin.next(vec![Action::Send(respond("404 No", &[], error))]);
    let response = gateway.get("/v1/models/x").await;
    assert_eq!((response.status, response.text().as_str()), (404, error));
}

#[tokio::test]
async fn the_status_line_of_a_forwarded_response_is_written_by_the_gateway() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, ALL).await;
    for (sent, expected) in [
        (format!("HTTP/1.1 200 {API_KEY}"), "HTTP/1.1 200 OK"),
        (format!("HTTP/1.1 404 {API_KEY}"), "HTTP/1.1 404 Not Found"),
        ("HTTP/1.0 200 OK".to_owned(), "HTTP/1.1 200 OK"),
    ] {
        let response = format!("{sent}\r\ncontent-length: 2\r\n\r\n{{}}");
        origin.next(vec![Action::Send(response.into_bytes())]);
        let mut client = gateway.send_get("/v1/models", &[]).await;
        assert_eq!(client.text_before("\r\n").await, expected, "{sent}");
    }
}

#[tokio::test]
async fn response_smuggling_contradictory_framing_is_a_502() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, ALL).await;
    for (method, framing) in [
        ("HEAD", "content-length: 3\r\ncontent-length: 4"),
        ("HEAD", "content-length: 3x"),
        ("HEAD", "content-length: -1"),
        ("GET", "content-length: 3\r\ncontent-length: 4"),
        ("GET", "transfer-encoding: gzip, chunked"),
        ("GET", "transfer-encoding: gzip"),
        ("POST", "transfer-encoding: identity"),
    ] {
        let response = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
        origin.next(vec![Action::Send(response.into_bytes()), Action::Close]);
        let response = gateway.request(method, "/v1/models", &[]).await;
        assert_eq!(response.status, 502, "{method} {framing}");
        if method != "HEAD" {
            assert_eq!(
                response.code().as_deref(),
                Some("upstream_invalid"),
                "{framing}"
            );
        }
    }
    // The same on a rule's path, because a transfer coding that was not asked for alters the body.
    let body = text("completed");
    let coded = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n{body}");
    origin.next(vec![Action::Send(coded.into_bytes()), Action::Close]);
    let response = gateway.get(STEP).await;
    assert_eq!(response.code().as_deref(), Some("upstream_invalid"));
    // Two equal lengths are one length.
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\ncontent-length: 7\r\n\r\n";
    origin.next(vec![Action::Send(twice.into()), Action::Close]);
    let response = gateway.request("HEAD", "/v1/models", &[]).await;
    assert_eq!(response.header("content-length"), Some("7"));
}

#[tokio::test]
async fn responses_without_a_body_are_forwarded_without_one() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, ALL).await;
    let mut client = gateway.connect().await;
    let host = gateway.address().to_string();
    for (method, status, length, expected) in [
        ("HEAD", "200 OK", "12345", Some("12345")),
        ("HEAD", "404 Not Found", "17", Some("17")),
        // hyper leaves it out, as RFC 9110 section 8.6 allows.
        ("GET", "304 Not Modified", "55", None),
        ("DELETE", "200 OK", "0", Some("0")),
    ] {
        let response = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
        origin.next(vec![Action::Send(response.into_bytes())]);
        client.send(head(method, "/v1/files/f", &host, &[])).await;
        let response = client.response_to(method).await;
        assert_eq!(response.status.to_string(), status[..3]);
        assert_eq!(
            response.header("content-length"),
            expected,
            "{method} {status}"
        );
        assert!(response.body.is_empty());
    }
    origin.next(vec![Action::Send(
        b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
    )]);
    client.send(head("DELETE", "/v1/files/f", &host, &[])).await;
    assert_eq!(client.response_to("DELETE").await.status, 204);
    // All of these used one connection on each side.
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn the_log_line_of_a_forwarded_request_names_its_path_only_if_ids_are_logged() {
    let origin = Origin::start().await;
    for (ids, shown) in [("false", false), ("true", true)] {
        let toml = format!("{ALL}\n[log]\nformat = \"json\"\nids = {ids}\n{TWO_CLIENTS}");
        let process = Process::start(&origin, &toml, "info").await;
        let token = format!("Bearer {BILLING_TOKEN}");
        let headers = [("Authorization", token.as_str())];
        let path = "/v1/threads/thread_1/messages";
        let response = client::send(process.data, "POST", path, &headers).await;
        assert_eq!(response.unwrap().status, 200);
        process.terminate().await;
        let (_, log) = process.exit().await;
        let line = log.lines().find(|line| line.contains("bypass")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["message"], "POST");
        assert_eq!(line["client"], "billing");
        assert_eq!(line["status"], 200);
        assert_eq!(line["path"].as_str(), shown.then_some(path));
        assert!(!log.contains("canary"), "{log}");
    }
}

#[tokio::test]
async fn forwarding_is_off_by_default_and_a_reload_turns_it_off() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let response = gateway.get("/v1/models").await;
    assert_eq!(response.code().as_deref(), Some("route_not_found"));
    assert!(response.text().contains(r#"server.forward = \"all\""#));
    gateway.apply_config(&origin, ALL);
    assert_eq!(gateway.get("/v1/models").await.status, 200);
    gateway.apply_config(&origin, "");
    assert_eq!(gateway.get("/v1/models").await.status, 404);
    assert_eq!(origin.count(), 1);
}
