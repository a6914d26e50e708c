//! The program: exit codes, signals, what it writes.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::gateway::ENVIRONMENT;
use crate::support::{Origin, Process, STEP, process, until, within};

/// Runs it to its end with nothing in its environment.
async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    process::run(arguments, &[]).await
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
    let arguments = ["--listen", &address, "--admin", "127.0.0.1:0"];
    let (code, text) = process::run(&arguments, &ENVIRONMENT).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&address), "{text}");
}

#[tokio::test]
async fn a_configuration_may_come_through_a_pipe() {
    let origin = Origin::start().await;
    let taken = origin.address;
    let toml = format!("[server]\nlisten = \"{taken}\"\n");
    let mut process = Command::new(env!("CARGO_BIN_EXE_stepgate"))
        .args(["serve", "--config", "/dev/stdin"])
        .env_clear()
        .envs(ENVIRONMENT)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut pipe = process.stdin.take().unwrap();
    pipe.write_all(toml.as_bytes()).await.unwrap();
    drop(pipe);
    let output = within("the program's end", process.wait_with_output()).await;
    // It was read, or that address would not be asked for.
    let text = String::from_utf8_lossy(&output.unwrap().stderr).into_owned();
    assert!(text.contains(&format!("{taken}: ")), "{text}");
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
