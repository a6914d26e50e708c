//! Encryption: with `encryption_key`, Redis contains nothing of a step in clear, and a gateway accepts
//! nothing that was written without the key.

use super::corruption::{
    added, assert_corruption_is_repaired, assert_each_corrupted_byte_is_a_miss,
    assert_swapped_clients_are_misses, assert_swapped_entries_are_misses, swap,
};
use super::{
    Fleet, PREFIX, assert_shares, expect_fetched, expect_shared_hit, is_fetched, is_shared_hit,
    purge, start_gateway, store_in_tier, tier, wait_purge_propagated, wait_written,
};
use crate::support::gateway::TWO_CLIENTS;
use crate::support::redis::Redis;
use crate::support::{process, step_json};

/// Ids that occur nowhere by chance.
const THREAD: &str = "thread_Zq81kXw0pLmv";
const RUN: &str = "run_Hy72jVb9sDcn";
const STEP_ID: &str = "step_Wt55gRf3aUxe";

/// This many consecutive bytes of a body must not occur in Redis.
const WINDOW: usize = 12;

/// An `encryption_key` in a file. Dropping it removes the file.
struct Key(tempfile::TempDir);

impl Key {
    fn new(text: &str) -> Self {
        Self(process::folder(&[("key", text)]))
    }

    fn line(&self) -> String {
        let file = self.0.path().join("key");
        format!("encryption_key = {{ file = \"{}\" }}\n", file.display())
    }
}

const KEY: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn path() -> String {
    format!("/v1/threads/{THREAD}/runs/{RUN}/steps/{STEP_ID}")
}

