//! Tests that a pipe in the place of a file is not opened. Opening it could block for ever, and signals
//! and other file changes would be missed.

use std::fs;
use std::path::Path;

use tokio::process::Command;

use super::{KEY, config_for, keys, start};
use crate::support::process::{FILE, folder, run};
use crate::support::{Origin, Process, STEP, step, until};

const PROBLEM: &str = "is not a regular file";

/// Replaces the file by a pipe.
async fn replace_by_pipe(path: &Path) {
    let _ = fs::remove_file(path);
    let made = Command::new("mkfifo").arg(path).status().await;
    assert!(made.unwrap().success());
}

/// Waits until `times` reloads have failed because of the file at `path`.
async fn wait_for_failures(process: &Process, path: &Path, times: f64) {
    let failed = async || process.reloads("failure").await == times;
    until("the failed reload", failed).await;
    let path = path.display().to_string();
    let problems = process.status().await["last_reload"]["problems"].to_string();
    assert!(
        problems.contains(&path) && problems.contains(PROBLEM),
        "{problems}"
    );
    let logged = |line: &str| line.contains(&path) && line.contains(PROBLEM);
    until("the log", async || process.output().lines().any(logged)).await;
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_secret_changes_nothing_and_later_reloads_work() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "old-key")]).await;
    let key = process.path("key");
    replace_by_pipe(&key).await;
    wait_for_failures(&process, &key, 1.0).await;
    process.signal("HUP").await;
    wait_for_failures(&process, &key, 2.0).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    fs::remove_file(&key).unwrap();
    fs::write(&key, "new-key").unwrap();
    let reloaded = async || process.reloads("success").await > 0.0;
    until("the new key", reloaded).await;
    process.get(&step("other"), &[]).await;
    assert_eq!(keys(&origin), ["old-key", "new-key"]);
    process.reload().await;
    assert_eq!(
        process.reloads("success").await,
        2.0,
        "SIGHUP still reloads"
    );
}

#[tokio::test]
async fn a_pipe_in_the_place_of_the_configuration_changes_nothing_and_later_reloads_work() {
    let (old, new) = (Origin::start().await, Origin::start().await);
    let process = start(&config_for(&old, KEY), &[("key", "old-key")]).await;
    let file = process.path(FILE);
    replace_by_pipe(&file).await;
    process.signal("HUP").await;
    wait_for_failures(&process, &file, 1.0).await;
    process.get(STEP, &[]).await;
    process.write("key", "new-key");
    let reloaded = async || process.reloads("success").await > 0.0;
    until("the new key", reloaded).await;
    fs::remove_file(&file).unwrap();
    process.configure(&config_for(&new, KEY)).await;
    process.get(STEP, &[]).await;
    assert_eq!(
        (keys(&old), keys(&new)),
        (vec!["old-key".to_owned()], vec!["new-key".to_owned()])
    );
}

#[tokio::test]
async fn a_pipe_or_device_in_the_place_of_a_secret_or_certificate_is_refused() {
    for toml in [
        "[upstream.headers]\nx-portkey-api-key = { file = \"FILE\" }\n",
        "[admin]\ntoken = { file = \"FILE\" }\n",
        "[upstream]\nca_file = \"FILE\"\n",
        "[server.tls]\ncert = \"FILE\"\nkey = \"FILE\"\nclient_ca = \"FILE\"\n",
    ] {
        for name in ["pipe", "/dev/zero", "link"] {
            let toml = toml.replace("FILE", name);
            let folder = folder(&[(FILE, &toml)]);
            replace_by_pipe(&folder.path().join("pipe")).await;
            std::os::unix::fs::symlink("pipe", folder.path().join("link")).unwrap();
            let file = folder.path().join(FILE).display().to_string();
            let (code, output) = run(&["check", "--config", &file], &[]).await;
            assert_eq!(code, Some(78), "{toml}{output}");
            let places = toml.matches(name).count();
            assert_eq!(output.matches(PROBLEM).count(), places, "{toml}{output}");
        }
    }
}
