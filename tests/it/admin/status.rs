//! The figures of `/status`, and what it must not contain.

use serde_json::Value;

use crate::support::gateway::ENVIRONMENT;
use crate::support::{Action, Gateway, Origin, STEP, until};

async fn status(gateway: &Gateway) -> Value {
    gateway.admin("GET", "/status").await.json()
}

/// Polls three times while the step is live, then three times once it is final: four fetches and two hits.
async fn poll(origin: &Origin, gateway: &Gateway) {
    origin.set_status("in_progress");
    for _ in 0..3 {
        gateway.get(STEP).await;
    }
    origin.set_status("completed");
    for _ in 0..3 {
        gateway.get(STEP).await;
    }
}

#[tokio::test]
async fn status_counts_polls_and_fetches() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    poll(&origin, &gateway).await;
    let figures = status(&gateway).await;
    assert_eq!(
        (&figures["polls"], &figures["fetches"]),
        (&6.into(), &4.into())
    );
    let requests = &figures["rules"][0]["requests"];
    assert_eq!(
        (&requests["hit"], &requests["miss"]),
        (&2.into(), &4.into())
    );
}

/// Rejected requests and errors are no polls. Otherwise errors would increase the reported saving.
#[tokio::test]
async fn unanswered_request_is_no_poll_and_its_fetch_counts() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    gateway.get("/v1/nowhere").await;
    gateway
        .get_with(STEP, &[("Cache-Control", "only-if-cached")])
        .await;
    origin.always(vec![Action::Reset]);
    assert_eq!(gateway.get(STEP).await.status, 502);
    let figures = status(&gateway).await;
    assert_eq!(figures["polls"], 0);
    assert_eq!(figures["fetches"], 1);
}

#[tokio::test]
async fn status_has_the_latency_of_hits_and_fetches() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let empty = &status(&gateway).await["latency"]["hit"];
    assert_eq!(
        empty,
        &serde_json::json!({ "count": 0, "p50_seconds": null, "p99_seconds": null })
    );
    poll(&origin, &gateway).await;
    let latency = &status(&gateway).await["latency"];
    for (of, count) in [("hit", 2), ("fetch", 4)] {
        assert_eq!(latency[of]["count"], count, "{of}");
        let [p50, p99] = ["p50_seconds", "p99_seconds"].map(|p| latency[of][p].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99 && p99 < 10.0, "{of}: {p50}, {p99}");
    }
}

#[tokio::test]
async fn history_has_the_figures_of_the_last_interval() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    poll(&origin, &gateway).await;
    let has_sample = async || status(&gateway).await["history"]["polls"] != serde_json::json!([]);
    until("the first sample", has_sample).await;
    assert_eq!(
        status(&gateway).await["history"],
        serde_json::json!({ "interval_seconds": 5, "polls": [6], "fetches": [4] })
    );
}

#[tokio::test]
async fn status_has_the_listeners_and_the_number_of_clients() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let figures = status(&gateway).await;
    let data = format!("http://{}", gateway.address());
    assert_eq!(figures["listen"], serde_json::json!([data]));
    assert_eq!(figures["clients"], 0);
    let toml = crate::support::gateway::TWO_CLIENTS;
    let gateway = Gateway::start_unix(&origin, toml).await;
    let figures = status(&gateway).await;
    let socket = format!("unix:{}", gateway.socket().display());
    assert_eq!(figures["listen"], serde_json::json!([socket]));
    assert_eq!(figures["clients"], 2);
}

#[tokio::test]
async fn status_contains_no_id_and_no_secret() {
    let origin = Origin::start().await;
    let toml = crate::support::gateway::TWO_CLIENTS;
    let gateway = Gateway::start(&origin, toml).await;
    let token = crate::support::gateway::BILLING_TOKEN;
    let bearer = format!("Bearer {token}");
    for status in ["in_progress", "completed", "completed"] {
        origin.set_status(status);
        let response = gateway.get_with(STEP, &[("Authorization", &bearer)]).await;
        assert_eq!(response.status, 200);
    }
    let response = gateway.admin("GET", "/status").await;
    assert_eq!(response.json()["polls"], 3);
    let text = response.everything();
    let secrets = ENVIRONMENT.map(|(_, secret)| secret);
    for forbidden in ["thread_1", "run_1", "step_1", "billing"]
        .iter()
        .chain(&secrets)
    {
        assert!(!text.contains(forbidden), "{forbidden} in {text}");
    }
}
