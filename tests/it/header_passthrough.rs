//! Headers, lists and queries that pass through, and the gateway's own errors.

use crate::support::{Action, Gateway, LIST, Origin, STEP, body, respond, step};

#[tokio::test]
async fn a_list_is_fetched_every_time_with_its_whole_query() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for (fetches, query) in ["", "", "?limit=2&order=asc", "?limit=2&order=asc"]
        .into_iter()
        .enumerate()
    {
        let target = format!("{LIST}{query}");
        let response = gateway.get(&target).await;
        assert_eq!(response.json()["object"], "list");
        assert!(response.cache_status().contains("fwd="), "{target}");
        assert!(!response.is_hit() && !response.is_stored(), "{target}");
        assert_eq!(origin.count(), fetches + 1);
        assert_eq!(origin.last().target(), target);
    }
}

#[tokio::test]
async fn a_list_is_never_stored() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    origin.always(vec![Action::Send(respond(
        "200 OK",
        &[],
        body("completed"),
    ))]);
    for _ in 0..2 {
        assert_eq!(gateway.get(LIST).await.body, body("completed"));
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn an_unknown_path_is_404_and_the_error_names_forward() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for path in [
        "/",
        "/v1",
        "/v1/models",
        "/v1/threads/thread_1",
        "/v1/threads/t/runs/r",
        "/x",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let response = gateway.request(method, path, &[]).await;
            assert_eq!(response.status, 404, "{method} {path}");
            assert_eq!(
                response.code().as_deref(),
                Some("route_not_found"),
                "{path}"
            );
            assert!(response.text().contains("forward"), "{}", response.text());
            // The most frequent mistake.
            assert!(response.text().contains("Is the base URL right"), "{path}");
        }
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn gateway_errors_have_the_shape_that_sdks_parse() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    origin.always(vec![
        Action::Send(b"nonsense\r\n\r\n".to_vec()),
        Action::Close,
    ]);
    for (method, path, headers) in [
        ("GET", "/v1/nowhere", &[][..]),
        ("POST", STEP, &[]),
        ("GET", "/v1/threads/thread_1/runs/run_1/steps/%20", &[]),
        ("GET", STEP, &[("Cache-Control", "only-if-cached")]),
        ("GET", STEP, &[("Host", "evil.example")]),
        ("GET", STEP, &[]),
    ] {
        let response = gateway.request(method, path, headers).await;
        assert!(response.status >= 400);
        assert_eq!(response.header("content-type"), Some("application/json"));
        let json = response.json();
        let error = json["error"].as_object().expect("an error");
        let mut members: Vec<&str> = error.keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, ["code", "message", "param", "type"], "{path}");
        assert!(!error["message"].as_str().expect("a message").is_empty());
        assert!(error["type"].is_string(), "{path}");
    }
}

#[tokio::test]
async fn upstream_error_bodies_reach_the_client_untouched() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for (status, content_type, body) in [
        (
            "404 Not Found",
            "application/json",
            r#"{"message":"Not Found","ok":false}"#,
        ),
        (
            "412 Budget",
            "application/json",
            r#"{"status":"failure","message":"budget"}"#,
        ),
        (
            "408 Late",
            "application/json",
            r#"{"error":{"type":"timeout_error"}}"#,
        ),
        ("502 Bad Gateway", "text/html", "<html>\r\n502\r\n</html>"),
        ("500 Oh", "text/plain; charset=latin1", "\u{1}odd"),
        ("503 Busy", "application/json", ""),
    ] {
        let headers = [("content-type", content_type)];
        origin.next(vec![Action::Send(respond(status, &headers, body))]);
        let response = gateway.get(STEP).await;
        assert_eq!(response.status.to_string(), status[..3]);
        assert_eq!(response.text(), body, "{status}");
        assert_eq!(
            response.header("content-type"),
            Some(content_type),
            "{status}"
        );
    }
}

