//! A secret that was written where its file or variable should be named: refused, and repeated
//! nowhere.

use crate::support::process::Launch;
use crate::support::process::{FILE, folder, run};
use crate::support::until;

const NO_PATH: &str = "is not a path; write where the file is, not what it holds";
const NO_NAME: &str = "is not the name of an environment variable";

/// Key and secret, each with what is said.
fn misplaced() -> Vec<(String, &'static str)> {
    let pem = "\"\"\"-----BEGIN PRIVATE KEY-----\nMIGcanary\n-----END PRIVATE KEY-----\n\"\"\"";
    let one_line = "\"-----BEGIN PRIVATE KEY----- MIGcanary\"";
    let lines = "\"canary\\nof two lines\"";
    let long = &format!("{:?}", "canary".repeat(1000));
    let mut all = Vec::new();
    for content in [pem, one_line, lines, long] {
        for toml in [
            format!("[server.tls]\ncert = {content}\nkey = \"gone\"\n"),
            format!("[server.tls]\ncert = \"gone\"\nkey = {content}\n"),
            format!("[server.tls]\ncert = \"gone\"\nkey = \"gone\"\nclient_ca = {content}\n"),
            format!("[upstream]\nca_file = {content}\n"),
            format!("[admin.token]\nfile = {content}\n"),
        ] {
            all.push((toml, NO_PATH));
        }
    }
    for name in [
        "sk-canary",
        "canary 1",
        "1canary",
        "canary=",
        "canäry-canary",
    ] {
        for toml in [
            format!("[upstream.headers]\nx-portkey-api-key = {{ env = {name:?} }}\n"),
            format!("[[client]]\nname = \"a\"\ntoken = [{{ env = {name:?} }}]\n"),
            format!("[admin]\ntoken = {{ env = {name:?} }}\n"),
        ] {
            all.push((toml, NO_NAME));
        }
    }
    all
}

#[tokio::test]
async fn a_misplaced_secret_is_repeated_neither_by_check_nor_at_the_start() {
    for (toml, words) in misplaced() {
        let folder = folder(&[(FILE, &toml)]);
        let file = folder.path().join(FILE).display().to_string();
        for command in ["check", "serve"] {
            let (code, told) = run(&[command, "--config", &file], &[]).await;
            assert_eq!(code, Some(78), "{toml}{told}");
            assert!(told.contains(words), "{toml}{told}");
            assert!(!told.contains("canary"), "{toml}{told}");
        }
    }
}

#[tokio::test]
async fn a_misplaced_secret_is_repeated_neither_in_the_log_of_a_reload_nor_in_the_status() {
    let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let process = Launch::new_in(folder(&[(FILE, "[log]\n")]), &listen)
        .log("trace")
        .start()
        .await;
    for (nth, (toml, words)) in misplaced().into_iter().enumerate() {
        process.configure(&toml).await;
        assert_eq!(process.reloads("failure").await, nth as f64 + 1.0, "{toml}");
        let status = process.status().await.to_string();
        assert!(status.contains(words), "{toml}{status}");
        assert!(!status.contains("canary"), "{toml}{status}");
    }
    until("the log", async || process.output().contains(NO_NAME)).await;
    assert!(!process.output().contains("canary"), "{}", process.output());
}
