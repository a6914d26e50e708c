//! Sharing: a body that one gateway fetched is a hit on the others.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::{
    Fleet, PREFIX, age, counted, expect_fetched, expect_memory_hit, expect_shared_hit, is_fetched,
    is_memory_hit, is_shared_hit, lookups, start_gateway, start_pair, store_in_tier, tier,
    tier_state, ttl, wait_process_state, wait_written,
};
use crate::support::gateway::API_KEY;
use crate::support::{
    Action, Clients, Gateway, Origin, Process, STEP, respond, step, text, within,
};

#[tokio::test]
async fn a_step_fetched_through_one_gateway_is_a_shared_hit_on_the_other() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let fetched = a.get(STEP).await;
    assert!(fetched.is_stored(), "{}", fetched.cache_status());
    wait_written(&a, 1.0).await;
    sleep(Duration::from_millis(2_100)).await;
    let before = a.get(STEP).await;
    assert!(
        is_memory_hit(&before) && age(&before) >= 2,
        "{:?}",
        before.headers
    );

    let shared = expect_shared_hit(&b, STEP).await;
    assert_eq!((shared.status, shared.text()), (200, text("completed")));
    let expected = format!("stepgate; hit; ttl={}; detail=shared", ttl(&shared));
    assert_eq!(shared.cache_status(), expected);
    assert!(shared.header("etag").is_some());
    for name in ["etag", "content-type", "content-length", "cache-control"] {
        assert_eq!(shared.header(name), before.header(name), "{name}");
    }
    assert!(age(&shared) >= age(&before), "{}", age(&shared));
    assert!(ttl(&shared) <= ttl(&before), "{}", ttl(&shared));
    assert_eq!(fleet.origin.count(), 1);

    let hit = expect_memory_hit(&b, STEP).await;
    assert_eq!(hit.body, shared.body);
    assert_eq!(hit.header("etag"), shared.header("etag"));
    assert!(age(&hit) >= age(&shared) && ttl(&hit) <= ttl(&shared));
    assert_eq!(fleet.origin.count(), 1);
    for (outcome, count) in [("shared_hit", 1.0), ("hit", 1.0), ("miss", 0.0)] {
        assert_eq!(b.outcomes(outcome).await, count, "{outcome}");
    }
    assert_eq!(counted(&b, "lookups", "hit").await, 1.0);
    assert_eq!(
        counted(&b, "writes", "stored").await,
        0.0,
        "a body from the tier is not written again"
    );
}

#[tokio::test]
async fn every_final_status_is_shared_byte_for_byte() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let ids = r#""id":"ID","run_id":"run_1","thread_id":"thread_1","object":"thread.run.step""#;
    let long = format!(
        "{{\"x\":\"{}\",IDS,\"status\":\"failed\"}}",
        "x".repeat(900_000)
    );
    for (nth, (id, given)) in [
        ("spaced", "\r\n{ IDS ,\t\"status\" : \"completed\" } \n\n"),
        (
            "escapes",
            r#"{"st\u0061tus":"f\u0061iled",IDS,"x":"\/\ud83d\ude00"}"#,
        ),
        (
            "unicode",
            "{\"x\":\"é\u{2028}\u{1f600}\",IDS,\"status\":\"cancelled\"}",
        ),
        (
            "numbers",
            r#"{"n":[1e400,-0.0,1.10],IDS,"status":"expired"}"#,
        ),
        ("long", &long),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = given.replace("IDS", &ids.replace("ID", id)).into_bytes();
        let typed = [("content-type", "application/json; charset=utf-8")];
        let respond = respond("200 OK", &typed, &bytes);
        fleet.origin.next(vec![Action::Send(respond)]);
        store_in_tier(&a, &[&step(id)]).await;
        let shared = b.get(&step(id)).await;
        assert!(is_shared_hit(&shared), "{id}: {}", shared.cache_status());
        assert!(shared.body == bytes, "{id}: {} bytes", shared.body.len());
        assert_eq!(shared.header("content-type"), Some(typed[0].1), "{id}");
        assert_eq!(fleet.origin.count(), nth + 1);
    }
}

