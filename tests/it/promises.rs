//! The promises by their numbers. `hazards::upstream::unstorable_responses` tests what is not stored
//! (promise 1), and `hazards::credentials` the credentials (promise 4).

use crate::support::gateway::{API_KEY, VIRTUAL_KEY};
use crate::support::{Action, Gateway, Latch, Origin, STEP, body, respond, step, step_json, until};

const TERMINAL: [&str; 4] = ["completed", "failed", "cancelled", "expired"];

#[tokio::test]
async fn promise_1_a_final_body_is_stored_and_served_from_memory() {
    for status in TERMINAL {
        let origin = Origin::start().await;
        origin.set_status(status);
        let gateway = Gateway::start(&origin, "").await;
        let fetched = gateway.get(STEP).await;
        let expected = "stepgate; fwd=uri-miss; fwd-status=200; stored";
        assert_eq!(fetched.cache_status(), expected, "{status}");
        for _ in 0..10 {
            let hit = gateway.get(STEP).await;
            assert_eq!((hit.status, hit.body), (200, body(status)));
        }
        assert_eq!(origin.count(), 1, "{status}");
    }
}

#[tokio::test]
async fn promise_1_a_hit_carries_age_etag_and_cache_status() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let fetched = gateway.get(STEP).await;
    let hit = gateway.get(STEP).await;
    let age: u64 = hit.header("age").expect("an age").parse().unwrap();
    assert!(age < 60, "{age}");
    assert_eq!(hit.header("cache-control"), Some("private, no-cache"));
    assert_eq!(hit.header("content-type"), Some("application/json"));
    let cache_status = hit.cache_status();
    let ttl = cache_status.strip_prefix("stepgate; hit; ttl=");
    let ttl: u64 = ttl.expect("a hit with its ttl").parse().unwrap();
    assert!((86_300..=86_400).contains(&ttl), "{ttl}");
    let etag = hit.header("etag").expect("an entity tag");
    assert!(
        etag.starts_with('"') && etag.ends_with('"'),
        "not a strong entity tag: {etag}"
    );
    assert_eq!(fetched.header("etag"), Some(etag));
    assert_eq!(fetched.header("age"), None);
}

#[tokio::test]
async fn promise_1_a_body_is_kept_no_longer_than_its_ttl() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "[cache]\nttl = \"1s\"\n").await;
    assert!(gateway.get(STEP).await.is_stored());
    assert!(gateway.get(STEP).await.is_hit());
    let refetched = || async { !gateway.get(STEP).await.is_hit() };
    until("the entry to expire", refetched).await;
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn promise_2_ten_polls_of_a_live_step_are_ten_fetches() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, "").await;
    for polls in 1..=10 {
        let response = gateway.get(STEP).await;
        assert_eq!(
            (response.status, &response.body),
            (200, &body("in_progress"))
        );
        assert_eq!(origin.count(), polls);
        let expected = "stepgate; fwd=uri-miss; fwd-status=200; detail=not_final";
        assert_eq!(response.cache_status(), expected);
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(response.header("age"), None);
    }
    origin.set_status("completed");
    for _ in 0..10 {
        assert_eq!(gateway.get(STEP).await.body, body("completed"));
    }
    assert_eq!(origin.count(), 11);
}

