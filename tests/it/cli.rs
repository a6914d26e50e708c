//! Tests the program as a process: exit codes, error messages, `health`, SIGHUP.

mod help;
mod usage_errors;
mod warnings;

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::gateway::ENVIRONMENT;
use crate::support::process::FILE;
use crate::support::process::Launch;
use crate::support::{Origin, Process, STEP, process, until, within};

/// Runs the program to its end with an empty environment.
async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    process::run(arguments, &[]).await
}

#[tokio::test]
async fn bad_usage_is_exit_code_2() {
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
async fn a_bad_configuration_is_exit_code_78_and_names_every_problem() {
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
async fn an_address_in_use_is_exit_code_1_and_names_the_flag_for_another() {
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
                let last = text.lines().last().unwrap_or_default();
                let advice = format!("is another stepgate running? choose another with {flag}");
                assert!(last.contains(address) && last.contains(&advice), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_demo_on_other_ports_says_why() {
    // An error means that another process has the port, which serves as well.
    let _taken = std::net::TcpListener::bind("127.0.0.1:8180");
    let arguments = ["demo", "--duration", "100ms", "--pollers", "1"];
    let (code, text) = run(&arguments).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("127.0.0.1:8180 is not free"), "{text}");
    assert!(!text.contains("curl -i http://127.0.0.1:8180/"), "{text}");
}

#[tokio::test]
async fn the_configuration_can_be_read_from_a_pipe() {
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
    // The address comes from the configuration, so it was read.
    let text = String::from_utf8_lossy(&output.unwrap().stderr).into_owned();
    assert!(text.contains(&format!("{taken}: ")), "{text}");
}

#[tokio::test]
async fn health_reports_whether_the_gateway_is_ready() {
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
async fn health_needs_only_the_admin_address_of_the_configuration() {
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
        let (code, output) = run(&arguments).await;
        assert_eq!(code, Some(0), "{text}: {output}");
    }
    let (code, output) = run(&["health", "--admin", &admin, "--config", "/no/such/file"]).await;
    assert_eq!(code, Some(0), "{output}");
}

#[tokio::test]
async fn health_fails_if_the_admin_address_is_uncertain() {
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
        let (code, output) = run(&["health", "--config", &file_name]).await;
        assert_eq!(code, Some(1), "{text}: {output}");
        assert!(output.contains("wrong.toml"), "{text}: {output}");
    }
    for (arguments, named) in [
        (
            &["health", "--config", "/no/such/file.toml"][..],
            "/no/such/file.toml",
        ),
        (&["health", "--admin", "nonsense"], "--admin"),
    ] {
        let (code, output) = run(arguments).await;
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains(named), "{output}");
    }
}

#[tokio::test]
async fn a_plain_http_upstream_beyond_loopback_is_warned_of() {
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
    // A reload does not repeat a warning that has not changed.
    let before = format!("[upstream]\nbase_url = \"{beyond}\"\n[cache]\nttl = \"1h\"\n");
    process.configure(&before).await;
    assert_eq!(warned(), 1, "{}", process.output());
    let local = format!("[upstream]\nbase_url = \"{}\"\n", origin.url());
    process.configure(&local).await;
    process.configure(&before).await;
    until("the warning", async || warned() == 2).await;
}

#[tokio::test]
async fn sighup_reloads_the_configuration() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, "", "info").await;
    process.signal("HUP").await;
    let line = "configuration reloaded";
    until("a reload", async || process.output().contains(line)).await;
    assert_eq!(process.get(STEP, &[]).await.status, 200);
    process.terminate().await;
    assert!(process.exit().await.0.success());
}
