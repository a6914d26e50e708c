//! Tests reloads while fetches are in flight: each request keeps the configuration that it arrived under,
//! and no fetch from before a reload stores its result or answers a request from after it.

use super::{KEY, config_for, keys, start, wait_until_all_read};
use crate::support::client::head;
use crate::support::{Action, Latch, Origin, Process, RawClient, STEP, respond, text, until};

/// The status of a body that would be stored, were it not for the reload.
const FINAL: &str = "completed";

/// Sends a GET for [`STEP`].
async fn send_get(process: &Process, headers: &[(&str, &str)]) -> RawClient {
    let mut client = RawClient::connect(process.data).await;
    client.send(head("GET", STEP, "127.0.0.1", headers)).await;
    client
}

/// Writes another key to the file `key`, and waits until it is in force.
async fn rotate(process: &Process) {
    process.write("key", "new-key");
    process.reload().await;
    assert_eq!(process.reloads("failure").await, 0.0);
}

/// The next fetch gets a body with this status once the latch is opened.
fn respond_after_latch(origin: &Origin, status: &'static str) -> Latch {
    let latch = Latch::closed();
    origin.next(vec![
        Action::Wait(latch.clone()),
        Action::RespondStatus(status),
    ]);
    latch
}

#[tokio::test]
async fn c47_a_fetch_from_before_a_reload_answers_its_waiter_and_stores_nothing() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "old-key")]).await;
    let latch = respond_after_latch(&origin, FINAL);
    let mut old = send_get(&process, &[]).await;
    origin.wait_for_requests(1).await;
    rotate(&process).await;
    latch.open();
    let response = old.response().await;
    assert_eq!(response.text(), text(FINAL));
    assert!(!response.is_stored(), "{}", response.cache_status());
    let next = process.get(STEP, &[]).await;
    assert!(next.is_stored(), "{}", next.cache_status());
    assert_eq!(keys(&origin), ["old-key", "new-key"]);
}

#[tokio::test]
async fn c47_a_request_after_a_reload_joins_no_earlier_fetch() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "old-key")]).await;
    let (first, second) = (
        respond_after_latch(&origin, FINAL),
        respond_after_latch(&origin, "in_progress"),
    );
    let mut old = send_get(&process, &[]).await;
    origin.wait_for_requests(1).await;
    rotate(&process).await;
    let mut new = send_get(&process, &[]).await;
    origin.wait_for_requests(2).await;
    first.open();
    assert_eq!(old.response().await.text(), text(FINAL));
    wait_until_all_read(&process).await;
    second.open();
    assert_eq!(new.response().await.text(), text("in_progress"));
    assert_eq!(keys(&origin), ["old-key", "new-key"]);
}

#[tokio::test]
async fn c47_four_fetches_in_flight_do_not_delay_a_request_after_a_reload() {
    let origin = Origin::start().await;
    let toml = config_for(&origin, &format!("coalesce_window = \"0s\"\n{KEY}"));
    let process = start(&toml, &[("key", "old-key")]).await;
    let latches: Vec<_> = (0..4)
        .map(|_| respond_after_latch(&origin, FINAL))
        .collect();
    let mut old = Vec::new();
    for fetches in 1..=4 {
        old.push(send_get(&process, &[]).await);
        origin.wait_for_requests(fetches).await;
    }
    rotate(&process).await;
    let response = process.get(STEP, &[]).await;
    assert_eq!(response.status, 200);
    assert_eq!(keys(&origin).last().map(String::as_str), Some("new-key"));
    for (latch, mut client) in latches.into_iter().zip(old) {
        latch.open();
        assert_eq!(client.response().await.text(), text(FINAL));
    }
}

/// Starts a gateway with a request in a pending batch, then rotates the key.
async fn batch_before_a_rotation() -> (Origin, Process, RawClient) {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let toml = config_for(&origin, &format!("coalesce_window = \"2s\"\n{KEY}"));
    let process = start(&toml, &[("key", "old-key")]).await;
    process.get(STEP, &[]).await;
    let waiter = send_get(&process, &[]).await;
    wait_until_all_read(&process).await;
    rotate(&process).await;
    assert_eq!(origin.count(), 1, "the batch was fetched too early");
    (origin, process, waiter)
}

#[tokio::test]
async fn c47_a_request_after_a_reload_joins_no_earlier_batch() {
    let (origin, process, mut waiter) = batch_before_a_rotation().await;
    let new = process.get(STEP, &[]).await;
    assert_eq!(new.status, 200);
    assert_eq!(waiter.response().await.status, 200);
    let mut keys = keys(&origin);
    keys[1..].sort_unstable();
    assert_eq!(keys, ["old-key", "new-key", "old-key"]);
}

#[tokio::test]
async fn c47_a_batch_from_before_a_reload_stores_nothing() {
    let (origin, process, mut waiter) = batch_before_a_rotation().await;
    origin.set_status(FINAL);
    let response = waiter.response().await;
    assert_eq!(response.text(), text(FINAL));
    assert!(!response.is_stored(), "{}", response.cache_status());
    assert!(process.get(STEP, &[]).await.is_stored());
    assert_eq!(keys(&origin), ["old-key", "old-key", "new-key"]);
}

