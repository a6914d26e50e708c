//! Tokens that rotate: the clients' and the admin listener's.

use super::{admin, start, toward, with_token};
use crate::support::client::head;
use crate::support::{Origin, Process, RawClient, STEP, until};

async fn rotated(process: &Process) {
    let used = async || {
        process
            .metric("stepgate_reloads_total{result=\"success\"}")
            .await
            > 0.0
    };
    until("the new token", used).await;
}

#[tokio::test]
async fn a_clients_new_token_is_accepted_and_the_old_one_refused() {
    let origin = Origin::start().await;
    let client = "[[client]]\nname = \"billing\"\ntoken = { file = \"token\" }\n";
    let process = start(&toward(&origin, client), &[("token", "old-token")]).await;
    let mut kept = RawClient::connect(process.data).await;
    let question = head(
        "GET",
        STEP,
        "localhost",
        &[("x-portkey-api-key", "old-token")],
    );
    kept.send(&question).await;
    assert_eq!(kept.response().await.status, 200);
    assert_eq!(with_token(&process, STEP, "new-token").await.status, 401);
    process.write("token", "new-token");
    rotated(&process).await;
    assert_eq!(with_token(&process, STEP, "old-token").await.status, 401);
    kept.send(&question).await;
    assert_eq!(
        kept.response().await.status,
        401,
        "on a connection from before"
    );
    assert!(with_token(&process, STEP, "new-token").await.is_hit());
}

#[tokio::test]
async fn during_a_rotation_both_of_two_tokens_are_accepted() {
    let origin = Origin::start().await;
    let client = "[[client]]\nname = \"billing\"\n\
                  token = [{ file = \"one\" }, { file = \"two\" }]\n";
    let files = [("one", "token-1"), ("two", "token-2")];
    let process = start(&toward(&origin, client), &files).await;
    process.write("one", "token-3");
    rotated(&process).await;
    for (token, status) in [("token-1", 401), ("token-2", 200), ("token-3", 200)] {
        let answer = with_token(&process, STEP, token).await;
        assert_eq!(answer.status, status, "{token}");
    }
}

#[tokio::test]
async fn two_clients_that_would_share_a_token_keep_the_old_ones() {
    let origin = Origin::start().await;
    let clients = "[[client]]\nname = \"billing\"\ntoken = { file = \"one\" }\n\
                   [[client]]\nname = \"support\"\ntoken = { file = \"two\" }\n";
    let files = [("one", "token-1"), ("two", "token-2")];
    let process = start(&toward(&origin, clients), &files).await;
    process.write("two", "token-1");
    let refused = async || process.reloads("failure").await > 0.0;
    until("the refusal", refused).await;
    assert!(!process.output().contains("token-1"));
    for token in ["token-1", "token-2"] {
        let answer = with_token(&process, STEP, token).await;
        assert_eq!(answer.status, 200, "{token}");
    }
}

#[tokio::test]
async fn the_admin_listeners_token_rotates() {
    let origin = Origin::start().await;
    let toml = toward(&origin, "[admin]\ntoken = { file = \"token\" }\n");
    let process = start(&toml, &[("token", "old-token")]).await;
    assert_eq!(admin(&process, "/status", "old-token").await.status, 200);
    assert_eq!(admin(&process, "/status", "new-token").await.status, 401);
    process.write("token", "new-token");
    rotated(&process).await;
    assert_eq!(admin(&process, "/status", "old-token").await.status, 401);
    assert_eq!(admin(&process, "/status", "new-token").await.status, 200);
}

#[tokio::test]
async fn a_reload_that_takes_all_clients_away_is_warned_of_once() {
    let origin = Origin::start().await;
    let client = "[[client]]\nname = \"billing\"\ntoken = { file = \"token\" }\n";
    let process = start(&toward(&origin, client), &[("token", "the-token")]).await;
    process.configure(&toward(&origin, "")).await;
    assert_eq!(process.get(STEP, &[]).await.status, 200);
    process
        .configure(&toward(&origin, "timeout = \"3s\"\n"))
        .await;
    process.terminate().await;
    let (_, output) = process.exit().await;
    let warned = |line: &&str| line.contains("WARN") && line.contains("no configured clients left");
    assert_eq!(output.lines().filter(warned).count(), 1, "{output}");
}
