//! Tests what a reload changes, and that nothing of the old configuration is served afterwards.

use super::{KEY, config_for, get_with_token, keys, start};
use crate::support::{Action, Origin, STEP, body, respond, step, text, until};

fn client(name: &str) -> String {
    format!("[[client]]\nname = \"{name}\"\ntoken = {{ file = \"{name}\" }}\n")
}

#[tokio::test]
async fn clients_are_added_and_removed() {
    let origin = Origin::start().await;
    let files = [("billing", "token-b"), ("support", "token-s")];
    let with = |clients: &[&str]| {
        let clients: String = clients.iter().map(|name| client(name)).collect();
        config_for(&origin, &clients)
    };
    let process = start(&with(&["billing"]), &files).await;
    for (clients, billing, support) in [
        (&["billing"][..], 200, 401),
        (&["billing", "support"], 200, 200),
        (&["support"], 401, 200),
    ] {
        process.configure(&with(clients)).await;
        for (token, status) in [("token-b", billing), ("token-s", support)] {
            let response = get_with_token(&process, STEP, token).await;
            assert_eq!(response.status, status, "{clients:?}: {token}");
        }
    }
}

#[tokio::test]
async fn the_first_client_makes_the_listener_require_a_token() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, ""), &[("billing", "token-b")]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    process
        .configure(&config_for(&origin, &client("billing")))
        .await;
    assert_eq!(process.get(STEP, &[]).await.status, 401);
}

#[tokio::test]
async fn rules_are_added_and_removed() {
    let origin = Origin::start().await;
    let rule = "[[rule]]\nname = \"response\"\npath = \"/responses/{id}\"\n\
                object = \"response\"\nidentity = { id = \"id\" }\nterminal = [\"completed\"]\n";
    let process = start(&config_for(&origin, ""), &[]).await;
    let get = async || process.get("/v1/responses/resp_1", &[]).await;
    assert_eq!(get().await.status, 404);
    process.configure(&config_for(&origin, rule)).await;
    assert!(get().await.is_stored());
    assert!(get().await.is_hit());
    process.configure(&config_for(&origin, "")).await;
    assert_eq!(get().await.status, 404);
}

/// Returns the built-in rule with these terminal statuses.
fn run_step(terminal: &str) -> String {
    format!(
        "[[rule]]\nname = \"run-step\"\n\
         path = \"/threads/{{thread_id}}/runs/{{run_id}}/steps/{{step_id}}\"\n\
         object = \"thread.run.step\"\n\
         identity = {{ id = \"step_id\", run_id = \"run_id\", thread_id = \"thread_id\" }}\n\
         terminal = [{terminal}]\n"
    )
}

#[tokio::test]
async fn a_body_stored_under_a_wrong_rule_is_not_served_under_the_corrected_one() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let wrong = run_step("\"completed\", \"in_progress\"");
    let process = start(&config_for(&origin, &wrong), &[]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    let right = run_step("\"completed\"");
    process.configure(&config_for(&origin, &right)).await;
    origin.set_status("completed");
    let response = process.get(STEP, &[]).await;
    assert_eq!(response.text(), text("completed"));
    assert!(response.is_stored(), "{}", response.cache_status());
}

#[tokio::test]
async fn a_status_added_to_terminal_is_stored_from_then_on() {
    let origin = Origin::start().await;
    origin.set_status("done");
    let process = start(&config_for(&origin, &run_step("\"completed\"")), &[]).await;
    assert!(!process.get(STEP, &[]).await.is_stored());
    process
        .configure(&config_for(&origin, &run_step("\"done\"")))
        .await;
    assert!(process.get(STEP, &[]).await.is_stored());
}

#[tokio::test]
async fn two_upstreams_share_neither_secrets_nor_bodies() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    b.set_status("failed");
    let files = [("a", "key-a"), ("b", "key-b")];
    let with = |origin, key| {
        let headers = format!("[upstream.headers]\nx-portkey-api-key = {{ file = \"{key}\" }}\n");
        config_for(origin, &headers)
    };
    let process = start(&with(&a, "a"), &files).await;
    assert_eq!(process.get(STEP, &[]).await.text(), text("completed"));
    process.configure(&with(&b, "b")).await;
    let response = process.get(STEP, &[]).await;
    assert_eq!(response.text(), text("failed"));
    assert!(response.is_stored(), "{}", response.cache_status());
    process.configure(&with(&a, "a")).await;
    assert_eq!(process.get(STEP, &[]).await.text(), text("completed"));
    assert_eq!(
        (keys(&a)[0].as_str(), keys(&b)[0].as_str()),
        ("key-a", "key-b")
    );
    assert_eq!(b.count(), 1);
}

