//! A pipe in a file's place is not opened: nobody may ever write to it, and whoever waits for that
//! hears no signal and sees no other file change.

use std::fs;
use std::path::Path;

use tokio::process::Command;

use super::{KEY, keys, start, toward};
use crate::support::process::{FILE, folder, run};
use crate::support::{Origin, Process, STEP, step, until};

const TOLD: &str = "is not a regular file";

/// A pipe in the place of what was there.
async fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    let made = Command::new("mkfifo").arg(path).status().await;
    assert!(made.unwrap().success());
}

/// So many reloads have failed, for the file at `path`.
async fn has_refused(process: &Process, path: &Path, times: f64) {
    let failed = async || process.reloads("failure").await == times;
    until("the refusal", failed).await;
    let path = path.display().to_string();
    let told = process.status().await["last_reload"]["problems"].to_string();
    assert!(told.contains(&path) && told.contains(TOLD), "{told}");
    let logged = |line: &str| line.contains(&path) && line.contains(TOLD);
    until("the log", async || process.output().lines().any(logged)).await;
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_secret_changes_nothing_and_ends_no_reloading() {
    let origin = Origin::start().await;
    let process = start(&toward(&origin, KEY), &[("key", "old-key")]).await;
    let key = process.path("key");
    pipe(&key).await;
    has_refused(&process, &key, 1.0).await;
    process.signal("HUP").await;
    has_refused(&process, &key, 2.0).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    fs::remove_file(&key).unwrap();
    fs::write(&key, "new-key").unwrap();
    let taken = async || process.reloads("success").await > 0.0;
    until("the new key", taken).await;
    process.get(&step("other"), &[]).await;
    assert_eq!(keys(&origin), ["old-key", "new-key"]);
    process.reload().await;
    assert_eq!(process.reloads("success").await, 2.0, "the signal is heard");
}

#[tokio::test]
async fn a_pipe_in_the_place_of_the_configuration_changes_nothing_and_ends_no_reloading() {
    let (old, new) = (Origin::start().await, Origin::start().await);
    let process = start(&toward(&old, KEY), &[("key", "old-key")]).await;
    let file = process.path(FILE);
    pipe(&file).await;
    process.signal("HUP").await;
    has_refused(&process, &file, 1.0).await;
    process.get(STEP, &[]).await;
    process.write("key", "new-key");
    let taken = async || process.reloads("success").await > 0.0;
    until("the new key", taken).await;
    fs::remove_file(&file).unwrap();
    process.configure(&toward(&new, KEY)).await;
    process.get(STEP, &[]).await;
    assert_eq!(
        (keys(&old), keys(&new)),
        (vec!["old-key".to_owned()], vec!["new-key".to_owned()])
    );
}

#[tokio::test]
async fn a_pipe_or_a_device_in_the_place_of_a_secret_or_certificate_is_refused() {
    for toml in [
        "[upstream.headers]\nx-portkey-api-key = { file = \"FILE\" }\n",
        "[admin]\ntoken = { file = \"FILE\" }\n",
        "[upstream]\nca_file = \"FILE\"\n",
        "[server.tls]\ncert = \"FILE\"\nkey = \"FILE\"\nclient_ca = \"FILE\"\n",
    ] {
        for name in ["pipe", "/dev/zero", "link"] {
            let toml = toml.replace("FILE", name);
            let folder = folder(&[(FILE, &toml)]);
            pipe(&folder.path().join("pipe")).await;
            std::os::unix::fs::symlink("pipe", folder.path().join("link")).unwrap();
            let file = folder.path().join(FILE).display().to_string();
            let (code, told) = run(&["check", "--config", &file], &[]).await;
            assert_eq!(code, Some(78), "{toml}{told}");
            let places = toml.matches(name).count();
            assert_eq!(told.matches(TOLD).count(), places, "{toml}{told}");
        }
    }
}