#[tokio::test]
async fn retry_hints_and_request_ids_pass_on_a_fetch_and_are_absent_on_a_hit() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let headers = [
        ("retry-after", "3"),
        ("retry-after-ms", "2500"),
        ("x-should-retry", "false"),
        ("openai-poll-after-ms", "900"),
        ("x-request-id", "req_upstream"),
    ];
    origin.next(vec![Action::Send(respond(
        "200 OK",
        &headers,
        body("in_progress"),
    ))]);
    origin.next(vec![Action::Send(respond(
        "200 OK",
        &headers,
        body("completed"),
    ))]);
    for fetched in [gateway.get(STEP).await, gateway.get(STEP).await] {
        for (name, value) in headers {
            assert_eq!(fetched.header(name), Some(value), "{name}");
        }
    }
    let hit = gateway.get(STEP).await;
    assert!(hit.is_hit());
    for (name, _) in headers {
        assert_eq!(hit.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn cookies_and_hop_by_hop_headers_never_reach_the_client() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let headers = [
        ("set-cookie", "a=b"),
        ("set-cookie2", "a=b"),
        ("connection", "keep-alive, x-private"),
        ("x-private", "a"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
    ];
    for status in ["200 OK", "404 Not Found"] {
        origin.next(vec![Action::Send(respond(
            status,
            &headers,
            body("in_progress"),
        ))]);
        let response = gateway.get(STEP).await;
        for name in headers.iter().map(|(name, _)| *name) {
            let ours = name == "connection" && !response.everything().contains("x-private");
            assert!(ours || response.all(name).is_empty(), "{status}: {name}");
        }
    }
}

#[tokio::test]
async fn the_cache_status_of_the_upstream_is_extended() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let headers = [("cache-status", "edge; fwd=miss, \"inner, one\"; hit")];
    origin.next(vec![Action::Send(respond(
        "200 OK",
        &headers,
        body("completed"),
    ))]);
    let expected = "edge; fwd=miss, \"inner, one\"; hit, \
                    stepgate; fwd=uri-miss; fwd-status=200; stored";
    assert_eq!(gateway.get(STEP).await.cache_status(), expected);
    let hit = gateway.get(STEP).await.cache_status();
    assert!(hit.starts_with("stepgate; hit; ttl="), "{hit}");
}

#[tokio::test]
async fn upstream_query_overrides_the_clients_own() {
    let origin = Origin::start().await;
    let toml = "[upstream.query]\napi-version = \"2024-05-01&x\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    for query in [
        "",
        "?api-version=other",
        "?api%2Dversion=other",
        "?include[]=a",
    ] {
        gateway
            .get(&format!("{}{query}", step(&format!("s{}", query.len()))))
            .await;
        let target = origin.last().target();
        assert!(target.contains("api-version=2024-05-01%26x"), "{target}");
        assert!(!target.contains("other"), "{target}");
        assert_eq!(
            target.contains("include"),
            query.contains("include"),
            "{target}"
        );
    }
}

#[tokio::test]
async fn the_path_is_appended_to_the_path_of_base_url() {
    let origin = Origin::start().await;
    for (base, expected) in [("/openai", "/openai/threads"), ("", "/threads")] {
        let url = format!("http://{}{base}", origin.address);
        let gateway = Gateway::start_with_upstream(&url, "").await;
        gateway.get(STEP).await;
        let rest = "/thread_1/runs/run_1/steps/step_1";
        assert_eq!(origin.last().target(), format!("{expected}{rest}"));
    }
}

#[tokio::test]
async fn vary_headers_go_upstream_and_are_part_of_the_cache_key() {
    let origin = Origin::start().await;
    let toml = "[upstream]\nvary_headers = [\"x-tenant\"]\n";
    let gateway = Gateway::start(&origin, toml).await;
    for tenant in ["a", "b"] {
        let headers = [("X-Tenant", tenant)];
        assert!(gateway.get_with(STEP, &headers).await.is_stored());
        assert_eq!(origin.last().all("x-tenant"), [tenant]);
        assert!(gateway.get_with(STEP, &headers).await.is_hit());
    }
    assert!(gateway.get(STEP).await.is_stored());
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn a_rule_in_the_file_makes_another_resource_cacheable() {
    let origin = Origin::start().await;
    let toml = r#"
        [[rule]]
        name = "response"
        path = "/responses/{response_id}"
        object = "response"
        identity = { id = "response_id" }
        terminal = ["completed", "failed", "cancelled", "incomplete"]
    "#;
    let gateway = Gateway::start(&origin, toml).await;
    for status in ["completed", "failed", "cancelled", "incomplete"] {
        let path = format!("/v1/responses/resp_{status}");
        origin.set_status("in_progress");
        let live = gateway.get(&path).await;
        assert!(live.cache_status().ends_with("detail=not_final"));
        origin.set_status(status);
        assert!(gateway.get(&path).await.is_stored(), "{status}");
        assert_eq!(gateway.get(&path).await.json()["status"], status);
    }
    assert_eq!(origin.count(), 8);
    // The terminal statuses of one rule do not count for another.
    origin.set_status("expired");
    assert!(!gateway.get("/v1/responses/resp_1").await.is_stored());
    assert!(gateway.get(STEP).await.is_stored());
}
