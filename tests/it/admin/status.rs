//! `/status`: what it says, and what never stands in it.

use serde_json::Value;

use crate::support::gateway::ENVIRONMENT;
use crate::support::{Action, Gateway, Origin, STEP, until};

async fn status(gateway: &Gateway) -> Value {
    gateway.admin("GET", "/status").await.json()
}

/// Three live answers, then the step ends: a fetch and two hits.
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
async fn it_counts_polls_and_fetches() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    poll(&origin, &gateway).await;
    let said = status(&gateway).await;
    assert_eq!((&said["polls"], &said["fetches"]), (&6.into(), &4.into()));
    let requests = &said["rules"][0]["requests"];
    assert_eq!(
        (&requests["hit"], &requests["miss"]),
        (&2.into(), &4.into())
    );
}

/// Whoever is refused or gets nothing was not polled for: else trouble would look like a saving.
#[tokio::test]
async fn what_was_not_answered_is_no_poll_and_its_fetch_counts() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    gateway.get("/v1/nowhere").await;
    gateway
        .get_with(STEP, &[("Cache-Control", "only-if-cached")])
        .await;
    origin.always(vec![Action::Reset]);
    assert_eq!(gateway.get(STEP).await.status, 502);
    let said = status(&gateway).await;
    assert_eq!(said["polls"], 0);
    assert_eq!(said["fetches"], 1);
}

#[tokio::test]
async fn it_says_how_long_hits_and_fetches_take() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let nothing = &status(&gateway).await["latency"]["hit"];
    assert_eq!(
        nothing,
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
async fn its_history_holds_what_the_last_interval_brought() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    poll(&origin, &gateway).await;
    let sampled = async || status(&gateway).await["history"]["polls"] != serde_json::json!([]);
    until("the first sample", sampled).await;
    assert_eq!(
        status(&gateway).await["history"],
        serde_json::json!({ "interval_seconds": 5, "polls": [6], "fetches": [4] })
    );
}

#[tokio::test]
async fn it_says_where_callers_knock_and_how_many_clients_there_are() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let said = status(&gateway).await;
    let data = format!("http://{}", gateway.address());
    assert_eq!(said["listen"], serde_json::json!([data]));
    assert_eq!(said["clients"], 0);
    let toml = crate::support::gateway::TWO_CLIENTS;
    let gateway = Gateway::start_unix(&origin, toml).await;
    let said = status(&gateway).await;
    let socket = format!("unix:{}", gateway.socket().display());
    assert_eq!(said["listen"], serde_json::json!([socket]));
    assert_eq!(said["clients"], 2);
}

#[tokio::test]
async fn neither_an_id_nor_a_secret_stands_in_it() {
    let origin = Origin::start().await;
    let toml = crate::support::gateway::TWO_CLIENTS;
    let gateway = Gateway::start(&origin, toml).await;
    let token = crate::support::gateway::BILLING_TOKEN;
    let bearer = format!("Bearer {token}");
    for status in ["in_progress", "completed", "completed"] {
        origin.set_status(status);
        let answer = gateway.get_with(STEP, &[("Authorization", &bearer)]).await;
        assert_eq!(answer.status, 200);
    }
    let answer = gateway.admin("GET", "/status").await;
    assert_eq!(answer.json()["polls"], 3);
    let text = answer.everything();
    let secrets = ENVIRONMENT.map(|(_, secret)| secret);
    for unsaid in ["thread_1", "run_1", "step_1", "billing"]
        .iter()
        .chain(&secrets)
    {
        assert!(!text.contains(unsaid), "{unsaid} in {text}");
    }
}
