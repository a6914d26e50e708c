//! The admin listener: probes, metrics, status, purges.

mod page;
mod status;

use crate::support::{Action, Gateway, Latch, Origin, STEP, body, step, until};

/// The documented ones, without the suffix that OpenMetrics gives a counter's samples.
const METRICS: [&str; 14] = [
    "stepgate_requests",
    "stepgate_request_duration_seconds",
    "stepgate_upstream_requests",
    "stepgate_upstream_duration_seconds",
    "stepgate_not_stored",
    "stepgate_polls_avoided",
    "stepgate_regressions",
    "stepgate_cache_entries",
    "stepgate_cache_bytes",
    "stepgate_connections",
    "stepgate_upstream_in_flight",
    "stepgate_long_polls",
    "stepgate_secrets_loaded_timestamp_seconds",
    "stepgate_build_info",
];

#[tokio::test]
async fn probes_say_alive_and_ready() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for path in ["/live", "/ready"] {
        assert_eq!(gateway.admin("GET", path).await.status, 200, "{path}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn every_metric_is_there() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let text = gateway.admin("GET", "/metrics").await.text();
    let families: Vec<&str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next())
        .map(|name| name.strip_suffix("_total").unwrap_or(name))
        .collect();
    for name in METRICS {
        assert!(families.contains(&name), "{name} is not in {families:?}");
    }
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, "").await;
    gateway.get(STEP).await;
    origin.set_status("completed");
    for _ in 0..3 {
        gateway.get(STEP).await;
    }
    gateway.get("/v1/nowhere").await;
    for (sample, value) in [
        (
            "stepgate_requests_total{rule=\"run-step\",outcome=\"hit\"}",
            2.0,
        ),
        (
            "stepgate_requests_total{rule=\"run-step\",outcome=\"miss\"}",
            2.0,
        ),
        (
            "stepgate_upstream_requests_total{rule=\"run-step\",class=\"2xx\"}",
            2.0,
        ),
        ("stepgate_not_stored_total{reason=\"not_final\"}", 1.0),
        ("stepgate_polls_avoided_total{rule=\"run-step\"}", 2.0),
        ("stepgate_cache_entries", 1.0),
        ("stepgate_upstream_in_flight", 0.0),
    ] {
        assert_eq!(gateway.metric(sample).await, value, "{sample}");
    }
    let bytes = gateway.metric("stepgate_cache_bytes").await;
    assert!(bytes > 400.0, "less than the body: {bytes}");
    let text = gateway.admin("GET", "/metrics").await.text();
    assert!(
        !text.contains("step_1") && !text.contains("nowhere"),
        "no ids as labels"
    );
}

#[tokio::test]
async fn metrics_count_failures_and_steps_that_went_back() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    gateway.get(STEP).await;
    origin.set_status("in_progress");
    gateway
        .get_with(STEP, &[("Cache-Control", "no-cache")])
        .await;
    origin.always(vec![Action::Reset]);
    gateway.get(STEP).await;
    for (sample, value) in [
        ("stepgate_final_regressions_total{rule=\"run-step\"}", 1.0),
        (
            "stepgate_upstream_requests_total{rule=\"run-step\",class=\"error\"}",
            1.0,
        ),
        (
            "stepgate_requests_total{rule=\"run-step\",outcome=\"error\"}",
            1.0,
        ),
        ("stepgate_cache_entries", 0.0),
    ] {
        assert!(gateway.metric(sample).await >= value, "{sample}");
    }
    assert_eq!(gateway.metric("stepgate_cache_entries").await, 0.0);
}

#[tokio::test]
async fn status_is_json() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    gateway.get(STEP).await;
    let answer = gateway.admin("GET", "/status").await;
    assert_eq!(answer.status, 200);
    let content_type = answer.header("content-type").unwrap_or_default();
    assert!(
        content_type.starts_with("application/json"),
        "{content_type}"
    );
    assert!(answer.json().is_object());
}