#[tokio::test]
async fn a_new_gateway_answers_its_first_request_from_the_tier() {
    let fleet = Fleet::start().await;
    let old = fleet.gateway().await;
    store_in_tier(&old, &[STEP]).await;
    old.drain().await;
    let new = Gateway::start(&fleet.origin, &tier(&fleet.redis.url())).await;
    within("readiness", async {
        while new.admin("GET", "/ready").await.status != 200 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let first = expect_shared_hit(&new, STEP).await;
    assert_eq!(first.text(), text("completed"));
    assert_eq!(fleet.origin.count(), 1);
}

#[tokio::test]
async fn a_killed_gateway_is_warm_after_its_restart() {
    let fleet = Fleet::start().await;
    let toml = tier(&fleet.redis.url());
    let killed = Process::start(&fleet.origin, &toml, "info").await;
    wait_process_state(&killed, "up").await;
    assert!(killed.get(STEP, &[]).await.is_stored());
    let written = async || killed.metric(&super::counter("writes", "stored")).await == 1.0;
    crate::support::until("the write", written).await;
    killed.signal("KILL").await;
    killed.exit().await;
    let back = Process::start(&fleet.origin, &toml, "info").await;
    wait_process_state(&back, "up").await;
    let first = back.get(STEP, &[]).await;
    assert!(is_shared_hit(&first), "{}", first.cache_status());
    assert_eq!(first.text(), text("completed"));
    assert_eq!(fleet.origin.count(), 1);
}

#[tokio::test]
async fn a_shared_entry_expires_when_the_ttl_of_its_first_store_ends() {
    let fleet = Fleet::start().await;
    let short = "[cache]\nttl = \"3s\"\n".to_owned() + &tier(&fleet.redis.url());
    let (a, b) = start_pair(&fleet.origin, &short).await;
    store_in_tier(&a, &[STEP]).await;
    sleep(Duration::from_millis(1_500)).await;
    let shared = expect_shared_hit(&b, STEP).await;
    assert!(ttl(&shared) <= 2, "{}", ttl(&shared));
    sleep(Duration::from_millis(1_600)).await;
    assert!(is_fetched(&b.get(STEP).await), "its ttl has ended");
}

#[tokio::test]
async fn a_gateway_with_a_shorter_ttl_applies_it_to_shared_entries() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    store_in_tier(&a, &[STEP]).await;
    let short = "[cache]\nttl = \"3s\"\n".to_owned() + &tier(&fleet.redis.url());
    let b = start_gateway(&fleet.origin, &short).await;
    sleep(Duration::from_millis(1_500)).await;
    let shared = b.get(STEP).await;
    assert!(
        is_shared_hit(&shared) && ttl(&shared) <= 2,
        "{}",
        ttl(&shared)
    );
    sleep(Duration::from_millis(1_600)).await;
    assert!(is_fetched(&b.get(STEP).await), "its ttl has ended");
}

#[tokio::test]
async fn if_none_match_and_head_are_answered_from_the_tier() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let other = step("step_2");
    store_in_tier(&a, &[STEP, &other]).await;
    let etag = a.get(STEP).await.header("etag").unwrap().to_owned();
    let same = b.get_with(STEP, &[("If-None-Match", &etag)]).await;
    assert_eq!(same.status, 304, "{:?}", same.headers);
    assert!(is_shared_hit(&same), "{}", same.cache_status());
    let mut raw = b.connect().await;
    let head = crate::support::client::head("HEAD", &other, "127.0.0.1", &[]);
    raw.send(head).await;
    let head = raw.response_to("HEAD").await;
    assert_eq!(head.status, 200);
    assert!(is_shared_hit(&head), "{}", head.cache_status());
    assert_eq!(fleet.origin.count(), 2);
}

