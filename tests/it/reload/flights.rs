//! A reload while fetches are under way: each request keeps the configuration that it came with,
//! and nothing from before is stored or shared with those who came after.

use super::{KEY, has_read_all, keys, start, toward};
use crate::support::client::head;
use crate::support::{Action, Latch, Origin, Process, RawClient, STEP, respond, text, until};

/// What is stored when a departure from before the reload would store.
const FINAL: &str = "completed";

async fn ask(process: &Process, headers: &[(&str, &str)]) -> RawClient {
    let mut raw = RawClient::connect(process.data).await;
    raw.send(head("GET", STEP, "127.0.0.1", headers)).await;
    raw
}

/// Another key in the file `key`, in force when this returns.
async fn rotate(process: &Process) {
    process.write("key", "new-key");
    process.reload().await;
    assert_eq!(process.reloads("failure").await, 0.0);
}

/// The next fetch gives this status, when the gate is opened.
fn gated(origin: &Origin, status: &'static str) -> Latch {
    let gate = Latch::closed();
    origin.next(vec![
        Action::Wait(gate.clone()),
        Action::RespondStatus(status),
    ]);
    gate
}

#[tokio::test]
async fn c47_a_flight_from_before_answers_its_passenger_and_stores_nothing() {
    let origin = Origin::start().await;
    let process = start(&toward(&origin, KEY), &[("key", "old-key")]).await;
    let gate = gated(&origin, FINAL);
    let mut old = ask(&process, &[]).await;
    origin.wait_for_requests(1).await;
    rotate(&process).await;
    gate.open();
    let answer = old.response().await;
    assert_eq!(answer.text(), text(FINAL));
    assert!(!answer.is_stored(), "{}", answer.cache_status());
    let next = process.get(STEP, &[]).await;
    assert!(next.is_stored(), "{}", next.cache_status());
    assert_eq!(keys(&origin), ["old-key", "new-key"]);
}

#[tokio::test]
async fn c47_who_comes_after_has_a_flight_of_their_own() {
    let origin = Origin::start().await;
    let process = start(&toward(&origin, KEY), &[("key", "old-key")]).await;
    let (first, second) = (gated(&origin, FINAL), gated(&origin, "in_progress"));
    let mut old = ask(&process, &[]).await;
    origin.wait_for_requests(1).await;
    rotate(&process).await;
    let mut new = ask(&process, &[]).await;
    origin.wait_for_requests(2).await;
    first.open();
    assert_eq!(old.response().await.text(), text(FINAL));
    has_read_all(&process).await;
    second.open();
    assert_eq!(new.response().await.text(), text("in_progress"));
    assert_eq!(keys(&origin), ["old-key", "new-key"]);
}

#[tokio::test]
async fn c47_four_flights_from_before_do_not_keep_a_newcomer_waiting() {
    let origin = Origin::start().await;
    let toml = toward(&origin, &format!("coalesce_window = \"0s\"\n{KEY}"));
    let process = start(&toml, &[("key", "old-key")]).await;
    let gates: Vec<_> = (0..4).map(|_| gated(&origin, FINAL)).collect();
    let mut old = Vec::new();
    for flights in 1..=4 {
        old.push(ask(&process, &[]).await);
        origin.wait_for_requests(flights).await;
    }
    rotate(&process).await;
    let answer = process.get(STEP, &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(keys(&origin).last().map(String::as_str), Some("new-key"));
    for (gate, mut raw) in gates.into_iter().zip(old) {
        gate.open();
        assert_eq!(raw.response().await.text(), text(FINAL));
    }
}

/// Somebody has asked, and waits for the next departure; the key is another one since.
async fn gathered_before_a_rotation() -> (Origin, Process, RawClient) {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let toml = toward(&origin, &format!("coalesce_window = \"2s\"\n{KEY}"));
    let process = start(&toml, &[("key", "old-key")]).await;
    process.get(STEP, &[]).await;
    let gathered = ask(&process, &[]).await;
    has_read_all(&process).await;
    rotate(&process).await;
    assert_eq!(origin.count(), 1, "the gathering has left too early");
    (origin, process, gathered)
}

#[tokio::test]
async fn c47_who_comes_after_does_not_join_a_gathering_from_before() {
    let (origin, process, mut gathered) = gathered_before_a_rotation().await;
    let new = process.get(STEP, &[]).await;
    assert_eq!(new.status, 200);
    assert_eq!(gathered.response().await.status, 200);
    let mut keys = keys(&origin);
    keys[1..].sort_unstable();
    assert_eq!(keys, ["old-key", "new-key", "old-key"]);
}

#[tokio::test]
async fn c47_a_gathering_from_before_that_leaves_after_stores_nothing() {
    let (origin, process, mut gathered) = gathered_before_a_rotation().await;
    origin.set_status(FINAL);
    let answer = gathered.response().await;
    assert_eq!(answer.text(), text(FINAL));
    assert!(!answer.is_stored(), "{}", answer.cache_status());
    assert!(process.get(STEP, &[]).await.is_stored());
    assert_eq!(keys(&origin), ["old-key", "old-key", "new-key"]);
}

#[tokio::test]
async fn c47_a_flight_keeps_its_origin_across_a_reload() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let process = start(&toward(&a, KEY), &[("key", "old-key")]).await;
    let gate = gated(&a, "failed");
    let mut old = ask(&process, &[]).await;
    a.wait_for_requests(1).await;
    process.write("key", "new-key");
    process.configure(&toward(&b, KEY)).await;
    let new = process.get(STEP, &[]).await;
    assert_eq!(new.text(), text(FINAL));
    gate.open();
    assert_eq!(old.response().await.text(), text("failed"));
    assert_eq!(process.get(STEP, &[]).await.text(), text(FINAL));
    assert_eq!(
        (keys(&a), keys(&b)),
        (vec!["old-key".into()], vec!["new-key".into()])
    );
}