#[tokio::test]
async fn a_purge_takes_what_lies_below_and_nothing_else() {
    let variant = format!("{STEP}?include[]=a");
    let other_step = step("step_2");
    let other_run = "/v1/threads/thread_1/runs/run_2/steps/step_1";
    let other_thread = "/v1/threads/thread_10/runs/run_1/steps/step_1";
    let paths = [STEP, &variant, &other_step, other_run, other_thread];
    for (below, purged) in [
        ("run-step", 5),
        ("run-step/thread_1", 4),
        ("run-step/thread_1/run_1", 3),
        ("run-step/thread_1/run_1/step_1", 2),
        ("run-step/thread_1/run_1/step_3", 0),
        ("run-step/thread_2", 0),
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        for path in paths {
            assert!(gateway.get(path).await.is_stored(), "{path}");
        }
        let answer = gateway.admin("DELETE", &format!("/cache/{below}")).await;
        assert_eq!(answer.status, 200, "{below}");
        assert_eq!(
            answer.json(),
            serde_json::json!({ "purged": purged }),
            "{below}"
        );
        let mut misses = 0;
        for path in paths {
            misses += usize::from(!gateway.get(path).await.is_hit());
        }
        assert_eq!(misses, purged, "{below}");
    }
}

#[tokio::test]
async fn a_purge_with_a_query_is_refused_and_removes_nothing() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    assert!(gateway.get(STEP).await.is_stored());
    for query in ["?thread_id=thread_1", "?"] {
        let path = format!("/cache/run-step{query}");
        let answer = gateway.admin("DELETE", &path).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.json()["error"].is_string(), "{path}");
    }
    assert!(gateway.get(STEP).await.is_hit());
}

#[tokio::test]
async fn a_flight_that_departed_before_a_purge_stores_nothing() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let purge = async {
        origin.wait_for_requests(1).await;
        let answer = gateway.admin("DELETE", "/cache/run-step/thread_1").await;
        gate.open();
        answer.json()
    };
    let (answer, purged) = tokio::join!(gateway.get(STEP), purge);
    assert_eq!(purged, serde_json::json!({ "purged": 0 }));
    assert_eq!((answer.status, &answer.body), (200, &body("completed")));
    assert!(
        answer.cache_status().ends_with("detail=purged"),
        "{}",
        answer.cache_status()
    );
    assert!(
        gateway.get(STEP).await.is_stored(),
        "the next one is a fetch"
    );
    assert!(gateway.get(STEP).await.is_hit());
}

#[tokio::test]
async fn a_purge_that_could_never_match_is_refused() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for (path, status) in [
        ("/cache/run-step/t/r/s", 200),
        ("/cache/run-step/t/r/s/more", 400),
        ("/cache/run-step/..", 400),
        ("/cache/no-such-rule", 404),
    ] {
        assert_eq!(gateway.admin("DELETE", path).await.status, status, "{path}");
    }
}

/// Nobody is left to answer, and the upstream did nothing wrong.
#[tokio::test]
async fn a_fetch_that_everybody_has_left_is_counted_as_dropped_and_not_as_an_error() {
    let origin = Origin::start().await;
    origin.always(vec![Action::Stall]);
    let gateway = Gateway::start(&origin, "").await;
    let caller = gateway.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    drop(caller);
    origin.wait_for_hangups(1).await;
    let count = async |class: &str| {
        let labels = format!("{{rule=\"run-step\",class=\"{class}\"}}");
        gateway
            .metric(&format!("stepgate_upstream_requests_total{labels}"))
            .await
    };
    until("the count", async || count("cancelled").await == 1.0).await;
    assert_eq!(count("error").await, 0.0);
}

/// What nobody left, and nobody got an answer from in time.
#[tokio::test]
async fn a_fetch_that_took_too_long_is_counted_as_an_error() {
    let origin = Origin::start().await;
    origin.always(vec![Action::Stall]);
    let gateway = Gateway::start(&origin, "[upstream]\ntimeout = \"200ms\"\n").await;
    assert_eq!(gateway.get(STEP).await.status, 504);
    let count = async |class: &str| {
        let labels = format!("{{rule=\"run-step\",class=\"{class}\"}}");
        gateway
            .metric(&format!("stepgate_upstream_requests_total{labels}"))
            .await
    };
    until("the count", async || count("error").await == 1.0).await;
    assert_eq!(count("cancelled").await, 0.0);
}
