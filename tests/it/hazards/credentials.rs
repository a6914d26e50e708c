//! Credentials stay on their side (items 14 to 19b). Leaks of secrets (item 16) are in `canaries`,
//! clients among each other (item 20) in `partitions`.

mod canaries;
mod partitions;

use crate::support::gateway::{API_KEY, VIRTUAL_KEY};
use crate::support::{Action, Gateway, Origin, Process, STEP, respond, step, until};

/// Headers that a client may send and that must never go upstream.
const CLIENT_HEADERS: [(&str, &str); 12] = [
    ("Authorization", "Bearer canary-client"),
    ("Proxy-Authorization", "Basic canary-client"),
    ("x-portkey-api-key", "canary-client"),
    ("X-Portkey-Virtual-Key", "canary-client"),
    ("x-portkey-config", "canary-client"),
    ("x-portkey-provider", "canary-client"),
    ("x-portkey-cache-force-refresh", "canary-client"),
    ("api-key", "canary-client"),
    ("x-api-key", "canary-client"),
    ("OpenAI-Organization", "canary-client"),
    ("Cookie", "session=canary-client"),
    ("OpenAI-Beta", "canary-client"),
];

fn assert_injected_once(origin: &Origin) {
    let request = origin.last();
    for (name, value) in [
        ("x-portkey-api-key", API_KEY),
        ("x-portkey-virtual-key", VIRTUAL_KEY),
        ("openai-beta", "assistants=v2"),
        ("x-portkey-cache-force-refresh", "true"),
    ] {
        assert_eq!(request.all(name), [value], "{name} in {}", request.text());
    }
}

#[tokio::test]
async fn c14_credential_forwarding_client_credentials_never_go_upstream() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for path in [
        STEP.to_owned(),
        crate::support::LIST.to_owned(),
        format!("{STEP}?x=1"),
    ] {
        gateway.get_with(&path, &CLIENT_HEADERS).await;
        assert!(!origin.last().text().contains("canary-client"), "{path}");
        assert_injected_once(&origin);
    }
}

#[tokio::test]
async fn c15_hop_by_hop_header_abuse_injected_headers_survive() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let named = "x-portkey-api-key, X-Portkey-Virtual-Key, authorization, openai-beta, \
                 x-portkey-cache-force-refresh, accept, close";
    let mut headers = CLIENT_HEADERS.to_vec();
    headers.extend([("Connection", named), ("Keep-Alive", "timeout=5")]);
    headers.extend([("TE", "trailers"), ("Proxy-Connection", "keep-alive")]);
    gateway.get_with(STEP, &headers).await;
    assert_injected_once(&origin);
    let request = origin.last();
    assert!(!request.text().contains("canary-client"));
    for name in ["keep-alive", "te", "proxy-connection", "trailer", "upgrade"] {
        assert!(request.all(name).is_empty(), "{name}");
    }
}

#[tokio::test]
async fn c15_hop_by_hop_header_named_in_connection_is_not_forwarded() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let headers = [("traceparent", "00-a-b-01"), ("Connection", "traceparent")];
    gateway.get_with(STEP, &headers).await;
    assert!(origin.last().all("traceparent").is_empty());
}

#[tokio::test]
async fn c17_ssrf_by_routing_headers_does_not_change_the_destination() {
    let origin = Origin::start().await;
    let other = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let elsewhere = other.address.to_string();
    let url = other.url();
    let forwarded = format!("host={elsewhere};proto=https");
    let headers = [
        ("x-portkey-custom-host", url.as_str()),
        ("X-Forwarded-Host", &elsewhere),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Original-URL", "/admin"),
        ("Forwarded", &forwarded),
    ];
    let response = gateway.get_with(STEP, &headers).await;
    assert_eq!((response.status, other.connections()), (200, 0));
    let request = origin.last();
    assert_eq!(request.all("host"), [origin.address.to_string()]);
    for (name, _) in headers {
        assert!(request.all(name).is_empty(), "{name}");
    }
}

#[tokio::test]
async fn c18_redirect_is_passed_through_and_never_followed() {
    for status in [
        "301 Moved",
        "302 Found",
        "303 See",
        "307 Temporary",
        "308 Permanent",
    ] {
        let origin = Origin::start().await;
        let other = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        let location = format!("{}/elsewhere", other.url());
        let redirect = respond(status, &[("location", &location)], "{\"moved\":true}");
        origin.always(vec![Action::Send(redirect)]);
        for _ in 0..2 {
            let response = gateway.get(STEP).await;
            assert_eq!(response.status.to_string(), status[..3]);
            assert_eq!(response.header("location"), Some(location.as_str()));
            assert_eq!(response.text(), "{\"moved\":true}");
            assert!(response.cache_status().contains("detail=bad_status"));
        }
        assert_eq!((origin.count(), other.connections()), (2, 0), "{status}");
    }
}

