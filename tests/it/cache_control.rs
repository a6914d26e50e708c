//! `Cache-Control` and `Pragma` of requests.

use crate::support::{Action, Gateway, Origin, STEP, body, respond, until};

const NO_CACHE: [(&str, &str); 1] = [("Cache-Control", "no-cache")];
const VARIANT: &str = "/v1/threads/thread_1/runs/run_1/steps/step_1?include[]=a";

async fn stored(origin: &Origin, toml: &str) -> Gateway {
    let gateway = Gateway::start(origin, toml).await;
    for path in [STEP, VARIANT] {
        assert!(gateway.get(path).await.is_stored());
    }
    gateway
}

#[tokio::test]
async fn no_cache_fetches_and_a_final_body_replaces_the_entry() {
    let origin = Origin::start().await;
    let gateway = stored(&origin, "").await;
    origin.next(vec![Action::RespondStatus("failed")]);
    let response = gateway.get_with(STEP, &NO_CACHE).await;
    assert_eq!(response.body, body("failed"));
    let expected = "stepgate; fwd=request; fwd-status=200; stored";
    assert_eq!(response.cache_status(), expected);
    let hit = gateway.get(STEP).await;
    assert_eq!((hit.is_hit(), hit.body), (true, body("failed")));
}

#[tokio::test]
async fn no_cache_invalidates_every_variant_of_a_live_or_gone_step() {
    for (response, detail) in [
        (respond("200 OK", &[], body("in_progress")), "not_final"),
        (respond("404 Not Found", &[], "{}"), "bad_status"),
        (respond("410 Gone", &[], "{}"), "bad_status"),
    ] {
        let origin = Origin::start().await;
        let gateway = stored(&origin, "").await;
        origin.next(vec![Action::Send(response)]);
        let response = gateway.get_with(STEP, &NO_CACHE).await;
        let status = response.cache_status();
        assert!(
            status.starts_with("stepgate; fwd=request; fwd-status="),
            "{status}"
        );
        assert!(status.contains(&format!("detail={detail}")), "{status}");
        for path in [STEP, VARIANT] {
            assert!(!gateway.get(path).await.is_hit(), "{status}: {path}");
        }
        assert_eq!(origin.count(), 5, "{status}");
    }
}

#[tokio::test]
async fn no_cache_with_another_failure_keeps_the_entry() {
    for script in [
        vec![Action::Send(respond("500 Oh", &[], body("failed")))],
        vec![Action::Send(respond("429 Slow", &[], "{}"))],
        vec![Action::Send(respond("401 No", &[], "{}"))],
        vec![Action::Send(respond(
            "302 Found",
            &[("location", "/x")],
            "",
        ))],
        vec![Action::Send(b"nonsense\r\n\r\n".to_vec()), Action::Close],
        vec![Action::Close],
        vec![Action::Stall],
    ] {
        let origin = Origin::start().await;
        let toml = "[upstream]\ntimeout = \"500ms\"\nmax_retry_after = \"0s\"\n";
        let gateway = stored(&origin, toml).await;
        // A fetch that fails on a reused connection is retried, and the retry must fail too.
        origin.always(script.clone());
        let response = gateway.get_with(STEP, &NO_CACHE).await;
        assert_ne!(response.status, 200, "{script:?}");
        for path in [STEP, VARIANT] {
            let hit = gateway.get(path).await;
            assert_eq!(
                (hit.is_hit(), hit.body),
                (true, body("completed")),
                "{script:?}"
            );
        }
    }
}

#[tokio::test]
async fn pragma_no_cache_counts_only_without_cache_control() {
    let origin = Origin::start().await;
    let gateway = stored(&origin, "").await;
    let pragma = ("Pragma", "no-cache");
    let alone = gateway.get_with(STEP, &[pragma]).await;
    assert!(alone.cache_status().contains("fwd=request"));
    let both = [pragma, ("Cache-Control", "max-age=3600")];
    assert!(gateway.get_with(STEP, &both).await.is_hit());
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn max_age_fetches_if_the_entry_is_older() {
    let origin = Origin::start().await;
    let gateway = stored(&origin, "").await;
    let aged = || async { gateway.get(STEP).await.header("age") != Some("0") };
    until("an age above 0", aged).await;
    let young_enough = [("Cache-Control", "max-age=3600")];
    assert!(gateway.get_with(STEP, &young_enough).await.is_hit());
    let too_old = [("Cache-Control", "max-age=0")];
    let response = gateway.get_with(STEP, &too_old).await;
    let expected = "stepgate; fwd=request; fwd-status=200; stored";
    assert_eq!(response.cache_status(), expected);
}

#[tokio::test]
async fn no_store_is_served_or_fetched_and_stores_nothing_new() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let no_store = [("Cache-Control", "no-store")];
    for fetches in 1..=2 {
        let response = gateway.get_with(STEP, &no_store).await;
        assert_eq!((response.status, response.is_stored()), (200, false));
        assert_eq!(origin.count(), fetches);
    }
    assert!(gateway.get(STEP).await.is_stored());
    assert!(gateway.get_with(STEP, &no_store).await.is_hit());
    assert!(gateway.get(STEP).await.is_hit());
}

#[tokio::test]
async fn only_if_cached_never_fetches() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let only = [("Cache-Control", "only-if-cached")];
    let response = gateway.get_with(STEP, &only).await;
    assert_eq!(response.status, 504);
    assert_eq!(response.code().as_deref(), Some("not_cached"));
    assert_eq!(response.header("x-should-retry"), Some("false"));
    assert_eq!(origin.count(), 0);
    gateway.get(STEP).await;
    assert!(gateway.get_with(STEP, &only).await.is_hit());
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn directives_are_read_in_any_case_and_over_several_lines() {
    let origin = Origin::start().await;
    let gateway = stored(&origin, "").await;
    for headers in [
        &[("cache-control", "No-Cache")][..],
        &[("cache-control", "max-age=3600 , no-cache,no-transform")],
        &[
            ("cache-control", "max-age=3600"),
            ("cache-control", "no-cache"),
        ],
    ] {
        let response = gateway.get_with(STEP, headers).await;
        assert!(
            response.cache_status().contains("fwd=request"),
            "{headers:?}"
        );
    }
    for headers in [
        &[("cache-control", "no-cache-please")][..],
        &[("cache-control", "x=\"a, no-cache\"")],
        &[("cache-control", "")],
    ] {
        assert!(
            gateway.get_with(STEP, headers).await.is_hit(),
            "{headers:?}"
        );
    }
}
