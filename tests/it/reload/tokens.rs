//! Tests the rotation of client tokens and of the admin token.

use super::{config_for, get_admin, get_with_token, start};
use crate::support::client::head;
use crate::support::{Origin, Process, RawClient, STEP, until};

/// Waits for a successful reload.
async fn wait_for_reload(process: &Process) {
    let used = async || {
        process
            .metric("stepgate_reloads_total{result=\"success\"}")
            .await
            > 0.0
    };
    until("the new token", used).await;
}

#[tokio::test]
async fn the_new_token_of_a_client_is_accepted_and_the_old_one_rejected() {
    let origin = Origin::start().await;
    let client = "[[client]]\nname = \"billing\"\ntoken = { file = \"token\" }\n";
    let process = start(&config_for(&origin, client), &[("token", "old-token")]).await;
    let mut kept = RawClient::connect(process.data).await;
    let request = head(
        "GET",
        STEP,
        "localhost",
        &[("x-portkey-api-key", "old-token")],
    );
    kept.send(&request).await;
    assert_eq!(kept.response().await.status, 200);
    assert_eq!(
        get_with_token(&process, STEP, "new-token").await.status,
        401
    );
    process.write("token", "new-token");
    wait_for_reload(&process).await;
    assert_eq!(
        get_with_token(&process, STEP, "old-token").await.status,
        401
    );
    kept.send(&request).await;
    assert_eq!(
        kept.response().await.status,
        401,
        "on a connection from before the reload"
    );
    assert!(get_with_token(&process, STEP, "new-token").await.is_hit());
}

#[tokio::test]
async fn one_of_two_tokens_is_rotated_and_the_other_stays_valid() {
    let origin = Origin::start().await;
    let client = "[[client]]\nname = \"billing\"\n\
                  token = [{ file = \"one\" }, { file = \"two\" }]\n";
    let files = [("one", "token-1"), ("two", "token-2")];
    let process = start(&config_for(&origin, client), &files).await;
    process.write("one", "token-3");
    wait_for_reload(&process).await;
    for (token, status) in [("token-1", 401), ("token-2", 200), ("token-3", 200)] {
        let response = get_with_token(&process, STEP, token).await;
        assert_eq!(response.status, status, "{token}");
    }
}

#[tokio::test]
async fn a_token_shared_by_two_clients_is_refused_and_the_old_tokens_stay() {
    let origin = Origin::start().await;
    let clients = "[[client]]\nname = \"billing\"\ntoken = { file = \"one\" }\n\
                   [[client]]\nname = \"support\"\ntoken = { file = \"two\" }\n";
    let files = [("one", "token-1"), ("two", "token-2")];
    let process = start(&config_for(&origin, clients), &files).await;
    process.write("two", "token-1");
    let failed = async || process.reloads("failure").await > 0.0;
    until("the failed reload", failed).await;
    assert!(!process.output().contains("token-1"));
    for token in ["token-1", "token-2"] {
        let response = get_with_token(&process, STEP, token).await;
        assert_eq!(response.status, 200, "{token}");
    }
}

#[tokio::test]
async fn the_admin_token_is_rotated() {
    let origin = Origin::start().await;
    let toml = config_for(&origin, "[admin]\ntoken = { file = \"token\" }\n");
    let process = start(&toml, &[("token", "old-token")]).await;
    assert_eq!(
        get_admin(&process, "/status", "old-token").await.status,
        200
    );
    assert_eq!(
        get_admin(&process, "/status", "new-token").await.status,
        401
    );
    process.write("token", "new-token");
    wait_for_reload(&process).await;
    assert_eq!(
        get_admin(&process, "/status", "old-token").await.status,
        401
    );
    assert_eq!(
        get_admin(&process, "/status", "new-token").await.status,
        200
    );
}

#[tokio::test]
async fn a_reload_that_removes_all_clients_logs_one_warning() {
    let origin = Origin::start().await;
    let client = "[[client]]\nname = \"billing\"\ntoken = { file = \"token\" }\n";
    let process = start(&config_for(&origin, client), &[("token", "the-token")]).await;
    process.configure(&config_for(&origin, "")).await;
    assert_eq!(process.get(STEP, &[]).await.status, 200);
    process
        .configure(&config_for(&origin, "timeout = \"3s\"\n"))
        .await;
    process.terminate().await;
    let (_, output) = process.exit().await;
    let warned = |line: &&str| line.contains("WARN") && line.contains("no configured clients left");
    assert_eq!(output.lines().filter(warned).count(), 1, "{output}");
}
