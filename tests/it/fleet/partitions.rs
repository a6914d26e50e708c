//! What is shared only with those that would have got the same.

use super::{Fleet, is_fetched, is_shared, is_up, spread, tier};
use crate::support::gateway::{BILLING_TOKEN, SUPPORT_TOKEN, TWO_CLIENTS};
use crate::support::{Gateway, Origin, STEP, text};

#[tokio::test]
async fn clients_with_headers_of_their_own_share_nothing_with_each_other() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway_with(TWO_CLIENTS).await;
    let b = fleet.gateway_with(TWO_CLIENTS).await;
    let billing = [("x-portkey-api-key", BILLING_TOKEN)];
    let support = [("x-portkey-api-key", SUPPORT_TOKEN)];
    assert!(a.get_with(STEP, &billing).await.is_stored());
    super::has_written(&a, 1.0).await;
    fleet.origin.set_status("failed");
    let other = b.get_with(STEP, &support).await;
    assert!(is_fetched(&other), "{}", other.cache_status());
    assert_eq!(other.text(), text("failed"));
    let same = b.get_with(STEP, &billing).await;
    assert!(is_shared(&same), "{}", same.cache_status());
    assert_eq!(same.text(), text("completed"));
    super::has_written(&b, 1.0).await;
    let fresh = fleet.gateway_with(TWO_CLIENTS).await;
    for (client, status) in [(billing, "completed"), (support, "failed")] {
        let shared = fresh.get_with(STEP, &client).await;
        assert!(is_shared(&shared), "{status}: {}", shared.cache_status());
        assert_eq!(shared.text(), text(status));
    }
    assert_eq!(fleet.origin.count(), 2);
}

#[tokio::test]
async fn another_upstream_is_another_partition() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    spread(&a, &[STEP]).await;
    let elsewhere = Origin::start().await;
    elsewhere.set_status("failed");
    let b = Gateway::start(&elsewhere, &tier(&fleet.redis.url())).await;
    is_up(&b).await;
    let fetched = b.get(STEP).await;
    assert!(is_fetched(&fetched), "{}", fetched.cache_status());
    assert_eq!(fetched.text(), text("failed"));
    super::has_written(&b, 1.0).await;
    let c = fleet.gateway().await;
    assert_eq!(c.get(STEP).await.text(), text("completed"), "of its own");
}

#[tokio::test]
async fn whatever_changes_what_is_fetched_is_another_partition() {
    for rest in [
        "[upstream.headers]\nx-tenant = \"other\"\n",
        "[upstream.query]\napi-version = \"2\"\n",
    ] {
        let fleet = Fleet::start().await;
        let a = fleet.gateway().await;
        spread(&a, &[STEP]).await;
        let b = fleet.gateway_with(rest).await;
        assert!(is_fetched(&b.get(STEP).await), "{rest}");
    }
}

#[tokio::test]
async fn another_prefix_is_another_fleet() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    spread(&a, &[STEP]).await;
    let toml = tier(&fleet.redis.url()).replace("\"fleet\"", "\"fleet2\"");
    let b = Gateway::start(&fleet.origin, &toml).await;
    is_up(&b).await;
    assert!(is_fetched(&b.get(STEP).await), "one prefix, one account");
    super::has_written(&b, 1.0).await;
    super::purge(&b, "run-step").await;
    super::reached().await;
    assert!(is_shared(&fleet.gateway().await.get(STEP).await));
}

#[tokio::test]
async fn every_name_in_redis_begins_with_the_prefix() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    spread(&a, &[STEP]).await;
    super::purge(&a, "run-step/thread_2").await;
    for key in fleet.redis.keys().await {
        let name = String::from_utf8_lossy(&key).into_owned();
        assert!(name.starts_with("fleet:"), "{name}");
    }
}

#[tokio::test]
async fn variants_of_a_step_are_kept_apart() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let (one, two) = (format!("{STEP}?include[]=a"), format!("{STEP}?include[]=b"));
    spread(&a, &[&one]).await;
    fleet.origin.set_status("failed");
    for path in [STEP, &two] {
        let fetched = b.get(path).await;
        assert!(is_fetched(&fetched), "{path}: {}", fetched.cache_status());
        assert_eq!(fetched.text(), text("failed"), "{path}");
    }
    let shared = b.get(&one).await;
    assert!(is_shared(&shared), "{}", shared.cache_status());
    assert_eq!(shared.text(), text("completed"));
    super::has_written(&b, 2.0).await;
    let c = fleet.gateway().await;
    for (path, status) in [(STEP, "failed"), (&*one, "completed"), (&two, "failed")] {
        let shared = c.get(path).await;
        assert!(is_shared(&shared), "{path}: {}", shared.cache_status());
        assert_eq!(shared.text(), text(status), "{path}");
    }
}

#[tokio::test]
async fn steps_whose_ids_read_alike_are_kept_apart() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let path = |thread: &str, run: &str, step: &str| {
        format!("/v1/threads/{thread}/runs/{run}/steps/{step}")
    };
    spread(&a, &[&path("t", "rs", "x")]).await;
    for (thread, run, step) in [
        ("t", "r", "sx"),
        ("tr", "s", "x"),
        ("t", "rs", "X"),
        ("T", "rs", "x"),
    ] {
        let fetched = b.get(&path(thread, run, step)).await;
        assert!(is_fetched(&fetched), "{thread} {run} {step}");
        assert_eq!(fetched.json()["id"], step);
    }
    assert!(is_shared(&b.get(&path("t", "rs", "x")).await));
}
