//! The admin listener: probes, metrics, status, purges.

mod page;
mod status;

use crate::support::{Action, Gateway, Latch, Origin, STEP, body, step, until};

/// The documented metrics, without the suffix that OpenMetrics gives a counter's samples.
const METRICS: [&str; 14] = [
    "stepgate_requests",
    "stepgate_request_duration_seconds",
    "stepgate_upstream_requests",
    "stepgate_upstream_duration_seconds",
    "stepgate_not_stored",
    "stepgate_polls_avoided",
    "stepgate_final_regressions",
    "stepgate_cache_entries",
    "stepgate_cache_bytes",
    "stepgate_connections",
    "stepgate_upstream_in_flight",
    "stepgate_long_polls",
    "stepgate_secrets_loaded_timestamp_seconds",
    "stepgate_build_info",
];

#[tokio::test]
async fn live_and_ready_are_200() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for path in ["/live", "/ready"] {
        assert_eq!(gateway.admin("GET", path).await.status, 200, "{path}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn every_documented_metric_is_exported() {
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
async fn metrics_count_requests_and_fetches() {
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
    assert!(bytes > 400.0, "fewer bytes than the body: {bytes}");
    let text = gateway.admin("GET", "/metrics").await.text();
    assert!(
        !text.contains("step_1") && !text.contains("nowhere"),
        "labels must not contain ids"
    );
}

#[tokio::test]
async fn metrics_count_errors_and_final_regressions() {
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
    let response = gateway.admin("GET", "/status").await;
    assert_eq!(response.status, 200);
    let content_type = response.header("content-type").unwrap_or_default();
    assert!(
        content_type.starts_with("application/json"),
        "{content_type}"
    );
    assert!(response.json().is_object());
}

#[tokio::test]
async fn purge_removes_the_entries_below_a_prefix_only() {
    let variant = format!("{STEP}?include[]=a");
    let other_step = step("step_2");
    let other_run = "/v1/threads/thread_1/runs/run_2/steps/step_1";
    let other_thread = "/v1/threads/thread_10/runs/run_1/steps/step_1";
    let paths = [STEP, &variant, &other_step, other_run, other_thread];
    for (prefix, purged) in [
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
        let response = gateway.admin("DELETE", &format!("/cache/{prefix}")).await;
        assert_eq!(response.status, 200, "{prefix}");
        assert_eq!(
            response.json(),
            serde_json::json!({ "purged": purged }),
            "{prefix}"
        );
        let mut misses = 0;
        for path in paths {
            misses += usize::from(!gateway.get(path).await.is_hit());
        }
        assert_eq!(misses, purged, "{prefix}");
    }
}

#[tokio::test]
async fn purge_with_a_query_is_rejected_and_removes_nothing() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    assert!(gateway.get(STEP).await.is_stored());
    for query in ["?thread_id=thread_1", "?"] {
        let path = format!("/cache/run-step{query}");
        let response = gateway.admin("DELETE", &path).await;
        assert_eq!(response.status, 400, "{path}");
        assert!(response.json()["error"].is_string(), "{path}");
    }
    assert!(gateway.get(STEP).await.is_hit());
}

#[tokio::test]
async fn fetch_that_started_before_a_purge_stores_nothing() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let latch = Latch::closed();
    origin.next(vec![Action::Wait(latch.clone()), Action::Respond]);
    let purge = async {
        origin.wait_for_requests(1).await;
        let response = gateway.admin("DELETE", "/cache/run-step/thread_1").await;
        latch.open();
        response.json()
    };
    let (response, purged) = tokio::join!(gateway.get(STEP), purge);
    assert_eq!(purged, serde_json::json!({ "purged": 0 }));
    assert_eq!((response.status, &response.body), (200, &body("completed")));
    assert!(
        response.cache_status().ends_with("detail=purged"),
        "{}",
        response.cache_status()
    );
    assert!(
        gateway.get(STEP).await.is_stored(),
        "the next request is a miss"
    );
    assert!(gateway.get(STEP).await.is_hit());
}

#[tokio::test]
async fn purge_that_cannot_match_is_rejected() {
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

/// No waiter is left, and the upstream did not fail.
#[tokio::test]
async fn fetch_without_waiters_counts_as_cancelled_and_not_as_an_error() {
    let origin = Origin::start().await;
    origin.always(vec![Action::Stall]);
    let gateway = Gateway::start(&origin, "").await;
    let client = gateway.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    drop(client);
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

/// The waiters are still there, and get no response in time.
#[tokio::test]
async fn fetch_that_exceeds_its_deadline_counts_as_an_error() {
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
