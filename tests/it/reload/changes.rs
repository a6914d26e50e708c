//! What SIGHUP brings into force, and what must not outlive it.

use super::{KEY, keys, start, toward, with_token};
use crate::support::{Action, Origin, STEP, body, respond, step, text, until};

fn client(name: &str) -> String {
    format!("[[client]]\nname = \"{name}\"\ntoken = {{ file = \"{name}\" }}\n")
}

#[tokio::test]
async fn clients_come_and_go() {
    let origin = Origin::start().await;
    let files = [("billing", "token-b"), ("support", "token-s")];
    let with = |clients: &[&str]| {
        let clients: String = clients.iter().map(|name| client(name)).collect();
        toward(&origin, &clients)
    };
    let process = start(&with(&["billing"]), &files).await;
    for (clients, billing, support) in [
        (&["billing"][..], 200, 401),
        (&["billing", "support"], 200, 200),
        (&["support"], 401, 200),
    ] {
        process.configure(&with(clients)).await;
        for (token, status) in [("token-b", billing), ("token-s", support)] {
            let answer = with_token(&process, STEP, token).await;
            assert_eq!(answer.status, status, "{clients:?}: {token}");
        }
    }
}

#[tokio::test]
async fn the_first_client_closes_an_open_listener() {
    let origin = Origin::start().await;
    let process = start(&toward(&origin, ""), &[("billing", "token-b")]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    process
        .configure(&toward(&origin, &client("billing")))
        .await;
    assert_eq!(process.get(STEP, &[]).await.status, 401);
}

#[tokio::test]
async fn rules_come_and_go() {
    let origin = Origin::start().await;
    let rule = "[[rule]]\nname = \"response\"\npath = \"/responses/{id}\"\n\
                object = \"response\"\nidentity = { id = \"id\" }\nterminal = [\"completed\"]\n";
    let process = start(&toward(&origin, ""), &[]).await;
    let ask = async || process.get("/v1/responses/resp_1", &[]).await;
    assert_eq!(ask().await.status, 404);
    process.configure(&toward(&origin, rule)).await;
    assert!(ask().await.is_stored());
    assert!(ask().await.is_hit());
    process.configure(&toward(&origin, "")).await;
    assert_eq!(ask().await.status, 404);
}

/// The built-in rule, with these terminal statuses.
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
async fn a_body_that_a_wrong_rule_stored_is_not_served_by_the_right_one() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let wrong = run_step("\"completed\", \"in_progress\"");
    let process = start(&toward(&origin, &wrong), &[]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    let right = run_step("\"completed\"");
    process.configure(&toward(&origin, &right)).await;
    origin.set_status("completed");
    let answer = process.get(STEP, &[]).await;
    assert_eq!(answer.text(), text("completed"));
    assert!(answer.is_stored(), "{}", answer.cache_status());
}

#[tokio::test]
async fn another_status_called_terminal_is_stored_from_then_on() {
    let origin = Origin::start().await;
    origin.set_status("done");
    let process = start(&toward(&origin, &run_step("\"completed\"")), &[]).await;
    assert!(!process.get(STEP, &[]).await.is_stored());
    process
        .configure(&toward(&origin, &run_step("\"done\"")))
        .await;
    assert!(process.get(STEP, &[]).await.is_stored());
}

#[tokio::test]
async fn key_a_never_goes_to_origin_b_and_no_body_of_a_is_served_for_b() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    b.set_status("failed");
    let files = [("a", "key-a"), ("b", "key-b")];
    let with = |origin, key| {
        let headers = format!("[upstream.headers]\nx-portkey-api-key = {{ file = \"{key}\" }}\n");
        toward(origin, &headers)
    };
    let process = start(&with(&a, "a"), &files).await;
    assert_eq!(process.get(STEP, &[]).await.text(), text("completed"));
    process.configure(&with(&b, "b")).await;
    let answer = process.get(STEP, &[]).await;
    assert_eq!(answer.text(), text("failed"));
    assert!(answer.is_stored(), "{}", answer.cache_status());
    process.configure(&with(&a, "a")).await;
    assert_eq!(process.get(STEP, &[]).await.text(), text("completed"));
    assert_eq!(
        (keys(&a)[0].as_str(), keys(&b)[0].as_str()),
        ("key-a", "key-b")
    );
    assert_eq!(b.count(), 1);
}