/// A live answer that asks to be polled again soon.
fn paced(status: &str) -> Vec<Action> {
    let pace = [("openai-poll-after-ms", "100")];
    let body = crate::support::body(status);
    vec![Action::Send(respond("200 OK", &pace, body))]
}

#[tokio::test]
async fn c47_a_wait_keeps_its_configuration_and_shares_with_nobody_who_came_after() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    for origin in [&a, &b] {
        origin.always(paced("in_progress"));
    }
    let process = start(&toward(&a, KEY), &[("key", "old-key")]).await;
    let wait = [("Prefer", "wait=20")];
    let mut old = ask(&process, &wait).await;
    a.wait_for_requests(2).await;
    process.write("key", "new-key");
    process.configure(&toward(&b, KEY)).await;
    let mut new = ask(&process, &wait).await;
    b.wait_for_requests(2).await;
    a.wait_for_requests(a.count() + 2).await;
    a.always(paced(FINAL));
    assert_eq!(old.response().await.text(), text(FINAL));
    let polls = a.count();
    b.wait_for_requests(b.count() + 2).await;
    b.always(paced("failed"));
    assert_eq!(new.response().await.text(), text("failed"));
    assert_eq!(a.count(), polls, "a poll loop was left behind");
    assert!(keys(&a).iter().all(|key| key == "old-key"));
    assert!(keys(&b).iter().all(|key| key == "new-key"));
}

#[tokio::test]
async fn c47_a_wait_across_a_rotation_stores_nothing_of_the_old_key() {
    let origin = Origin::start().await;
    origin.always(paced("in_progress"));
    let process = start(&toward(&origin, KEY), &[("key", "old-key")]).await;
    let mut old = ask(&process, &[("Prefer", "wait=20")]).await;
    origin.wait_for_requests(2).await;
    rotate(&process).await;
    let mut new = ask(&process, &[("Prefer", "wait=20")]).await;
    let with_new = async || keys(&origin).iter().filter(|key| *key == "new-key").count() > 1;
    until("polls with the new key", with_new).await;
    origin.always(paced(FINAL));
    for raw in [&mut old, &mut new] {
        assert_eq!(raw.response().await.text(), text(FINAL));
    }
    assert!(process.get(STEP, &[]).await.is_hit(), "the new one stores");
}

#[tokio::test]
async fn c47_a_no_cache_from_before_replaces_nothing() {
    let origin = Origin::start().await;
    let process = start(&toward(&origin, KEY), &[("key", "old-key")]).await;
    assert!(process.get(STEP, &[]).await.is_stored());
    let no_cache = [("Cache-Control", "no-cache")];
    let gate = gated(&origin, "failed");
    let mut old = ask(&process, &no_cache).await;
    origin.wait_for_requests(2).await;
    rotate(&process).await;
    gate.open();
    assert_eq!(old.response().await.text(), text("failed"));
    let hit = process.get(STEP, &[]).await;
    assert_eq!((hit.is_hit(), hit.text()), (true, text(FINAL)));
    assert!(process.get(STEP, &no_cache).await.is_stored());
    assert_eq!(keys(&origin), ["old-key", "old-key", "new-key"]);
}

#[tokio::test]
async fn c47_a_streamed_body_goes_on_across_a_reload() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let small = "[cache]\nmax_entry_bytes = \"4KiB\"\n";
    let process = start(&toward(&a, &format!("{KEY}{small}")), &[("key", "old-key")]).await;
    let large = vec![b' '; 1024 * 1024];
    let gate = Latch::closed();
    let mut start = respond("200 OK", &[], &large);
    let rest = start.split_off(64 * 1024);
    a.next(vec![
        Action::Send(start),
        Action::Wait(gate.clone()),
        Action::Send(rest),
    ]);
    let mut old = ask(&process, &[]).await;
    a.wait_for_requests(1).await;
    process.write("key", "new-key");
    process.configure(&toward(&b, KEY)).await;
    assert_eq!(process.get(STEP, &[]).await.text(), text(FINAL));
    gate.open();
    assert_eq!(old.response().await.body, large);
    assert_eq!(
        (keys(&a), keys(&b)),
        (vec!["old-key".into()], vec!["new-key".into()])
    );
}

#[tokio::test]
async fn c47_a_429_from_before_holds_nobody_who_has_another_key() {
    let origin = Origin::start().await;
    let process = start(&toward(&origin, KEY), &[("key", "old-key")]).await;
    let limited = respond("429 Slow", &[("retry-after", "20")], "{}");
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Send(limited)]);
    let mut old = ask(&process, &[]).await;
    origin.wait_for_requests(1).await;
    rotate(&process).await;
    gate.open();
    assert_eq!(old.response().await.status, 429);
    assert_eq!(process.get(STEP, &[]).await.status, 200);
}
