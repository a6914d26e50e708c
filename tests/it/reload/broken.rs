//! Tests that an invalid configuration changes nothing, and that keys which need a restart are named.

use std::fs;

use super::{KEY, LISTEN, config_for, get_with_token, keys, start};
use crate::support::process::Launch;
use crate::support::process::{FILE, folder};
use crate::support::{Origin, Process, RawClient, STEP, client, step, until};

/// Asserts that after `damage` the old configuration stays, and that the log and `/status` name all
/// `problems`.
async fn assert_old_config_stays(damage: impl Fn(&Process), problems: &[&str]) {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "the-key")]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    damage(&process);
    process.reload().await;
    assert_eq!(process.reloads("failure").await, 1.0);
    let last = process.status().await["last_reload"].clone();
    assert_eq!(last["result"], "failure");
    assert!(last["timestamp_seconds"].as_f64() > Some(1.0e9), "{last}");
    let file = process.path(FILE).display().to_string();
    for problem in problems {
        let problem = problem.replace("FILE", &file);
        let problems = last["problems"].to_string();
        assert!(
            problems.contains(&problem),
            "{problem} is not in {problems}"
        );
        let logged = async || process.output().contains(&problem);
        until(&problem, logged).await;
    }
    assert!(process.get(STEP, &[]).await.is_hit());
    process.get(&step("other"), &[]).await;
    assert_eq!(keys(&origin), ["the-key", "the-key"]);
    process.configure(&config_for(&origin, KEY)).await;
    assert_eq!(process.reloads("success").await, 1.0);
    assert_eq!(process.status().await["last_reload"]["result"], "success");
}

#[tokio::test]
async fn c47_every_problem_of_an_invalid_configuration_is_named_with_its_place() {
    let text = "[upstream]\ntimout = \"6s\"\ntimeout = \"6 minits\"\n[server]\nallowed_hosts = 7\n";
    let places = ["FILE:2:1", "FILE:3:11", "FILE:5:17"];
    assert_old_config_stays(|process| process.write(FILE, text), &places).await;
}

#[tokio::test]
async fn c47_a_truncated_file_changes_nothing() {
    let text = "[upstream]\nbase_url = \"http://127.";
    assert_old_config_stays(|process| process.write(FILE, text), &["FILE:2:"]).await;
}

#[tokio::test]
async fn c47_an_empty_file_changes_nothing() {
    assert_old_config_stays(|process| process.write(FILE, ""), &["FILE"]).await;
}

#[tokio::test]
async fn c47_a_deleted_file_changes_nothing() {
    assert_old_config_stays(
        |process| fs::remove_file(process.path(FILE)).unwrap(),
        &["FILE"],
    )
    .await;
}

#[tokio::test]
async fn c47_an_unreadable_file_changes_nothing() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "the-key")]).await;
    fs::remove_file(process.path(FILE)).unwrap();
    fs::create_dir(process.path(FILE)).unwrap();
    process.reload().await;
    assert_eq!(process.reloads("failure").await, 1.0);
    assert_eq!(process.get(STEP, &[]).await.status, 200);
}

#[tokio::test]
async fn c47_a_file_that_is_not_utf_8_changes_nothing() {
    assert_old_config_stays(
        |process| process.write(FILE, b"[server]\n\xff\xfe\0"),
        &["FILE"],
    )
    .await;
}

#[tokio::test]
async fn c47_a_missing_secret_file_changes_nothing() {
    let origin = Origin::start().await;
    let other = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "the-key")]).await;
    let toml = KEY.replace("\"key\"", "\"nowhere\"");
    process.configure(&config_for(&other, &toml)).await;
    assert_eq!(process.reloads("failure").await, 1.0);
    assert!(
        process
            .output()
            .contains(&process.path("nowhere").display().to_string())
    );
    process.get(STEP, &[]).await;
    assert_eq!((keys(&origin).len(), other.count()), (1, 0));
}

#[tokio::test]
async fn no_problem_contains_a_possible_secret() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "the-key")]).await;
    for (nth, line) in [
        "[upstream.headers]\nx-portkey-api-key = \"canary\"\n",
        "[upstream.headers]\nx-portkey-api-key = \"canary\n",
        "[upstream.headers]\nx-portkey-api-key = canary\n",
        "[upstream.headers]\nx-portkey-api-key = { file = \"key\", value = \"canary\" }\n",
        "[upstream.headers]\nx-portkey-api-key = [\"canary\"]\n",
        "[upstream]\nbase_url = \"http://user:canary@127.0.0.1/v1\"\n",
        "[upstream]\nbase_url = \"http://127.0.0.1/v1?api-key=canary\"\n",
        "[upstream.query]\napi-key = \"canary\"\n",
        "[admin]\ntoken = \"canary\"\n",
        "[[client]]\nname = \"billing\"\ntoken = \"canary\"\n",
        "[[client]]\nname = \"billing\"\ntoken = [\"canary\", { env = \"NOWHERE\" }]\n",
    ]
    .into_iter()
    .enumerate()
    {
        process.configure(line).await;
        assert_eq!(process.reloads("failure").await, nth as f64 + 1.0, "{line}");
        let status = process.status().await.to_string();
        assert!(!status.contains("canary"), "{line}: {status}");
    }
    assert!(!process.output().contains("canary"), "{}", process.output());
}