#[tokio::test]
async fn promise_2_a_live_response_never_predates_its_request() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let gate = Latch::closed();
    origin.next(vec![
        Action::Wait(gate.clone()),
        Action::RespondStatus("in_progress"),
    ]);
    origin.next(vec![Action::RespondStatus("queued_again")]);
    let first = gateway.get(STEP);
    let second = async {
        origin.wait_for_requests(1).await;
        let response = gateway.get(STEP).await;
        gate.open();
        response
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(
        second.body,
        body("queued_again"),
        "the response is from a fetch that had started before the request"
    );
    assert_eq!(first.body, body("in_progress"));
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn promise_3_bodies_are_replayed_byte_for_byte() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let ids = r#""id":"ID","run_id":"run_1","thread_id":"thread_1","object":"thread.run.step""#;
    for (id, text) in [
        ("compact", r#"{IDS,"status":"completed"}"#),
        (
            "spaced",
            "\r\n \t{ IDS ,\r\n\t\"status\" : \"completed\" } \n\n",
        ),
        (
            "escapes",
            r#"{"st\u0061tus":"comp\u006ceted",IDS,"x":"\u00e9\/\ud83d\ude00"}"#,
        ),
        (
            "numbers",
            r#"{"n":[1e400,-0.0,1.10,12345678901234567890123],IDS,"status":"failed"}"#,
        ),
        (
            "twice",
            r#"{"x":1,"x":2,"usage":{"status":"a","status":"b"},IDS,"status":"expired"}"#,
        ),
        (
            "unicode",
            "{\"x\":\"é\u{2028}\u{1f600}\",IDS,\"status\":\"cancelled\"}",
        ),
    ] {
        let bytes = text.replace("IDS", &ids.replace("ID", id)).into_bytes();
        origin.next(vec![Action::Send(respond("200 OK", &[], &bytes))]);
        let fetched = gateway.get(&step(id)).await;
        assert!(fetched.is_stored(), "{id}: {}", fetched.cache_status());
        let hit = gateway.get(&step(id)).await;
        assert!(hit.is_hit(), "{id}");
        assert_eq!((&fetched.body, &hit.body), (&bytes, &bytes), "{id}");
        assert_eq!(
            hit.header("content-length"),
            Some(&*bytes.len().to_string())
        );
    }
}

#[tokio::test]
async fn promise_3_a_chunked_body_is_replayed_byte_for_byte() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let chunks: String = body("completed")
        .chunks(7)
        .map(|c| format!("{:X};a=b\r\n{}\r\n", c.len(), String::from_utf8_lossy(c)))
        .collect();
    let chunks = chunks + "0\r\nx-trailer: a\r\n\r\n";
    let coding = [("transfer-encoding", "chunked")];
    origin.next(vec![Action::Send(respond("200 OK", &coding, chunks))]);
    for _fetch_then_hit in 0..2 {
        assert_eq!(gateway.get(STEP).await.body, body("completed"));
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn promise_4_every_fetch_carries_each_injected_header_exactly_once() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, "").await;
    for _ in 0..10 {
        gateway.get(STEP).await;
        for (name, value) in [
            ("x-portkey-api-key", API_KEY),
            ("x-portkey-virtual-key", VIRTUAL_KEY),
            ("openai-beta", "assistants=v2"),
            ("x-portkey-cache-force-refresh", "true"),
            ("accept", "application/json"),
            ("accept-encoding", "identity"),
        ] {
            assert_eq!(origin.last().all(name), [value], "{name}");
        }
    }
}

#[tokio::test]
async fn promise_5_a_cache_that_is_too_small_costs_fetches_and_nothing_else() {
    let origin = Origin::start().await;
    let toml = "[cache]\nmax_bytes = \"16KiB\"\nmax_entry_bytes = \"8KiB\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    for round in 0..2 {
        for n in 0..60 {
            let id = format!("step_{n}");
            let response = gateway.get(&step(&id)).await;
            let expected = step_json("thread_1", "run_1", &id, "completed");
            assert_eq!(
                (response.status, response.body),
                (200, expected),
                "{round}: {id}"
            );
        }
    }
    assert!(origin.count() > 60, "the cache held more than max_bytes");
    // A new entry is stored although the cache is full.
    gateway.get(&step("newest")).await;
    let stored = || async { gateway.get(&step("newest")).await.is_hit() };
    until("the newest entry to be stored", stored).await;
    let bounded = || async {
        gateway.get(&step("newest")).await;
        gateway.metric("stepgate_cache_bytes").await <= 16.0 * 1024.0
    };
    until("the cache to be within its bound", bounded).await;
}
