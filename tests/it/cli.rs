//! The program: exit codes, signals, what it writes.

mod looks;
mod usage_errors;
mod warnings;

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::gateway::ENVIRONMENT;
use crate::support::process::FILE;
use crate::support::process::Launch;
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
async fn an_address_in_use_is_an_error_exit_that_names_it_and_the_flag_for_another() {
    let taken = Origin::start().await;
    let address = &*taken.address.to_string();
    const FREE: &str = "127.0.0.1:0";
    for command in ["serve", "demo"] {
        for (listen, admin, flag) in [(address, FREE, "--listen"), (FREE, address, "--admin")] {
            for format in ["text", "json"] {
                let mut arguments = vec![command, "--listen", listen, "--admin", admin];
                if command == "serve" {
                    arguments.extend(["--log-format", format]);
                }
                let (code, text) = process::run(&arguments, &ENVIRONMENT).await;
                assert_eq!(code, Some(1), "{text}");
                let told = text.lines().last().unwrap_or_default();
                let advice = format!("is another stepgate running? choose another with {flag}");
                assert!(told.contains(address) && told.contains(&advice), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_demo_that_takes_other_ports_says_why() {
    // Where somebody has it already, that does as well.
    let _taken = std::net::TcpListener::bind("127.0.0.1:8180");
    let arguments = ["demo", "--duration", "100ms", "--pollers", "1"];
    let (code, text) = run(&arguments).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("127.0.0.1:8180 is not free"), "{text}");
    assert!(!text.contains("curl -i http://127.0.0.1:8180/"), "{text}");
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
async fn health_asks_a_gateway_whatever_has_become_of_its_files() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, "", "info").await;
    let listen = format!("[admin]\nlisten = \"{}\"\n", process.admin);
    let admin = process.admin.to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("changed.toml");
    let file_name = file.display().to_string();
    for (text, flag) in [
        (
            "token = { file = \"vanished\" }\n[server.tls]\ncert = \"half\"",
            false,
        ),
        ("[upstream.headers]\nx-k = { env = \"NOT_SET\" }", false),
        ("[cache]\nttl = \"for ever\"", false),
        ("[server", true),
        ("listn = 1", true),
    ] {
        std::fs::write(&file, format!("{listen}{text}\n")).unwrap();
        let mut arguments = vec!["health", "--config", &file_name];
        if flag {
            arguments.extend(["--admin", &admin]);
        }
        let (code, told) = run(&arguments).await;
        assert_eq!(code, Some(0), "{text}: {told}");
    }
    let (code, told) = run(&["health", "--admin", &admin, "--config", "/no/such/file"]).await;
    assert_eq!(code, Some(0), "{told}");
}

#[tokio::test]
async fn health_does_not_ask_some_other_gateway_where_its_address_is_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    let file_name = file.display().to_string();
    for text in [
        "[admin]\nlistn = \"127.0.0.1:1\"\n",
        "[admin\n",
        "[admin]\nlisten = \"nonsense\"\n",
        "",
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, told) = run(&["health", "--config", &file_name]).await;
        assert_eq!(code, Some(1), "{text}: {told}");
        assert!(told.contains("wrong.toml"), "{text}: {told}");
    }
    for (arguments, named) in [
        (
            &["health", "--config", "/no/such/file.toml"][..],
            "/no/such/file.toml",
        ),
        (&["health", "--admin", "nonsense"], "--admin"),
    ] {
        let (code, told) = run(arguments).await;
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains(named), "{told}");
    }
}

#[tokio::test]
async fn credentials_that_leave_the_machine_in_the_clear_are_warned_of() {
    let beyond = "http://stepgate.invalid/v1";
    let arguments = ["check", "--upstream", beyond];
    let (code, text) = process::run(&arguments, &ENVIRONMENT).await;
    assert_eq!(code, Some(0), "{text}");
    let warning = format!("warning: upstream.base_url: {beyond} has no TLS");
    assert_eq!(text.matches(&warning).count(), 1, "{text}");

    let origin = Origin::start().await;
    let folder = process::folder(&[(FILE, &format!("[upstream]\nbase_url = \"{beyond}\"\n"))]);
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let process = Launch::new_in(folder, &arguments).start().await;
    let warned = || {
        let output = process.output();
        let lines = output.lines().filter(|line| line.contains(" WARN "));
        lines.filter(|line| line.contains("has no TLS")).count()
    };
    assert_eq!(warned(), 1, "{}", process.output());
    // As long as it is the same it is not said again.
    let before = format!("[upstream]\nbase_url = \"{beyond}\"\n[cache]\nttl = \"1h\"\n");
    process.configure(&before).await;
    assert_eq!(warned(), 1, "{}", process.output());
    let local = format!("[upstream]\nbase_url = \"{}\"\n", origin.url());
    process.configure(&local).await;
    process.configure(&before).await;
    until("the warning", async || warned() == 2).await;
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
