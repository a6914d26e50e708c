//! What one gateway has fetched, the others need not.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::{
    Fleet, PREFIX, age, counted, has_written, is_fetched, is_own, is_shared, is_up, lookups,
    process_is, spread, state, tier, ttl,
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
    has_written(&a, 1.0).await;
    sleep(Duration::from_millis(2_100)).await;
    let before = a.get(STEP).await;
    assert!(is_own(&before) && age(&before) >= 2, "{:?}", before.headers);

    let shared = b.get(STEP).await;
    assert!(is_shared(&shared), "{}", shared.cache_status());
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

    let hit = b.get(STEP).await;
    assert!(is_own(&hit), "{}", hit.cache_status());
    assert_eq!(hit.body, shared.body);
    assert_eq!(hit.header("etag"), shared.header("etag"));
    assert!(age(&hit) >= age(&shared) && ttl(&hit) <= ttl(&shared));
    assert_eq!(fleet.origin.count(), 1);
    for (outcome, count) in [("shared_hit", 1.0), ("hit", 1.0), ("miss", 0.0)] {
        assert_eq!(b.outcomes(outcome).await, count, "{outcome}");
    }
    assert_eq!(counted(&b, "hit").await, 1.0);
    assert_eq!(counted(&b, "stored").await, 0.0, "it was the tier's own");
}

#[tokio::test]
async fn every_final_status_is_shared_and_every_byte_is_the_origins() {
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
        spread(&a, &[&step(id)]).await;
        let shared = b.get(&step(id)).await;
        assert!(is_shared(&shared), "{id}: {}", shared.cache_status());
        assert!(shared.body == bytes, "{id}: {} bytes", shared.body.len());
        assert_eq!(shared.header("content-type"), Some(typed[0].1), "{id}");
        assert_eq!(fleet.origin.count(), nth + 1);
    }
}

#[tokio::test]
async fn a_new_gateway_answers_its_first_request_from_the_tier() {
    let fleet = Fleet::start().await;
    let old = fleet.gateway().await;
    spread(&old, &[STEP]).await;
    old.drain().await;
    let new = Gateway::start(&fleet.origin, &tier(&fleet.redis.url())).await;
    within("readiness", async {
        while new.admin("GET", "/ready").await.status != 200 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let first = new.get(STEP).await;
    assert!(is_shared(&first), "{}", first.cache_status());
    assert_eq!(first.text(), text("completed"));
    assert_eq!(fleet.origin.count(), 1);
}

#[tokio::test]
async fn a_gateway_that_was_killed_is_warm_when_it_is_back() {
    let fleet = Fleet::start().await;
    let toml = tier(&fleet.redis.url());
    let killed = Process::start(&fleet.origin, &toml, "info").await;
    process_is(&killed, "up").await;
    assert!(killed.get(STEP, &[]).await.is_stored());
    let written = async || killed.metric(&super::counter("stored")).await == 1.0;
    crate::support::until("the write", written).await;
    killed.signal("KILL").await;
    killed.exit().await;
    let back = Process::start(&fleet.origin, &toml, "info").await;
    process_is(&back, "up").await;
    let first = back.get(STEP, &[]).await;
    assert!(is_shared(&first), "{}", first.cache_status());
    assert_eq!(first.text(), text("completed"));
    assert_eq!(fleet.origin.count(), 1);
}

#[tokio::test]
async fn an_entry_ends_when_its_first_ttl_does_wherever_it_came_to() {
    let fleet = Fleet::start().await;
    let short = "[cache]\nttl = \"3s\"\n".to_owned() + &tier(&fleet.redis.url());
    let mut pair = Vec::new();
    for _ in 0..2 {
        let gateway = Gateway::start(&fleet.origin, &short).await;
        is_up(&gateway).await;
        pair.push(gateway);
    }
    let (a, b) = (&pair[0], &pair[1]);
    spread(a, &[STEP]).await;
    sleep(Duration::from_millis(1_500)).await;
    let shared = b.get(STEP).await;
    assert!(is_shared(&shared), "{}", shared.cache_status());
    assert!(ttl(&shared) <= 2, "{}", ttl(&shared));
    sleep(Duration::from_millis(1_600)).await;
    assert!(is_fetched(&b.get(STEP).await), "longer than its ttl");
}

#[tokio::test]
async fn who_keeps_bodies_for_less_long_keeps_shared_ones_for_less_long() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    spread(&a, &[STEP]).await;
    let short = "[cache]\nttl = \"3s\"\n".to_owned() + &tier(&fleet.redis.url());
    let b = Gateway::start(&fleet.origin, &short).await;
    is_up(&b).await;
    sleep(Duration::from_millis(1_500)).await;
    let shared = b.get(STEP).await;
    assert!(is_shared(&shared) && ttl(&shared) <= 2, "{}", ttl(&shared));
    sleep(Duration::from_millis(1_600)).await;
    assert!(is_fetched(&b.get(STEP).await), "longer than its ttl");
}

#[tokio::test]
async fn a_conditional_or_bodiless_question_is_answered_from_the_tier_too() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let other = step("step_2");
    spread(&a, &[STEP, &other]).await;
    let etag = a.get(STEP).await.header("etag").unwrap().to_owned();
    let same = b.get_with(STEP, &[("If-None-Match", &etag)]).await;
    assert_eq!(same.status, 304, "{:?}", same.headers);
    assert!(is_shared(&same), "{}", same.cache_status());
    let mut raw = b.connect().await;
    let head = crate::support::client::head("HEAD", &other, "127.0.0.1", &[]);
    raw.send(head).await;
    let head = raw.response_to("HEAD").await;
    assert_eq!(head.status, 200);
    assert!(is_shared(&head), "{}", head.cache_status());
    assert_eq!(fleet.origin.count(), 2);
}

