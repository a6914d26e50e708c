//! With `encryption_key` nothing of a step is in Redis that could be read there, nor anything believed
//! that a gateway without it could have written.

use super::damage::{
    added, assert_no_byte_is_trusted, assert_nothing_is_believed_in_anothers_place,
    assert_nothing_is_believed_of_another_client, assert_survives_damage, swap,
};
use super::{
    Fleet, PREFIX, assert_shares, has_written, is_fetched, is_shared, is_up, purge, reached,
    spread, tier,
};
use crate::support::gateway::TWO_CLIENTS;
use crate::support::redis::Redis;
use crate::support::{Gateway, process, step_json};

/// Ids that are nowhere by chance.
const THREAD: &str = "thread_Zq81kXw0pLmv";
const RUN: &str = "run_Hy72jVb9sDcn";
const STEP_ID: &str = "step_Wt55gRf3aUxe";

/// Any so many bytes in a row betray a body.
const WINDOW: usize = 12;

/// `encryption_key` from a file with that text; the folder must live as long as it is read.
struct Key(tempfile::TempDir);

impl Key {
    fn of(text: &str) -> Self {
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

/// Steps, a variant and purges of all kinds.
async fn use_it(fleet: &Fleet, rest: &str) {
    let gateway = fleet.gateway_with(rest).await;
    for below in [
        "run-step".to_owned(),
        format!("run-step/{THREAD}/{RUN}/{STEP_ID}"),
    ] {
        purge(&gateway, &below).await;
    }
    let variant = format!("{}?include[]=variant_Kd93mQz6", path());
    spread(&gateway, &[&path(), &variant]).await;
    purge(&gateway, "run-step/another_Pb40xNc7").await;
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What no name may show, whoever holds it: as it is, or in hexadecimal.
fn assert_no_names(all: &[Vec<u8>]) {
    for name in [
        THREAD,
        RUN,
        STEP_ID,
        "run-step",
        "variant_Kd93mQz6",
        "another_Pb40xNc7",
    ] {
        let spelled = hex(name.as_bytes());
        for bytes in all {
            let text = String::from_utf8_lossy(bytes).into_owned();
            assert!(!contains(bytes, name.as_bytes()), "{name} in {text}");
            assert!(!contains(bytes, spelled.as_bytes()), "{name} in {text}");
        }
    }
}

/// What the command line shows: `--scan`, then each key by its type.
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
async fn with_a_key_redis_shows_neither_an_id_nor_a_part_of_a_body() {
    let (fleet, key) = (Fleet::start().await, Key::of(KEY));
    use_it(&fleet, &key.line()).await;
    let all = fleet.redis.everything().await;
    assert_eq!(fleet.redis.stored().await.len(), 2);
    assert_no_names(&all);
    let body = step_json(THREAD, RUN, STEP_ID, "completed");
    for (at, window) in body.windows(WINDOW).enumerate() {
        for bytes in &all {
            assert!(!contains(bytes, window), "byte {at} of the body and on");
        }
    }
    for bytes in &all {
        assert!(!contains(bytes, b"application/json"), "its type");
        assert!(!contains(bytes, KEY.as_bytes()));
    }
    let printed = printed(&fleet.redis).await;
    assert!(printed.contains(PREFIX), "{printed}");
    assert_no_names(&[printed.into_bytes()]);
}

#[tokio::test]
async fn without_a_key_names_are_hashes_all_the_same() {
    let fleet = Fleet::start().await;
    use_it(&fleet, "").await;
    let stored = fleet.redis.stored().await;
    assert_eq!(stored.len(), 2);
    // Values are the only thing that has ids in it.
    let all = fleet.redis.everything().await;
    let values: Vec<_> = stored.iter().map(|stored| &stored.value).collect();
    let names: Vec<_> = all
        .into_iter()
        .filter(|bytes| !values.contains(&bytes))
        .collect();
    assert!(names.len() > 8, "{}", names.len());
    assert_no_names(&names);
    assert_no_names(&[fleet.redis.cli(&["--scan"]).await.into_bytes()]);
    assert!(
        stored
            .iter()
            .all(|stored| contains(&stored.value, STEP_ID.as_bytes()))
    );
}

#[tokio::test]
async fn with_the_same_key_everything_is_shared_as_without() {
    let (fleet, key) = (Fleet::start().await, Key::of(KEY));
    // The same in other words: what is around a secret is not part of it.
    let same = Key::of(&format!("  {KEY}\n"));
    let a = fleet.gateway_with(&key.line()).await;
    let b = fleet.gateway_with(&same.line()).await;
    spread(&a, &[&path()]).await;
    let shared = b.get(&path()).await;
    assert!(is_shared(&shared), "{}", shared.cache_status());
    assert_eq!(shared.body, step_json(THREAD, RUN, STEP_ID, "completed"));
    assert_shares(&fleet.origin, &a, &b, "sealed").await;
    purge(&b, "run-step").await;
    reached().await;
    assert!(is_fetched(&a.get(&path()).await));
}

#[tokio::test]
async fn without_the_key_or_with_another_one_nothing_is_taken() {
    let (key, other) = (Key::of(KEY), Key::of(&KEY.replace('9', "8")));
    let lines = [String::new(), key.line(), other.line()];
    for owner in &lines {
        let fleet = Fleet::start().await;
        let a = fleet.gateway_with(owner).await;
        spread(&a, &[&path()]).await;
        for stranger in lines.iter().filter(|line| *line != owner) {
            let b = fleet.gateway_with(stranger).await;
            let answer = b.get(&path()).await;
            assert!(is_fetched(&answer), "{}", answer.cache_status());
        }
        let b = fleet.gateway_with(owner).await;
        assert!(is_shared(&b.get(&path()).await), "among its own");
    }
}

/// Neither a plain one where a sealed one belongs, nor the other way round, nor one of another key.
#[tokio::test]
async fn c40_an_entry_of_another_kind_is_not_believed_in_that_place() {
    let (key, other) = (Key::of(KEY), Key::of(&KEY.replace('9', "8")));
    for (what, owner, stranger) in [
        ("plain for sealed", key.line(), String::new()),
        ("sealed for plain", String::new(), key.line()),
        ("of another key", key.line(), other.line()),
    ] {
        let fleet = Fleet::start().await;
        let a = fleet.gateway_with(&owner).await;
        spread(&a, &[&path()]).await;
        let place = fleet.redis.stored().await;
        fleet.origin.set_status("failed");
        spread(&fleet.gateway_with(&stranger).await, &[&path()]).await;
        let planted = added(&place, &fleet.redis.stored().await);
        fleet.redis.overwrite(&place[0], &planted.value).await;
        fleet.origin.set_status("completed");
        let fetches = fleet.origin.count();
        let answer = fleet.gateway_with(&owner).await.get(&path()).await;
        assert!(is_fetched(&answer), "{what}: {}", answer.cache_status());
        assert_eq!(fleet.origin.count(), fetches + 1, "{what}");
    }
}

/// Sealed for its place: from before a purge it is no good after it, though it is whole.
#[tokio::test]
async fn c40_a_sealed_entry_from_before_a_purge_of_everything_is_not_believed_after_it() {
    let (fleet, key) = (Fleet::start().await, Key::of(KEY));
    let a = fleet.gateway_with(&key.line()).await;
    spread(&a, &[&path()]).await;
    let old = fleet.redis.stored().await.remove(0);
    purge(&a, "run-step").await;
    fleet.origin.set_status("failed");
    spread(&a, &[&path()]).await;
    let new = added(std::slice::from_ref(&old), &fleet.redis.stored().await);
    assert_ne!(new.key, old.key, "names are new");
    fleet.redis.overwrite(&new, &old.value).await;
    let answer = fleet.gateway_with(&key.line()).await.get(&path()).await;
    assert!(is_fetched(&answer), "{}", answer.cache_status());
    assert_eq!(answer.json()["status"], "failed");
}

/// The same text twice is not the same bytes twice.
#[tokio::test]
async fn what_is_sealed_twice_looks_different() {
    let (fleet, key) = (Fleet::start().await, Key::of(KEY));
    let a = fleet.gateway_with(&key.line()).await;
    spread(&a, &[&path()]).await;
    let first = fleet.redis.stored().await.remove(0);
    a.get_with(&path(), &[("Cache-Control", "no-cache")]).await;
    has_written(&a, 2.0).await;
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
async fn c40_what_is_sealed_and_damaged_is_fetched_and_put_right() {
    let key = Key::of(KEY);
    assert_survives_damage(&key.line()).await;
}

#[tokio::test]
async fn c40_no_flipped_bit_of_a_sealed_entry_is_trusted() {
    let key = Key::of(KEY);
    let flip = |value: &mut Vec<u8>, at: usize| value[at] ^= 1 << (at % 8);
    assert_no_byte_is_trusted(&key.line(), flip, "flipped").await;
}

#[tokio::test]
async fn c40_no_part_of_a_sealed_entry_is_trusted_as_the_whole() {
    let key = Key::of(KEY);
    assert_no_byte_is_trusted(&key.line(), Vec::truncate, "truncated").await;
}

#[tokio::test]
async fn c40_nothing_sealed_is_believed_in_anothers_place() {
    let key = Key::of(KEY);
    assert_nothing_is_believed_in_anothers_place(&key.line()).await;
    assert_nothing_is_believed_of_another_client(&key.line()).await;
}

/// A key is no header: with it, partitions are what they were.
#[tokio::test]
async fn the_key_of_the_tier_is_in_no_request_upstream_and_on_no_page() {
    let (fleet, key) = (Fleet::start().await, Key::of(KEY));
    let toml = tier(&fleet.redis.url()) + &key.line() + TWO_CLIENTS;
    let gateway = Gateway::start(&fleet.origin, &toml).await;
    is_up(&gateway).await;
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

/// Swapped within one thread, where nothing but the field tells them apart.
#[tokio::test]
async fn c40_two_sealed_steps_of_a_run_are_not_taken_for_each_other() {
    let (fleet, key) = (Fleet::start().await, Key::of(KEY));
    let a = fleet.gateway_with(&key.line()).await;
    let paths: Vec<String> = (0..2)
        .map(|n| format!("/v1/threads/{THREAD}/runs/{RUN}/steps/step_{n}"))
        .collect();
    spread(&a, &[&paths[0], &paths[1]]).await;
    let stored = fleet.redis.stored().await;
    assert_eq!(stored[0].key, stored[1].key);
    swap(&fleet.redis, &stored[0], &stored[1]).await;
    let b = fleet.gateway_with(&key.line()).await;
    for path in &paths {
        assert!(is_fetched(&b.get(path).await), "{path}");
    }
}