#[tokio::test]
async fn keys_that_need_a_restart_are_named_and_all_others_applied() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let process = start(&config_for(&a, ""), &[]).await;
    let limits = "max_in_flight = 3\n\
                  [server]\nmax_connections = 7\nmax_long_polls = 7\nheader_timeout = \"3s\"\n\
                  [cache]\nmax_bytes = \"32MiB\"\n[log]\nformat = \"json\"\n";
    process.configure(&config_for(&b, limits)).await;
    let last = process.status().await["last_reload"].clone();
    assert_eq!(last["result"], "success");
    for name in [
        "upstream.max_in_flight",
        "server.max_connections",
        "server.max_long_polls",
        "server.header_timeout",
        "cache.max_bytes",
        "log.format",
    ] {
        assert!(last["needs_restart"].to_string().contains(name), "{last}");
        until(name, async || process.output().contains(name)).await;
    }
    process.get(STEP, &[]).await;
    assert_eq!((a.count(), b.count()), (0, 1));
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(RawClient::connect(process.data).await);
    }
    assert_eq!(
        process.get(STEP, &[]).await.status,
        200,
        "the old limit is in force"
    );
    process.configure(&config_for(&b, "")).await;
    let last = process.status().await["last_reload"].clone();
    assert_eq!(
        last["needs_restart"].as_array().map(Vec::len),
        Some(0),
        "{last}"
    );
}

/// Returns a configuration with a data listener on this address.
fn listen(origin: &Origin, address: &str, rest: &str) -> String {
    config_for(
        origin,
        &format!("[server]\nlisten = \"{address}:0\"\n{rest}"),
    )
}

const CLIENT: &str = "[[client]]\nname = \"billing\"\ntoken = { file = \"token\" }\n";

/// Starts a gateway whose data listener is on all addresses of this machine.
async fn beyond_loopback(origin: &Origin) -> Process {
    let toml = listen(origin, "0.0.0.0", CLIENT);
    let folder = folder(&[(FILE, &toml), ("token", "the-token")]);
    let mut process = Launch::new_in(folder, &LISTEN[2..]).start().await;
    process.data.set_ip([127, 0, 0, 1].into());
    process
}

#[tokio::test]
async fn a_changed_listener_is_named_and_stays() {
    let origin = Origin::start().await;
    let process = beyond_loopback(&origin).await;
    process
        .configure(&listen(&origin, "127.0.0.1", CLIENT))
        .await;
    let last = process.status().await["last_reload"].clone();
    assert!(
        last["needs_restart"].to_string().contains("server.listen"),
        "{last}"
    );
    assert_eq!(
        get_with_token(&process, STEP, "the-token").await.status,
        200
    );
}

#[tokio::test]
async fn a_reload_never_removes_the_clients_of_a_listener_beyond_loopback() {
    let origin = Origin::start().await;
    let process = beyond_loopback(&origin).await;
    // This is valid for a start, but the running listener stays beyond loopback.
    process.configure(&listen(&origin, "127.0.0.1", "")).await;
    assert_eq!(
        process.reloads("failure").await,
        1.0,
        "{}",
        process.output()
    );
    assert_eq!(process.get(STEP, &[]).await.status, 401);
    assert_eq!(
        get_with_token(&process, STEP, "the-token").await.status,
        200
    );
    // With allow_unauthenticated, the operator says that something else protects it.
    process
        .configure(&listen(
            &origin,
            "0.0.0.0",
            "allow_unauthenticated = true\n",
        ))
        .await;
    assert_eq!(
        process.get(STEP, &[("Host", "localhost")]).await.status,
        200
    );
}

#[tokio::test]
async fn a_reload_never_removes_the_token_of_an_admin_listener_beyond_loopback() {
    let origin = Origin::start().await;
    let with = |address: &str, token: &str| {
        config_for(
            &origin,
            &format!("[admin]\nlisten = \"{address}:0\"\n{token}"),
        )
    };
    let toml = with("0.0.0.0", "token = { file = \"token\" }\n");
    let folder = folder(&[(FILE, &toml), ("token", "the-token")]);
    let mut process = Launch::new_in(folder, &LISTEN[..2]).start().await;
    process.admin.set_ip([127, 0, 0, 1].into());
    let status = async || {
        client::send(process.admin, "GET", "/status", &[])
            .await
            .unwrap()
            .status
    };
    assert_eq!(status().await, 401);
    process.configure(&with("127.0.0.1", "")).await;
    assert_eq!(status().await, 401);
    assert_eq!(
        process.reloads("failure").await,
        1.0,
        "{}",
        process.output()
    );
}