/// Stores a step and a variant, and purges at every depth.
async fn store_and_purge(fleet: &Fleet, rest: &str) {
    let gateway = fleet.gateway_with(rest).await;
    for below in [
        "run-step".to_owned(),
        format!("run-step/{THREAD}/{RUN}/{STEP_ID}"),
    ] {
        purge(&gateway, &below).await;
    }
    let variant = format!("{}?include[]=variant_Kd93mQz6", path());
    store_in_tier(&gateway, &[&path(), &variant]).await;
    purge(&gateway, "run-step/another_Pb40xNc7").await;
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asserts that no id and no rule occurs, as text or in hexadecimal.
fn assert_no_ids(all: &[Vec<u8>]) {
    for name in [
        THREAD,
        RUN,
        STEP_ID,
        "run-step",
        "variant_Kd93mQz6",
        "another_Pb40xNc7",
    ] {
        let in_hex = hex(name.as_bytes());
        for bytes in all {
            let text = String::from_utf8_lossy(bytes).into_owned();
            assert!(!contains(bytes, name.as_bytes()), "{name} in {text}");
            assert!(!contains(bytes, in_hex.as_bytes()), "{name} in {text}");
        }
    }
}

/// Returns what `redis-cli` prints for `--scan` and for each key.
async fn printed(redis: &Redis) -> String {
    let mut all = redis.cli(&["--scan"]).await;
    for key in all.clone().lines() {
        all += &redis.cli(&["HGETALL", key]).await;
        all += &redis.cli(&["XRANGE", key, "-", "+"]).await;
        all += &redis.cli(&["GET", key]).await;
    }
    all
}

#[tokio::test]
async fn with_a_key_redis_contains_neither_an_id_nor_a_part_of_a_body() {
    let (fleet, key) = (Fleet::start().await, Key::new(KEY));
    store_and_purge(&fleet, &key.line()).await;
    let all = fleet.redis.everything().await;
    assert_eq!(fleet.redis.stored().await.len(), 2);
    assert_no_ids(&all);
    let body = step_json(THREAD, RUN, STEP_ID, "completed");
    for (at, window) in body.windows(WINDOW).enumerate() {
        for bytes in &all {
            assert!(!contains(bytes, window), "byte {at} of the body and on");
        }
    }
    for bytes in &all {
        assert!(!contains(bytes, b"application/json"), "the content type");
        assert!(!contains(bytes, KEY.as_bytes()));
    }
    let printed = printed(&fleet.redis).await;
    assert!(printed.contains(PREFIX), "{printed}");
    assert_no_ids(&[printed.into_bytes()]);
}

#[tokio::test]
async fn without_a_key_only_values_contain_ids() {
    let fleet = Fleet::start().await;
    store_and_purge(&fleet, "").await;
    let stored = fleet.redis.stored().await;
    assert_eq!(stored.len(), 2);
    let all = fleet.redis.everything().await;
    let values: Vec<_> = stored.iter().map(|stored| &stored.value).collect();
    let names: Vec<_> = all
        .into_iter()
        .filter(|bytes| !values.contains(&bytes))
        .collect();
    assert!(names.len() > 8, "{}", names.len());
    assert_no_ids(&names);
    assert_no_ids(&[fleet.redis.cli(&["--scan"]).await.into_bytes()]);
    assert!(
        stored
            .iter()
            .all(|stored| contains(&stored.value, STEP_ID.as_bytes()))
    );
}

#[tokio::test]
async fn gateways_with_the_same_key_share_and_purge() {
    let (fleet, key) = (Fleet::start().await, Key::new(KEY));
    // White space around a secret is not part of it.
    let same = Key::new(&format!("  {KEY}\n"));
    let a = fleet.gateway_with(&key.line()).await;
    let b = fleet.gateway_with(&same.line()).await;
    store_in_tier(&a, &[&path()]).await;
    let shared = expect_shared_hit(&b, &path()).await;
    assert_eq!(shared.body, step_json(THREAD, RUN, STEP_ID, "completed"));
    assert_shares(&fleet.origin, &a, &b, "sealed").await;
    purge(&b, "run-step").await;
    wait_purge_propagated().await;
    expect_fetched(&a, &path()).await;
}

#[tokio::test]
async fn without_the_key_or_with_another_one_nothing_is_shared() {
    let (key, other) = (Key::new(KEY), Key::new(&KEY.replace('9', "8")));
    let lines = [String::new(), key.line(), other.line()];
    for owner in &lines {
        let fleet = Fleet::start().await;
        let a = fleet.gateway_with(owner).await;
        store_in_tier(&a, &[&path()]).await;
        for stranger in lines.iter().filter(|line| *line != owner) {
            let b = fleet.gateway_with(stranger).await;
            expect_fetched(&b, &path()).await;
        }
        let b = fleet.gateway_with(owner).await;
        assert!(is_shared_hit(&b.get(&path()).await), "with the same key");
    }
}

#[tokio::test]
async fn c40_a_planted_plain_or_foreign_sealed_entry_is_a_miss() {
    let (key, other) = (Key::new(KEY), Key::new(&KEY.replace('9', "8")));
    for (what, owner, stranger) in [
        ("plain for sealed", key.line(), String::new()),
        ("sealed for plain", String::new(), key.line()),
        ("of another key", key.line(), other.line()),
    ] {
        let fleet = Fleet::start().await;
        let a = fleet.gateway_with(&owner).await;
        store_in_tier(&a, &[&path()]).await;
        let place = fleet.redis.stored().await;
        fleet.origin.set_status("failed");
        store_in_tier(&fleet.gateway_with(&stranger).await, &[&path()]).await;
        let planted = added(&place, &fleet.redis.stored().await);
        fleet.redis.overwrite(&place[0], &planted.value).await;
        fleet.origin.set_status("completed");
        let fetches = fleet.origin.count();
        let answer = fleet.gateway_with(&owner).await.get(&path()).await;
        assert!(is_fetched(&answer), "{what}: {}", answer.cache_status());
        assert_eq!(fleet.origin.count(), fetches + 1, "{what}");
    }
}

/// Replay: the old value is intact, but was sealed for the bucket's old name.
#[tokio::test]
async fn c40_a_replayed_sealed_entry_from_before_a_purge_is_a_miss() {
    let (fleet, key) = (Fleet::start().await, Key::new(KEY));
    let a = fleet.gateway_with(&key.line()).await;
    store_in_tier(&a, &[&path()]).await;
    let old = fleet.redis.stored().await.remove(0);
    purge(&a, "run-step").await;
    fleet.origin.set_status("failed");
    store_in_tier(&a, &[&path()]).await;
    let new = added(std::slice::from_ref(&old), &fleet.redis.stored().await);
    assert_ne!(new.key, old.key, "buckets have new names");
    fleet.redis.overwrite(&new, &old.value).await;
    let answer = fleet.gateway_with(&key.line()).await.get(&path()).await;
    assert!(is_fetched(&answer), "{}", answer.cache_status());
    assert_eq!(answer.json()["status"], "failed");
}

#[tokio::test]
async fn sealing_the_same_body_twice_gives_different_bytes() {
    let (fleet, key) = (Fleet::start().await, Key::new(KEY));
    let a = fleet.gateway_with(&key.line()).await;
    store_in_tier(&a, &[&path()]).await;
    let first = fleet.redis.stored().await.remove(0);
    a.get_with(&path(), &[("Cache-Control", "no-cache")]).await;
    wait_written(&a, 2.0).await;
    let second = fleet.redis.stored().await.remove(0);
    assert_eq!((&first.key, &first.field), (&second.key, &second.field));
    let same = first
        .value
        .iter()
        .zip(&second.value)
        .filter(|(a, b)| a == b)
        .count();
    assert!(
        same < first.value.len() / 8,
        "{same} of {} bytes",
        first.value.len()
    );
}

#[tokio::test]
async fn c40_a_corrupted_sealed_entry_is_fetched_and_repaired() {
    let key = Key::new(KEY);
    assert_corruption_is_repaired(&key.line()).await;
}

#[tokio::test]
async fn c40_a_sealed_entry_with_a_flipped_bit_is_a_miss() {
    let key = Key::new(KEY);
    let flip = |value: &mut Vec<u8>, at: usize| value[at] ^= 1 << (at % 8);
    assert_each_corrupted_byte_is_a_miss(&key.line(), flip, "flipped").await;
}

#[tokio::test]
async fn c40_a_truncated_sealed_entry_is_a_miss() {
    let key = Key::new(KEY);
    assert_each_corrupted_byte_is_a_miss(&key.line(), Vec::truncate, "truncated").await;
}

#[tokio::test]
async fn c40_a_sealed_entry_at_another_location_is_a_miss() {
    let key = Key::new(KEY);
    assert_swapped_entries_are_misses(&key.line()).await;
    assert_swapped_clients_are_misses(&key.line()).await;
}

/// The key does not change the partitions.
#[tokio::test]
async fn the_encryption_key_is_in_no_upstream_request_and_on_no_page() {
    let (fleet, key) = (Fleet::start().await, Key::new(KEY));
    let toml = tier(&fleet.redis.url()) + &key.line() + TWO_CLIENTS;
    let gateway = start_gateway(&fleet.origin, &toml).await;
    let billing = [("x-portkey-api-key", crate::support::gateway::BILLING_TOKEN)];
    let answer = gateway.get_with(&path(), &billing).await;
    assert!(answer.is_stored() && !answer.everything().contains(KEY));
    assert!(!fleet.origin.last().text().contains(KEY));
    for page in ["/", "/status", "/metrics"] {
        assert!(
            !gateway.admin("GET", page).await.everything().contains(KEY),
            "{page}"
        );
    }
}

/// The entries are in one bucket and differ only in the field.
#[tokio::test]
async fn c40_swapped_sealed_entries_of_one_bucket_are_misses() {
    let (fleet, key) = (Fleet::start().await, Key::new(KEY));
    let a = fleet.gateway_with(&key.line()).await;
    let paths: Vec<String> = (0..2)
        .map(|n| format!("/v1/threads/{THREAD}/runs/{RUN}/steps/step_{n}"))
        .collect();
    store_in_tier(&a, &[&paths[0], &paths[1]]).await;
    let stored = fleet.redis.stored().await;
    assert_eq!(stored[0].key, stored[1].key);
    swap(&fleet.redis, &stored[0], &stored[1]).await;
    let b = fleet.gateway_with(&key.line()).await;
    for path in &paths {
        expect_fetched(&b, path).await;
    }
}
