//! The program: exit codes, signals, what it writes (catalogue 16).

use std::process::Stdio;

use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::gateway::{API_KEY, BILLING_TOKEN, TWO_CLIENTS};
use crate::support::raw::{ask, head};
use crate::support::{Act, Gate, Origin, Process, Raw, STEP, body, respond, step, until, within};

/// Runs it to its end with nothing in its environment: exit code and standard error.
async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stepgate"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    let output = within("the program's end", command.kill_on_drop(true).output()).await;
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

#[tokio::test]
async fn bad_usage_is_exit_2() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["--log-format", "loud"],
    ] {
        let (code, text) = run(arguments).await;
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn a_bad_configuration_is_exit_78_and_names_every_problem() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    std::fs::write(
        &file,
        "[upstream]\ntimout = \"6s\"\ntimeout = \"6 minits\"\n",
    )
    .unwrap();
    let file = file.display().to_string();
    let (code, text) = run(&["serve", "--config", &file, "--listen", "nowhere"]).await;
    assert_eq!(code, Some(78), "{text}");
    for part in [
        &format!("{file}:2:1"),
        &format!("{file}:3:"),
        "--listen",
        "PORTKEY_API_KEY",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_an_error_exit_that_names_it() {
    let taken = Origin::start().await;
    let address = taken.address.to_string();
    let process = Command::new(env!("CARGO_BIN_EXE_stepgate"))
        .args(["--listen", &address, "--admin", "127.0.0.1:0"])
        .env_clear()
        .envs(crate::support::gateway::ENVIRONMENT)
        .kill_on_drop(true)
        .output();
    let output = within("the program's end", process).await.unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&address), "{text}");
}

#[tokio::test]
async fn health_asks_the_running_gateway() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, "", "info").await;
    let admin = process.admin.to_string();
    let (code, text) = run(&["health", "--admin", &admin]).await;
    assert_eq!(code, Some(0), "{text}");
    process.terminate().await;
    process.exit().await;
    let (code, text) = run(&["health", "--admin", &admin]).await;
    assert_eq!(code, Some(1), "{text}");
}

#[tokio::test]
async fn health_does_not_ask_some_other_gateway_where_its_configuration_is_wrong() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, "", "info").await;
    let admin = process.admin.to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "[admin]\nlistn = \"127.0.0.1:1\"\n").unwrap();
    let file = file.display().to_string();
    for arguments in [
        &[
            "health",
            "--admin",
            &admin,
            "--config",
            "/no/such/file.toml",
        ][..],
        &["health", "--admin", &admin, "--config", &file],
        &["health", "--admin", "nonsense"],
    ] {
        let (code, text) = run(arguments).await;
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        assert!(!text.is_empty(), "{arguments:?}");
    }
}

#[tokio::test]
async fn sighup_reads_the_configuration_anew() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, "", "info").await;
    process.signal("HUP").await;
    let said = "configuration reloaded";
    until("a reload", async || process.output().contains(said)).await;
    assert_eq!(process.get(STEP, &[]).await.status, 200);
    process.terminate().await;
    assert!(process.exit().await.0.success());
}

#[tokio::test]
async fn catalogue_16_no_secret_is_ever_written_or_shown() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, TWO_CLIENTS, "trace").await;
    let token = format!("Bearer {BILLING_TOKEN}");
    let known = [
        ("Authorization", token.as_str()),
        ("Cookie", "canary-cookie"),
    ];
    let unknown = [
        ("Authorization", "Bearer canary-caller"),
        ("api-key", "canary-caller"),
    ];
    let echo = format!("{{\"error\":\"no such key {API_KEY}\"}}");
    origin.next(vec![Act::Default]);
    origin.next(vec![Act::Send(respond(
        "401 No",
        &[("x-echo", API_KEY)],
        echo,
    ))]);
    origin.next(vec![
        Act::Send(b"HTTP/1.1 nonsense\r\n\r\n".to_vec()),
        Act::Close,
    ]);
    let mut shown = String::new();
    for (path, headers, status) in [
        (STEP, known, 200),
        (STEP, known, 200),
        (&step("echo"), known, 502),
        (&step("nonsense"), known, 502),
        (STEP, unknown, 401),
        ("/v1/nowhere", known, 404),
        ("/v1/threads/%00/runs/r/steps/s", known, 400),
    ] {
        let answer = process.get(path, &headers).await;
        assert_eq!(answer.status, status, "{path}");
        shown += &answer.everything();
    }
    for path in ["/metrics", "/status", "/", "/ready"] {
        shown += &ask(process.admin, "GET", path, &[])
            .await
            .unwrap()
            .everything();
    }
    process.terminate().await;
    let (_, written) = process.exit().await;
    assert!(written.contains("TRACE"), "the log was not at trace level");
    for text in [shown, written] {
        let at = text.find("canary").map(|i| text[..i].lines().count());
        assert_eq!(at, None, "{text}");
    }
}

#[tokio::test]
async fn on_sigterm_what_was_accepted_is_answered_and_the_exit_is_0() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, "", "info").await;
    let gate = Gate::closed();
    origin.next(vec![Act::Wait(gate.clone()), Act::Default]);
    let mut raw = Raw::connect(process.data).await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    origin.arrived(1).await;
    process.terminate().await;
    let refused = || async { TcpStream::connect(process.data).await.is_err() };
    until("the data listener to be gone", refused).await;
    gate.open();
    assert_eq!(raw.answer().await.body, body("completed"));
    let (status, output) = process.exit().await;
    assert_eq!(status.code(), Some(0), "{output}");
}

#[tokio::test]
async fn while_draining_it_is_not_ready() {
    let origin = Origin::start().await;
    let toml = "[server]\nlame_duck = \"5s\"\n";
    let process = Process::start(&origin, toml, "info").await;
    process.terminate().await;
    let unready = || async {
        let answer = ask(process.admin, "GET", "/ready", &[]).await;
        answer.is_ok_and(|a| a.status == 503)
    };
    until("readiness to end", unready).await;
    assert_eq!(
        process.get(STEP, &[]).await.status,
        200,
        "a lame duck still answers"
    );
}

#[tokio::test]
async fn a_drain_ends_at_its_timeout_whatever_still_flies() {
    let origin = Origin::start().await;
    let toml = "[server]\ndrain_timeout = \"2s\"\n";
    let process = Process::start(&origin, toml, "info").await;
    origin.always(vec![Act::Hold]);
    let mut raw = Raw::connect(process.data).await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    origin.arrived(1).await;
    process.terminate().await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.code().as_deref(), Some("draining"));
    assert!(answer.header("retry-after").is_some());
    let (status, output) = process.exit().await;
    assert_eq!(status.code(), Some(0), "{output}");
}
