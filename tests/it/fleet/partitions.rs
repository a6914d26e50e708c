//! Partitions: a body is shared only between requests that would have fetched the same.

use super::{
    Fleet, expect_fetched, expect_shared_hit, is_fetched, is_shared_hit, start_gateway,
    store_in_tier, tier,
};
use crate::support::gateway::{BILLING_TOKEN, SUPPORT_TOKEN, TWO_CLIENTS};
use crate::support::{Origin, STEP, text};

#[tokio::test]
async fn clients_with_different_headers_share_nothing() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway_with(TWO_CLIENTS).await;
    let b = fleet.gateway_with(TWO_CLIENTS).await;
    let billing = [("x-portkey-api-key", BILLING_TOKEN)];
    let support = [("x-portkey-api-key", SUPPORT_TOKEN)];
    assert!(a.get_with(STEP, &billing).await.is_stored());
    super::wait_written(&a, 1.0).await;
    fleet.origin.set_status("failed");
    let other = b.get_with(STEP, &support).await;
    assert!(is_fetched(&other), "{}", other.cache_status());
    assert_eq!(other.text(), text("failed"));
    let same = b.get_with(STEP, &billing).await;
    assert!(is_shared_hit(&same), "{}", same.cache_status());
    assert_eq!(same.text(), text("completed"));
    super::wait_written(&b, 1.0).await;
    let fresh = fleet.gateway_with(TWO_CLIENTS).await;
    for (client, status) in [(billing, "completed"), (support, "failed")] {
        let shared = fresh.get_with(STEP, &client).await;
        assert!(
            is_shared_hit(&shared),
            "{status}: {}",
            shared.cache_status()
        );
        assert_eq!(shared.text(), text(status));
    }
    assert_eq!(fleet.origin.count(), 2);
}

#[tokio::test]
async fn another_upstream_is_another_partition() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    store_in_tier(&a, &[STEP]).await;
    let other = Origin::start().await;
    other.set_status("failed");
    let b = start_gateway(&other, &tier(&fleet.redis.url())).await;
    let fetched = expect_fetched(&b, STEP).await;
    assert_eq!(fetched.text(), text("failed"));
    super::wait_written(&b, 1.0).await;
    let c = fleet.gateway().await;
    assert_eq!(
        c.get(STEP).await.text(),
        text("completed"),
        "the body of its own partition"
    );
}

#[tokio::test]
async fn other_upstream_headers_or_query_are_another_partition() {
    for rest in [
        "[upstream.headers]\nx-tenant = \"other\"\n",
        "[upstream.query]\napi-version = \"2\"\n",
    ] {
        let fleet = Fleet::start().await;
        let a = fleet.gateway().await;
        store_in_tier(&a, &[STEP]).await;
        let b = fleet.gateway_with(rest).await;
        assert!(is_fetched(&b.get(STEP).await), "{rest}");
    }
}

#[tokio::test]
async fn another_prefix_is_another_fleet() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    store_in_tier(&a, &[STEP]).await;
    let toml = tier(&fleet.redis.url()).replace("\"fleet\"", "\"fleet2\"");
    let b = start_gateway(&fleet.origin, &toml).await;
    assert!(is_fetched(&b.get(STEP).await), "it has another prefix");
    super::wait_written(&b, 1.0).await;
    super::purge(&b, "run-step").await;
    super::wait_purge_propagated().await;
    assert!(is_shared_hit(&fleet.gateway().await.get(STEP).await));
}

#[tokio::test]
async fn every_key_in_redis_begins_with_the_prefix() {
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    store_in_tier(&a, &[STEP]).await;
    super::purge(&a, "run-step/thread_2").await;
    for key in fleet.redis.keys().await {
        let name = String::from_utf8_lossy(&key).into_owned();
        assert!(name.starts_with("fleet:"), "{name}");
    }
}

#[tokio::test]
async fn variants_of_a_step_have_separate_entries() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let (one, two) = (format!("{STEP}?include[]=a"), format!("{STEP}?include[]=b"));
    store_in_tier(&a, &[&one]).await;
    fleet.origin.set_status("failed");
    for path in [STEP, &two] {
        let fetched = expect_fetched(&b, path).await;
        assert_eq!(fetched.text(), text("failed"), "{path}");
    }
    let shared = expect_shared_hit(&b, &one).await;
    assert_eq!(shared.text(), text("completed"));
    super::wait_written(&b, 2.0).await;
    let c = fleet.gateway().await;
    for (path, status) in [(STEP, "failed"), (&*one, "completed"), (&two, "failed")] {
        let shared = expect_shared_hit(&c, path).await;
        assert_eq!(shared.text(), text(status), "{path}");
    }
}

#[tokio::test]
async fn steps_whose_concatenated_ids_are_equal_have_separate_entries() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    let path = |thread: &str, run: &str, step: &str| {
        format!("/v1/threads/{thread}/runs/{run}/steps/{step}")
    };
    store_in_tier(&a, &[&path("t", "rs", "x")]).await;
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
    expect_shared_hit(&b, &path("t", "rs", "x")).await;
}