#[tokio::test]
async fn base_url_alone_takes_no_body_along() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    b.set_status("failed");
    let process = start(&toward(&a, KEY), &[("key", "the-key")]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    process.configure(&toward(&b, KEY)).await;
    assert_eq!(process.get(STEP, &[]).await.text(), text("failed"));
}

#[tokio::test]
async fn another_literal_is_another_partition() {
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
        let with = |line| toward(&origin, &format!("[upstream.{table}]\n{line}\n"));
        let process = start(&with(old), &[]).await;
        assert!(process.get(STEP, &[]).await.is_stored(), "{old}");
        process.configure(&with(new)).await;
        assert!(process.get(STEP, &[]).await.is_stored(), "{old} to {new}");
        assert_eq!(origin.count(), 2);
    }
}

#[tokio::test]
async fn what_says_nothing_of_the_upstream_keeps_the_cache() {
    let origin = Origin::start().await;
    let process = start(&toward(&origin, ""), &[]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    for rest in [
        "max_retry_after = \"3s\"\n",
        "timeout = \"30s\"\n",
        "[cache]\nttl = \"1h\"\n",
    ] {
        process.configure(&toward(&origin, rest)).await;
        assert!(process.get(STEP, &[]).await.is_hit(), "{rest}");
    }
}

#[tokio::test]
async fn host_names_come_and_go() {
    let origin = Origin::start().await;
    let open = toward(
        &origin,
        "[server]\nallowed_hosts = [\"stepgate.internal\"]\n",
    );
    let process = start(&toward(&origin, ""), &[]).await;
    let ask = async || process.get(STEP, &[("Host", "stepgate.internal")]).await;
    assert_eq!(ask().await.status, 403);
    process.configure(&open).await;
    assert_eq!(ask().await.status, 200);
    process.configure(&toward(&origin, "")).await;
    assert_eq!(ask().await.status, 403);
}

#[tokio::test]
async fn the_access_log_is_turned_on() {
    let origin = Origin::start().await;
    let with = |access| toward(&origin, &format!("[log]\naccess = \"{access}\"\n"));
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
async fn a_ttl_holds_for_what_is_stored_from_then_on() {
    let origin = Origin::start().await;
    let process = start(&toward(&origin, ""), &[]).await;
    process
        .configure(&toward(&origin, "[cache]\nttl = \"1h\"\n"))
        .await;
    process.get(STEP, &[]).await;
    let status = process.get(STEP, &[]).await.cache_status();
    let ttl = status.split("ttl=").nth(1).and_then(|t| t.parse().ok());
    assert!((3500..=3600).contains(&ttl.unwrap_or(0)), "{status}");
}

#[tokio::test]
async fn max_hold_is_turned_on_and_off() {
    let origin = Origin::start().await;
    let limited = respond("429 Slow", &[("retry-after", "60")], body("in_progress"));
    origin.always(vec![Action::Send(limited)]);
    let with = |hold| toward(&origin, &format!("max_retry_after = \"{hold}\"\n"));
    let process = start(&with("0s"), &[]).await;
    for (hold, fetches) in [("0s", 2), ("60s", 1), ("0s", 2)] {
        process.configure(&with(hold)).await;
        let before = origin.count();
        for id in ["one", "two"] {
            let path = step(id);
            assert_eq!(process.get(&path, &[]).await.status, 429, "{hold}: {id}");
        }
        assert_eq!(origin.count() - before, fetches, "max_retry_after {hold}");
    }
}

#[tokio::test]
async fn forwarded_headers_divide_the_cache_from_then_on() {
    let origin = Origin::start().await;
    let process = start(&toward(&origin, ""), &[]).await;
    let ask = async |tenant| process.get(STEP, &[("x-tenant", tenant)]).await;
    ask("one").await;
    let with = toward(&origin, "vary_headers = [\"x-tenant\"]\n");
    process.configure(&with).await;
    for tenant in ["one", "two"] {
        assert!(ask(tenant).await.is_stored(), "{tenant}");
        assert_eq!(origin.last().all("x-tenant"), [tenant]);
    }
}
