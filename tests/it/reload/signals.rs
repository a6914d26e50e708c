//! Tests SIGHUP at unusual moments: many times in a row, during a drain, without a configuration file.

use super::{KEY, LISTEN, config_for, keys, start};
use crate::support::client::head;
use crate::support::process::Launch;
use crate::support::process::{FILE, folder};
use crate::support::{Action, Latch, Origin, Process, RawClient, STEP, body, until};

#[tokio::test]
async fn the_last_of_many_signals_is_handled() {
    let origin = Origin::start().await;
    let last = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "the-key")]).await;
    for _ in 0..40 {
        process.write(FILE, config_for(&origin, "max_retry_after = \"1s\"\n"));
        process.signal("HUP").await;
        process.write(FILE, config_for(&last, ""));
        process.signal("HUP").await;
    }
    let in_force = async || {
        process.get(STEP, &[]).await;
        last.count() > 0
    };
    until("the last file in force", in_force).await;
    // Signals that are still pending read the same file.
    process.reload().await;
    let before = last.count();
    process.get("/v1/threads/t/runs/r/steps/s", &[]).await;
    assert_eq!(last.count(), before + 1);
}

#[tokio::test]
async fn sighup_during_a_drain_is_ignored() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "the-key")]).await;
    let latch = Latch::closed();
    origin.next(vec![Action::Wait(latch.clone()), Action::Respond]);
    let mut client = RawClient::connect(process.data).await;
    client.send(head("GET", STEP, "127.0.0.1", &[])).await;
    origin.wait_for_requests(1).await;
    process.terminate().await;
    let refused = async || tokio::net::TcpStream::connect(process.data).await.is_err();
    until("the data listener to close", refused).await;
    process.write("key", "new-key");
    for _ in 0..5 {
        process.signal("HUP").await;
    }
    latch.open();
    assert_eq!(client.response().await.body, body("completed"));
    let (status, output) = process.exit().await;
    assert_eq!(status.code(), Some(0), "{output}");
    assert_eq!(keys(&origin), ["the-key"]);
}

#[tokio::test]
async fn sighup_without_a_configuration_file_keeps_the_cache() {
    let origin = Origin::start().await;
    let upstream = ["--upstream", &origin.url()];
    let arguments = [&LISTEN[..], &upstream].concat();
    let process = Launch::new_in(folder(&[]), &arguments).start().await;
    assert!(process.get(STEP, &[]).await.is_stored());
    process.reload().await;
    assert_eq!(
        process.reloads("failure").await,
        0.0,
        "{}",
        process.output()
    );
    assert!(process.get(STEP, &[]).await.is_hit());
}

#[tokio::test]
async fn flags_still_override_the_file_after_a_reload() {
    let (flag, file) = (Origin::start().await, Origin::start().await);
    let process = Process::start(&flag, "", "info").await;
    process.configure(&config_for(&file, "")).await;
    assert_eq!(process.reloads("success").await, 1.0);
    process.get(STEP, &[]).await;
    assert_eq!((flag.count(), file.count()), (1, 0));
}