#[tokio::test]
async fn who_waits_for_an_end_is_told_the_one_that_the_tier_has() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    spread(&a, &[STEP]).await;
    let waited = b.get_with(STEP, &[("Prefer", "wait=5")]).await;
    assert_eq!(waited.text(), text("completed"));
    assert_eq!(fleet.origin.count(), 1);
}

#[tokio::test]
async fn a_crowd_that_asks_at_once_asks_the_tier_once() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    spread(&a, &[STEP]).await;
    let crowd = Clients::connect(&b, 20).await;
    for served in crowd.get(STEP, &[]).await {
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
async fn the_tier_is_in_the_metrics_and_in_the_status() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    spread(&a, &[STEP]).await;
    b.get(STEP).await;
    for (gateway, result) in [(&a, "miss"), (&a, "stored"), (&b, "hit")] {
        assert_eq!(counted(gateway, result).await, 1.0, "{result}");
    }
    for result in ["error", "circuit_open", "refused", "dropped"] {
        assert_eq!(counted(&b, result).await, 0.0, "{result}");
    }
    let metrics = b.admin("GET", "/metrics").await.text();
    for family in [
        "shared_requests counter",
        "shared_duration_seconds histogram",
    ] {
        let line = format!("# TYPE stepgate_{family}");
        assert!(metrics.contains(&line), "{line}");
    }
    assert!(!metrics.contains(PREFIX) && !metrics.contains("step_1"));
    assert_eq!(state(&b).await, "up");
    let without = Gateway::start(&fleet.origin, "").await;
    let status = without.admin("GET", "/status").await.json();
    assert_eq!(status["shared"]["state"], json!("off"));
}

/// A gateway alone needs none of it.
#[tokio::test]
async fn without_the_section_nothing_is_shared() {
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
async fn a_body_that_echoes_an_injected_secret_stays_out_of_the_tier() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let body = text("completed").replace("asst_1", API_KEY);
    fleet.origin.next(vec![Action::Send(respond(
        "200 OK",
        &[],
        body.into_bytes(),
    ))]);
    assert!(a.get(STEP).await.is_stored());
    // Another one that is written shows that this one was not.
    spread(&a, &[&step("step_2")]).await;
    assert_eq!(counted(&a, "stored").await, 1.0);
    assert!(is_own(&a.get(STEP).await), "memory is this side's");
    assert!(is_fetched(&b.get(STEP).await));
}

/// Soon after, too: it is not taken for a step that is known to be live.
#[tokio::test]
async fn what_memory_had_no_room_for_any_more_comes_from_the_tier() {
    let fleet = Fleet::start().await;
    let toml = "[cache]\nmax_bytes = \"64KiB\"\nmax_entry_bytes = \"16KiB\"\n";
    let toml = format!("{toml}{}", tier(&fleet.redis.url()));
    let gateway = Gateway::start(&fleet.origin, &toml).await;
    is_up(&gateway).await;
    let paths: Vec<String> = (0..100).map(|nth| step(&format!("full_{nth}"))).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    spread(&gateway, &paths).await;
    assert!(is_own(&gateway.get(paths[99]).await));
    let shared = gateway.get(paths[0]).await;
    assert!(is_shared(&shared), "{}", shared.cache_status());
    assert!(is_own(&gateway.get(paths[0]).await));
    assert_eq!(fleet.origin.count(), paths.len());
}
