//! A secret in place of the name of its file or variable: it is rejected, and never repeated.

use crate::support::process::{FILE, Launch, folder, run};
use crate::support::until;

const NO_PATH: &str = "is not a path; write the path of the file, not its content";
const NO_NAME: &str = "is not the name of an environment variable";

/// Returns configurations with a literal secret, each with the expected problem.
fn literal_secrets() -> Vec<(String, &'static str)> {
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
async fn check_and_serve_do_not_repeat_a_literal_secret() {
    for (toml, words) in literal_secrets() {
        let folder = folder(&[(FILE, &toml)]);
        let file = folder.path().join(FILE).display().to_string();
        for command in ["check", "serve"] {
            let (code, output) = run(&[command, "--config", &file], &[]).await;
            assert_eq!(code, Some(78), "{toml}{output}");
            assert!(output.contains(words), "{toml}{output}");
            assert!(!output.contains("canary"), "{toml}{output}");
        }
    }
}

#[tokio::test]
async fn reload_log_and_status_do_not_repeat_a_literal_secret() {
    let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let process = Launch::new_in(folder(&[(FILE, "[log]\n")]), &listen)
        .log("trace")
        .start()
        .await;
    for (nth, (toml, words)) in literal_secrets().into_iter().enumerate() {
        process.configure(&toml).await;
        assert_eq!(process.reloads("failure").await, nth as f64 + 1.0, "{toml}");
        let status = process.status().await.to_string();
        assert!(status.contains(words), "{toml}{status}");
        assert!(!status.contains("canary"), "{toml}{status}");
    }
    until("the log", async || process.output().contains(NO_NAME)).await;
    assert!(!process.output().contains("canary"), "{}", process.output());
}
