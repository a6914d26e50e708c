//! Tests that changed secret files are read again without a signal, and that an invalid one changes
//! nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::sleep;

use super::{KEY, LISTEN, config_for, keys, start};
use crate::support::certificates::{Authority, Flaw};
use crate::support::process::Launch;
use crate::support::process::{FILE, folder};
use crate::support::{Origin, Process, STEP, step, until};

/// Several intervals of the file watcher.
const WATCH_INTERVALS: Duration = Duration::from_secs(4);

const SECRETS_LOADED: &str = "stepgate_secrets_loaded_timestamp_seconds";

/// Asserts that a gateway that has stored [`STEP`] uses `new-key` once `replace` has written it to the
/// file `key`, and that the cache stays.
async fn assert_rotates(replace: impl Fn(&Path)) {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "old-key\n")]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    let before = process.metric(SECRETS_LOADED).await;
    replace(&process.path("key"));
    until("the new key", async || {
        process.reloads("success").await > 0.0
    })
    .await;
    process.get(&step("other"), &[]).await;
    assert_eq!(keys(&origin), ["old-key", "new-key"]);
    assert!(process.get(STEP, &[]).await.is_hit(), "the cache was lost");
    assert!(process.metric(SECRETS_LOADED).await > before);
    let status = process.status().await;
    assert_eq!(status["last_reload"]["result"], "success");
}

#[tokio::test]
async fn a_secret_file_rewritten_in_place_is_used_and_the_cache_stays() {
    assert_rotates(|key| fs::write(key, "new-key\n").unwrap()).await;
}

#[tokio::test]
async fn a_secret_file_replaced_by_a_rename_is_used() {
    assert_rotates(|key| {
        let beside = key.with_extension("new");
        fs::write(&beside, "new-key").unwrap();
        fs::rename(beside, key).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_secret_file_of_the_same_length_and_mtime_is_used() {
    assert_rotates(|key| {
        let time = fs::metadata(key).unwrap().modified().unwrap();
        fs::write(key, "new-key\n").unwrap();
        let file = fs::File::options().append(true).open(key).unwrap();
        file.set_modified(time).unwrap();
    })
    .await;
}

/// Writes a version of a Kubernetes secret volume: `api` and `virtual` link into `..data`, which links to
/// the folder of the version.
fn write_volume(root: &Path, version: &str) {
    let folder = root.join(format!("..{version}"));
    fs::create_dir(&folder).unwrap();
    for name in ["api", "virtual"] {
        fs::write(folder.join(name), format!("{name}-{version}")).unwrap();
    }
    let link = root.join("..data_tmp");
    symlink(&folder, &link).unwrap();
    fs::rename(link, root.join("..data")).unwrap();
}

/// Starts a gateway that injects two secrets from such a volume, in its first version.
async fn start_on_volume(origin: &Origin) -> Process {
    origin.set_status("in_progress");
    let toml = config_for(
        origin,
        "coalesce_window = \"0s\"\n[upstream.headers]\n\
         x-portkey-api-key = { file = \"api\" }\n\
         x-portkey-virtual-key = { file = \"virtual\" }\n",
    );
    let folder = folder(&[(FILE, &toml)]);
    write_volume(folder.path(), "v1");
    for name in ["api", "virtual"] {
        symlink(Path::new("..data").join(name), folder.path().join(name)).unwrap();
    }
    Launch::new_in(folder, &LISTEN).start().await
}

/// Returns both keys of every request in order, without repetitions.
fn pairs(origin: &Origin) -> Vec<[String; 2]> {
    let requests = origin.requests();
    let pairs = requests
        .iter()
        .map(|r| ["x-portkey-api-key", "x-portkey-virtual-key"].map(|name| r.all(name).concat()));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.dedup();
    pairs
}

fn pair(version: &str) -> [String; 2] {
    ["api", "virtual"].map(|name| format!("{name}-{version}"))
}

#[tokio::test]
async fn secrets_that_change_together_are_used_together() {
    let origin = Origin::start().await;
    let process = start_on_volume(&origin).await;
    for (before, version) in ["v2", "v3"].into_iter().enumerate() {
        write_volume(process.path("").as_path(), version);
        until("the new secrets", async || {
            process.get(STEP, &[]).await;
            process.reloads("success").await > before as f64
        })
        .await;
    }
    process.get(STEP, &[]).await;
    assert_eq!(pairs(&origin), ["v1", "v2", "v3"].map(pair));
}

#[tokio::test]
async fn secrets_that_change_during_a_read_are_not_mixed() {
    let origin = Origin::start().await;
    let process = start_on_volume(&origin).await;
    let mut last = 1;
    let swap = async {
        loop {
            last += 1;
            write_volume(process.path("").as_path(), &format!("v{last}"));
            fs::remove_dir_all(process.path(&format!("..v{}", last - 1))).unwrap();
            // Most versions follow at once. After every 16th there is time for a stable read.
            match last % 16 {
                0 => sleep(Duration::from_millis(5)).await,
                _ => yield_now().await,
            }
        }
    };
    let reload = async {
        for _ in 0..200 {
            process.reload().await;
            process.get(STEP, &[]).await;
        }
    };
    tokio::select! { () = swap => {} () = reload => {} }
    process.reload().await;
    process.get(STEP, &[]).await;
    let pairs = pairs(&origin);
    for used in &pairs {
        let version = used[0].trim_start_matches("api-");
        assert_eq!(*used, pair(version));
    }
    assert_eq!(pairs.last(), Some(&pair(&format!("v{last}"))));
}

/// Asserts that after `damage` to the file `key` the old key stays, and that one failed reload is
/// recorded.
async fn assert_old_key_stays(damage: impl Fn(&Path)) {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "old-key")]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    let key = process.path("key");
    damage(&key);
    let failed = async || process.reloads("failure").await > 0.0;
    until("the failed reload", failed).await;
    sleep(WATCH_INTERVALS).await;
    assert_eq!(
        process.reloads("failure").await,
        1.0,
        "reloads that failed: one, and not one in each interval"
    );
    let last = process.status().await["last_reload"].clone();
    assert_eq!(last["result"], "failure");
    for text in [last.to_string(), process.output()] {
        assert!(text.contains(&key.display().to_string()), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
    process.get(&step("meanwhile"), &[]).await;
    assert!(process.get(STEP, &[]).await.is_hit());
    fs::write(&key, "new-key").unwrap();
    let used = async || process.reloads("success").await > 0.0;
    until("the valid key", used).await;
    process.get(&step("afterwards"), &[]).await;
    assert_eq!(keys(&origin), ["old-key", "old-key", "new-key"]);
}

#[tokio::test]
async fn an_empty_secret_file_changes_nothing() {
    assert_old_key_stays(|key| fs::write(key, " \n").unwrap()).await;
}

#[tokio::test]
async fn a_deleted_secret_file_changes_nothing() {
    assert_old_key_stays(|key| fs::remove_file(key).unwrap()).await;
}

#[tokio::test]
async fn a_huge_secret_file_changes_nothing() {
    assert_old_key_stays(|key| fs::write(key, "canary".repeat(1024 * 1024)).unwrap()).await;
}

#[tokio::test]
async fn a_secret_file_with_a_control_character_changes_nothing() {
    assert_old_key_stays(|key| fs::write(key, "canary-\u{1}-key").unwrap()).await;
}

#[tokio::test]
async fn a_secret_file_with_two_lines_changes_nothing() {
    assert_old_key_stays(|key| fs::write(key, "canary-one\r\nx-admin: canary-two").unwrap()).await;
}

#[tokio::test]
async fn a_secret_file_restored_to_its_old_content_ends_the_failure() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "old-key")]).await;
    fs::remove_file(process.path("key")).unwrap();
    let failed = async || process.reloads("failure").await > 0.0;
    until("the failed reload", failed).await;
    process.write("key", "old-key");
    let ended = async || process.status().await["last_reload"]["result"] == "success";
    until("the end of the failure", ended).await;
    process.get(STEP, &[]).await;
    assert_eq!(keys(&origin), ["old-key"]);
}