#[tokio::test]
async fn c19_cache_poisoning_by_unkeyed_headers_headers_are_normalised() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let headers = [
        ("Accept", "text/event-stream"),
        ("Accept-Encoding", "gzip, br"),
        ("Accept-Language", "de"),
        ("OpenAI-Beta", "assistants=v1"),
        ("Range", "bytes=0-9"),
        ("If-Modified-Since", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("If-Unmodified-Since", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("If-Match", "\"a\""),
        ("If-None-Match", "\"a\""),
        ("If-Range", "\"a\""),
        ("Content-Type", "application/json"),
        ("Prefer", "respond-async"),
        ("X-Stainless-Lang", "python"),
    ];
    for _fetch_then_hit in 0..2 {
        let response = gateway.get_with(STEP, &headers).await;
        assert_eq!(response.body, crate::support::body("completed"));
    }
    let request = origin.last();
    assert_eq!(request.all("accept"), ["application/json"]);
    assert_eq!(request.all("accept-encoding"), ["identity"]);
    assert_eq!(request.all("openai-beta"), ["assistants=v2"]);
    for (name, _) in headers.iter().skip(4) {
        assert!(request.all(name).is_empty(), "{name}");
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn trace_and_user_agent_headers_of_the_client_go_upstream() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let headers = [
        ("user-agent", "poller/1"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("tracestate", "a=b"),
        ("x-request-id", "req_client"),
        ("x-portkey-trace-id", "trace_client"),
    ];
    gateway.get_with(STEP, &headers).await;
    for (name, value) in headers {
        assert_eq!(origin.last().all(name), [value], "{name}");
    }
}

#[tokio::test]
async fn c19a_dns_rebinding_and_csrf_are_forbidden_and_nothing_is_fetched() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let host = gateway.address().to_string();
    for headers in [
        &[("Host", "evil.example")][..],
        &[("Host", "127.0.0.1.evil.example")],
        &[("Host", "localhost.evil.example:80")],
        &[("Host", "10.0.0.1")],
        &[("Host", &host), ("Origin", "https://evil.example")],
        &[("Host", &host), ("Origin", "null")],
        &[("Host", &host), ("Sec-Fetch-Site", "cross-site")],
    ] {
        let response = gateway.get_with(STEP, headers).await;
        assert_eq!(response.status, 403, "{headers:?}");
        assert_eq!(
            response.code().as_deref(),
            Some("forbidden_origin"),
            "{headers:?}"
        );
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c19a_loopback_and_allowed_hosts_are_served() {
    let origin = Origin::start().await;
    let toml = "[server]\nallowed_hosts = [\"stepgate.internal\"]\n";
    let gateway = Gateway::start(&origin, toml).await;
    let port = gateway.address().port();
    let same = format!("http://127.0.0.1:{port}");
    let with_port = |name: &str| format!("{name}:{port}");
    for host in [
        "localhost",
        "LocalHost",
        "127.0.0.1",
        "127.1.2.3",
        "[::1]",
        "Stepgate.Internal",
    ] {
        for host in [host.to_owned(), with_port(host)] {
            let response = gateway.get_with(STEP, &[("Host", &host)]).await;
            assert_eq!(response.status, 200, "{host}");
        }
    }
    let host = with_port("127.0.0.1");
    for (name, value) in [
        ("Origin", same.as_str()),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Site", "none"),
    ] {
        let response = gateway
            .get_with(STEP, &[("Host", &host), (name, value)])
            .await;
        assert_eq!(response.status, 200, "{name}: {value}");
    }
}

#[tokio::test]
async fn c19b_secret_reflection_in_a_response_header_is_dropped() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let location = format!("https://elsewhere.example/?key={API_KEY}&a=b");
    let debug = format!("key={VIRTUAL_KEY};");
    for (id, status) in [
        ("a", "200 OK"),
        ("b", "302 Found"),
        ("c", "500 Oh"),
        ("d", "404 No"),
    ] {
        let headers = [
            ("location", location.as_str()),
            ("x-debug", &debug),
            ("x-echo", API_KEY),
            ("x-innocent", "kept"),
        ];
        origin.next(vec![Action::Send(respond(status, &headers, "{}"))]);
        let response = gateway.get(&step(id)).await;
        assert_eq!(response.status.to_string(), status[..3]);
        assert!(!response.everything().contains("canary"), "{status}");
        for (name, _) in &headers[..3] {
            assert_eq!(response.header(name), None, "{status}: {name}");
        }
        assert_eq!(response.header("x-innocent"), Some("kept"), "{status}");
    }
}

#[tokio::test]
async fn c19b_secret_reflection_in_a_response_header_is_logged() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, "", "info").await;
    process.get(STEP, &[]).await;
    assert!(
        !process.output().contains("dropped"),
        "{}",
        process.output()
    );
    let echo = respond("200 OK", &[("x-echo", API_KEY)], "{}");
    origin.next(vec![Action::Send(echo)]);
    process.get(&step("echo"), &[]).await;
    until("a warning of dropped response headers", async || {
        process.output().contains("dropped response headers")
    })
    .await;
}

#[tokio::test]
async fn c19b_secret_reflection_in_an_error_body_is_a_502() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let padded = format!("{}{VIRTUAL_KEY}", " ".repeat(60 * 1024));
    for (id, body) in [
        ("plain", format!("no such key: {API_KEY}")),
        (
            "json",
            format!(r#"{{"error":{{"message":"key {VIRTUAL_KEY}!"}}}}"#),
        ),
        ("late", padded),
        ("alone", API_KEY.to_owned()),
    ] {
        for status in ["401 Unauthorized", "302 Found", "500 Oh"] {
            let (first, second) = body.as_bytes().split_at(body.len() - 9);
            let length = body.len().to_string();
            let start = respond(status, &[("content-length", &length)], first);
            origin.next(vec![Action::Send(start), Action::Send(second.to_vec())]);
            let response = gateway.get(&step(id)).await;
            assert_eq!(response.status, 502, "{id} {status}");
            assert_eq!(response.code().as_deref(), Some("upstream_invalid"));
            assert!(!response.everything().contains("canary"), "{id} {status}");
        }
    }
}