#[tokio::test]
async fn a_long_poll_is_answered_from_the_tier() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    store_in_tier(&a, &[STEP]).await;
    let waited = b.get_with(STEP, &[("Prefer", "wait=5")]).await;
    assert_eq!(waited.text(), text("completed"));
    assert_eq!(fleet.origin.count(), 1);
}

#[tokio::test]
async fn concurrent_requests_cause_one_look_up() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    store_in_tier(&a, &[STEP]).await;
    let clients = Clients::connect(&b, 20).await;
    for served in clients.get(STEP, &[]).await {
        assert_eq!(served.response.text(), text("completed"));
        assert!(
            served.response.is_hit(),
            "{}",
            served.response.cache_status()
        );
    }
    assert_eq!(lookups(&b).await, 1.0);
    assert_eq!(fleet.origin.count(), 1);
}

#[tokio::test]
async fn metrics_and_status_show_the_tier() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    store_in_tier(&a, &[STEP]).await;
    b.get(STEP).await;
    for (gateway, metric, result, expected) in [
        (&a, "lookups", "miss", 1.0),
        (&a, "writes", "stored", 1.0),
        (&b, "lookups", "hit", 1.0),
        (&b, "lookups", "error", 0.0),
        (&b, "lookups", "circuit_open", 0.0),
        (&b, "writes", "error", 0.0),
        (&b, "writes", "refused", 0.0),
        (&b, "writes", "dropped", 0.0),
    ] {
        let count = counted(gateway, metric, result).await;
        assert_eq!(count, expected, "{metric}: {result}");
    }
    let metrics = b.admin("GET", "/metrics").await.text();
    for family in [
        "shared_lookups counter",
        "shared_writes counter",
        "shared_duration_seconds histogram",
    ] {
        let line = format!("# TYPE stepgate_{family}");
        assert!(metrics.contains(&line), "{line}");
    }
    assert!(!metrics.contains(PREFIX) && !metrics.contains("step_1"));
    assert_eq!(tier_state(&b).await, "up");
    let without = Gateway::start(&fleet.origin, "").await;
    let status = without.admin("GET", "/status").await.json();
    assert_eq!(status["shared"]["state"], json!("off"));
}

#[tokio::test]
async fn without_cache_redis_nothing_is_shared() {
    let origin = Origin::start().await;
    let (a, b) = (
        Gateway::start(&origin, "").await,
        Gateway::start(&origin, "").await,
    );
    assert!(a.get(STEP).await.is_stored());
    assert!(b.get(STEP).await.is_stored());
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn a_body_that_contains_an_injected_secret_is_not_written_to_the_tier() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let body = text("completed").replace("asst_1", API_KEY);
    fleet.origin.next(vec![Action::Send(respond(
        "200 OK",
        &[],
        body.into_bytes(),
    ))]);
    assert!(a.get(STEP).await.is_stored());
    // The write of another body shows that this one was not queued.
    store_in_tier(&a, &[&step("step_2")]).await;
    assert_eq!(counted(&a, "writes", "stored").await, 1.0);
    assert!(is_memory_hit(&a.get(STEP).await), "memory may store it");
    expect_fetched(&b, STEP).await;
}

/// The evicted step is looked up again, unlike a live one.
#[tokio::test]
async fn a_step_that_memory_evicted_is_a_shared_hit() {
    let fleet = Fleet::start().await;
    let toml = "[cache]\nmax_bytes = \"64KiB\"\nmax_entry_bytes = \"16KiB\"\n";
    let toml = format!("{toml}{}", tier(&fleet.redis.url()));
    let gateway = start_gateway(&fleet.origin, &toml).await;
    let paths: Vec<String> = (0..100).map(|nth| step(&format!("full_{nth}"))).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    store_in_tier(&gateway, &paths).await;
    expect_memory_hit(&gateway, paths[99]).await;
    expect_shared_hit(&gateway, paths[0]).await;
    expect_memory_hit(&gateway, paths[0]).await;
    assert_eq!(fleet.origin.count(), paths.len());
}