#[tokio::test]
async fn a_changed_base_url_alone_changes_the_partition() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    b.set_status("failed");
    let process = start(&config_for(&a, KEY), &[("key", "the-key")]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    process.configure(&config_for(&b, KEY)).await;
    assert_eq!(process.get(STEP, &[]).await.text(), text("failed"));
}

#[tokio::test]
async fn a_changed_literal_changes_the_partition() {
    for (table, old, new) in [
        (
            "headers",
            "x-portkey-provider = \"a\"",
            "x-portkey-provider = \"b\"",
        ),
        ("headers", "x-portkey-provider = \"a\"", ""),
        ("query", "api-version = \"1\"", "api-version = \"2\""),
        ("query", "", "api-version = \"2\""),
    ] {
        let origin = Origin::start().await;
        let with = |line| config_for(&origin, &format!("[upstream.{table}]\n{line}\n"));
        let process = start(&with(old), &[]).await;
        assert!(process.get(STEP, &[]).await.is_stored(), "{old}");
        process.configure(&with(new)).await;
        assert!(process.get(STEP, &[]).await.is_stored(), "{old} to {new}");
        assert_eq!(origin.count(), 2);
    }
}

#[tokio::test]
async fn other_changes_keep_the_cache() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, ""), &[]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    for rest in [
        "max_retry_after = \"3s\"\n",
        "timeout = \"30s\"\n",
        "[cache]\nttl = \"1h\"\n",
    ] {
        process.configure(&config_for(&origin, rest)).await;
        assert!(process.get(STEP, &[]).await.is_hit(), "{rest}");
    }
}

#[tokio::test]
async fn allowed_hosts_are_added_and_removed() {
    let origin = Origin::start().await;
    let open = config_for(
        &origin,
        "[server]\nallowed_hosts = [\"stepgate.internal\"]\n",
    );
    let process = start(&config_for(&origin, ""), &[]).await;
    let get = async || process.get(STEP, &[("Host", "stepgate.internal")]).await;
    assert_eq!(get().await.status, 403);
    process.configure(&open).await;
    assert_eq!(get().await.status, 200);
    process.configure(&config_for(&origin, "")).await;
    assert_eq!(get().await.status, 403);
}

#[tokio::test]
async fn the_access_log_is_switched_on() {
    let origin = Origin::start().await;
    let with = |access| config_for(&origin, &format!("[log]\naccess = \"{access}\"\n"));
    let process = start(&with("off"), &[]).await;
    process.get(STEP, &[]).await;
    assert!(process.get(STEP, &[]).await.is_hit());
    process.configure(&with("all")).await;
    assert!(
        !process.output().contains("outcome="),
        "{}",
        process.output()
    );
    process.get(STEP, &[]).await;
    let logged = async || process.output().contains("hit");
    until("a line for the hit", logged).await;
}

#[tokio::test]
async fn a_changed_ttl_applies_to_bodies_stored_from_then_on() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, ""), &[]).await;
    process
        .configure(&config_for(&origin, "[cache]\nttl = \"1h\"\n"))
        .await;
    process.get(STEP, &[]).await;
    let status = process.get(STEP, &[]).await.cache_status();
    let ttl = status.split("ttl=").nth(1).and_then(|t| t.parse().ok());
    assert!((3500..=3600).contains(&ttl.unwrap_or(0)), "{status}");
}

#[tokio::test]
async fn max_retry_after_is_switched_on_and_off() {
    let origin = Origin::start().await;
    let limited = respond("429 Slow", &[("retry-after", "60")], body("in_progress"));
    origin.always(vec![Action::Send(limited)]);
    let with = |max| config_for(&origin, &format!("max_retry_after = \"{max}\"\n"));
    let process = start(&with("0s"), &[]).await;
    for (max, fetches) in [("0s", 2), ("60s", 1), ("0s", 2)] {
        process.configure(&with(max)).await;
        let before = origin.count();
        for id in ["one", "two"] {
            let path = step(id);
            assert_eq!(process.get(&path, &[]).await.status, 429, "{max}: {id}");
        }
        assert_eq!(origin.count() - before, fetches, "max_retry_after {max}");
    }
}

#[tokio::test]
async fn vary_headers_divide_the_cache_from_then_on() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, ""), &[]).await;
    let get = async |tenant| process.get(STEP, &[("x-tenant", tenant)]).await;
    get("one").await;
    let with = config_for(&origin, "vary_headers = [\"x-tenant\"]\n");
    process.configure(&with).await;
    for tenant in ["one", "two"] {
        assert!(get(tenant).await.is_stored(), "{tenant}");
        assert_eq!(origin.last().all("x-tenant"), [tenant]);
    }
}