#[tokio::test]
async fn c47_a_fetch_keeps_its_upstream_across_a_reload() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let process = start(&config_for(&a, KEY), &[("key", "old-key")]).await;
    let latch = respond_after_latch(&a, "failed");
    let mut old = send_get(&process, &[]).await;
    a.wait_for_requests(1).await;
    process.write("key", "new-key");
    process.configure(&config_for(&b, KEY)).await;
    let new = process.get(STEP, &[]).await;
    assert_eq!(new.text(), text(FINAL));
    latch.open();
    assert_eq!(old.response().await.text(), text("failed"));
    assert_eq!(process.get(STEP, &[]).await.text(), text(FINAL));
    assert_eq!(
        (keys(&a), keys(&b)),
        (vec!["old-key".into()], vec!["new-key".into()])
    );
}

/// Returns a response that asks to be polled again after 100 ms.
fn poll_again_soon(status: &str) -> Vec<Action> {
    let pace = [("openai-poll-after-ms", "100")];
    let body = crate::support::body(status);
    vec![Action::Send(respond("200 OK", &pace, body))]
}

#[tokio::test]
async fn c47_a_long_poll_keeps_its_configuration_and_shares_no_fetch_with_later_requests() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    for origin in [&a, &b] {
        origin.always(poll_again_soon("in_progress"));
    }
    let process = start(&config_for(&a, KEY), &[("key", "old-key")]).await;
    let wait = [("Prefer", "wait=20")];
    let mut old = send_get(&process, &wait).await;
    a.wait_for_requests(2).await;
    process.write("key", "new-key");
    process.configure(&config_for(&b, KEY)).await;
    let mut new = send_get(&process, &wait).await;
    b.wait_for_requests(2).await;
    a.wait_for_requests(a.count() + 2).await;
    a.always(poll_again_soon(FINAL));
    assert_eq!(old.response().await.text(), text(FINAL));
    let polls = a.count();
    b.wait_for_requests(b.count() + 2).await;
    b.always(poll_again_soon("failed"));
    assert_eq!(new.response().await.text(), text("failed"));
    assert_eq!(a.count(), polls, "a poll loop is still running");
    assert!(keys(&a).iter().all(|key| key == "old-key"));
    assert!(keys(&b).iter().all(|key| key == "new-key"));
}

#[tokio::test]
async fn c47_a_long_poll_across_a_rotation_stores_nothing_fetched_with_the_old_key() {
    let origin = Origin::start().await;
    origin.always(poll_again_soon("in_progress"));
    let process = start(&config_for(&origin, KEY), &[("key", "old-key")]).await;
    let mut old = send_get(&process, &[("Prefer", "wait=20")]).await;
    origin.wait_for_requests(2).await;
    rotate(&process).await;
    let mut new = send_get(&process, &[("Prefer", "wait=20")]).await;
    let with_new = async || keys(&origin).iter().filter(|key| *key == "new-key").count() > 1;
    until("polls with the new key", with_new).await;
    origin.always(poll_again_soon(FINAL));
    for client in [&mut old, &mut new] {
        assert_eq!(client.response().await.text(), text(FINAL));
    }
    assert!(
        process.get(STEP, &[]).await.is_hit(),
        "the long poll with the new key stores"
    );
}

#[tokio::test]
async fn c47_a_no_cache_request_from_before_a_reload_replaces_nothing() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "old-key")]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    let no_cache = [("Cache-Control", "no-cache")];
    let latch = respond_after_latch(&origin, "failed");
    let mut old = send_get(&process, &no_cache).await;
    origin.wait_for_requests(2).await;
    rotate(&process).await;
    latch.open();
    assert_eq!(old.response().await.text(), text("failed"));
    let hit = process.get(STEP, &[]).await;
    assert_eq!((hit.is_hit(), hit.text()), (true, text(FINAL)));
    assert!(process.get(STEP, &no_cache).await.is_stored());
    assert_eq!(keys(&origin), ["old-key", "old-key", "new-key"]);
}

#[tokio::test]
async fn c47_a_streamed_body_continues_across_a_reload() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let small = "[cache]\nmax_entry_bytes = \"4KiB\"\n";
    let process = start(
        &config_for(&a, &format!("{KEY}{small}")),
        &[("key", "old-key")],
    )
    .await;
    let large = vec![b' '; 1024 * 1024];
    let latch = Latch::closed();
    let mut start = respond("200 OK", &[], &large);
    let rest = start.split_off(64 * 1024);
    a.next(vec![
        Action::Send(start),
        Action::Wait(latch.clone()),
        Action::Send(rest),
    ]);
    let mut old = send_get(&process, &[]).await;
    a.wait_for_requests(1).await;
    process.write("key", "new-key");
    process.configure(&config_for(&b, KEY)).await;
    assert_eq!(process.get(STEP, &[]).await.text(), text(FINAL));
    latch.open();
    assert_eq!(old.response().await.body, large);
    assert_eq!(
        (keys(&a), keys(&b)),
        (vec!["old-key".into()], vec!["new-key".into()])
    );
}

#[tokio::test]
async fn c47_a_429_from_before_a_reload_blocks_no_request_with_another_key() {
    let origin = Origin::start().await;
    let process = start(&config_for(&origin, KEY), &[("key", "old-key")]).await;
    let limited = respond("429 Slow", &[("retry-after", "20")], "{}");
    let latch = Latch::closed();
    origin.next(vec![Action::Wait(latch.clone()), Action::Send(limited)]);
    let mut old = send_get(&process, &[]).await;
    origin.wait_for_requests(1).await;
    rotate(&process).await;
    latch.open();
    assert_eq!(old.response().await.status, 429);
    assert_eq!(process.get(STEP, &[]).await.status, 200);
}