#[tokio::test]
async fn changed_root_certificates_are_used_and_invalid_ones_are_not() {
    let (wrong, right) = (Authority::new(), Authority::new());
    let origin = Origin::start_tls(&right, Flaw::None).await;
    let toml = format!(
        "[upstream]\nbase_url = \"https://{}/v1\"\nca_file = \"roots\"\n",
        origin.address
    );
    let roots = |authority: &Authority| fs::read_to_string(authority.file()).unwrap();
    let process = start(&toml, &[("roots", &roots(&wrong))]).await;
    assert_eq!(process.get(STEP, &[]).await.status, 502);
    process.write("roots", roots(&right));
    let used = async || process.reloads("success").await > 0.0;
    until("the new roots", used).await;
    assert_eq!(process.get(STEP, &[]).await.status, 200);
    process.write("roots", "-----BEGIN CERTIFICATE-----\nno\n");
    let failed = async || process.reloads("failure").await > 0.0;
    until("the failed reload", failed).await;
    assert!(process.output().contains("roots"), "{}", process.output());
    assert_eq!(process.get(&step("other"), &[]).await.status, 200);
}

#[tokio::test]
async fn a_change_causes_one_reload() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "key-0")]).await;
    process.write("key", "key-1");
    process.reload().await;
    sleep(WATCH_INTERVALS).await;
    assert_eq!(process.reloads("success").await, 1.0, "reloads by SIGHUP");
    process.write("key", "key-2");
    sleep(WATCH_INTERVALS).await;
    assert_eq!(
        process.reloads("success").await,
        2.0,
        "reloads by SIGHUP and by the file watcher"
    );
}

#[tokio::test]
async fn a_file_that_is_only_touched_causes_no_reload() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "old-key")]).await;
    process.write("key", "old-key");
    sleep(WATCH_INTERVALS).await;
    assert_eq!(process.reloads("success").await, 0.0);
    assert_eq!(process.reloads("failure").await, 0.0);
}

#[tokio::test]
async fn a_changed_secret_does_not_apply_a_changed_configuration_file() {
    let (old, new) = (Origin::start().await, Origin::start().await);
    let process = start(&config_for(&old, KEY), &[("key", "old-key")]).await;
    process.write(FILE, config_for(&new, KEY));
    process.write("key", "new-key");
    let used = async || process.reloads("success").await > 0.0;
    until("the new key", used).await;
    process.get(STEP, &[]).await;
    assert_eq!((keys(&old), new.count()), (vec!["new-key".to_owned()], 0));
}
