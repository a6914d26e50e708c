//! Corrupted entries (catalogue item 40): each is a miss, never an error or a wrong body, and the next
//! write repairs it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Fleet, RECOVERY, assert_serves, completed, is_fetched, is_shared_hit, step_of_thread,
    store_in_tier, tier, wait_process_state, wait_up, wait_written,
};
use crate::support::gateway::{BILLING_TOKEN, SUPPORT_TOKEN, TWO_CLIENTS};
use crate::support::redis::{Redis, Stored, command};
use crate::support::{Gateway, Process, STEP, body, step, text};

/// Corrupts a valid value.
type Damage = fn(&[u8]) -> Vec<u8>;

pub(super) const DAMAGES: [(&str, Damage); 13] = [
    ("nothing", |_| Vec::new()),
    ("one byte", |_| b"S".to_vec()),
    ("junk", |_| b"x".repeat(700)),
    ("zeros", |value| vec![0; value.len()]),
    ("ones", |value| vec![0xff; value.len()]),
    ("half", |value| value[..value.len() / 2].to_vec()),
    ("its head", |value| value[..4].to_vec()),
    ("all but one", |value| value[..value.len() - 1].to_vec()),
    ("one more", |value| [value, b"\0"].concat()),
    ("twice", |value| value.repeat(2)),
    ("something before it", |value| [b" ", value].concat()),
    ("the next version", |value| {
        let mut value = value.to_vec();
        value[2] = value[2].wrapping_add(1);
        value
    }),
    ("the bare body", |_| body("completed")),
];

/// Asserts that a new gateway fetches all of `ids` correctly. Returns the gateway, which writes after its
/// responses.
async fn assert_all_missed(fleet: &Fleet, rest: &str, ids: &[String], what: &str) -> Gateway {
    let gateway = fleet.gateway_with(rest).await;
    for id in ids {
        let before = fleet.origin.count();
        let answer = gateway.get(&step(id)).await;
        let expected = completed("thread_1", id);
        assert_eq!(
            (answer.status, answer.text()),
            (200, expected),
            "{what}: {id}"
        );
        assert!(!answer.is_hit(), "{what}: {id}: {}", answer.cache_status());
        assert_eq!(fleet.origin.count(), before + 1, "{what}: {id}");
    }
    gateway
}

/// Asserts for each kind of damage to every entry that the entries are fetched and repaired.
pub(super) async fn assert_corruption_is_repaired(rest: &str) {
    let fleet = Fleet::start().await;
    let a = fleet.gateway_with(rest).await;
    let ids: Vec<String> = (0..3).map(|nth| format!("s_{nth}")).collect();
    let paths: Vec<String> = ids.iter().map(|id| step(id)).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    store_in_tier(&a, &paths).await;
    let whole = fleet.redis.stored().await;
    assert_eq!(whole.len(), ids.len());
    for (what, damage) in DAMAGES {
        for stored in &whole {
            fleet.redis.overwrite(stored, &damage(&stored.value)).await;
        }
        let _writing = assert_all_missed(&fleet, rest, &ids, what).await;
        let start = Instant::now();
        let is_repaired = async || {
            let now = fleet.redis.stored().await;
            now.len() == whole.len() && now.iter().all(|s| s.value.len() == whole[0].value.len())
        };
        while !is_repaired().await {
            assert!(start.elapsed() < RECOVERY, "{what}: not repaired");
            sleep(Duration::from_millis(10)).await;
        }
        let repaired = fleet.gateway_with(rest).await.get(&step(&ids[0])).await;
        assert!(
            is_shared_hit(&repaired),
            "{what}: {}",
            repaired.cache_status()
        );
    }
}

/// Asserts for each byte of an entry that a step whose entry has this byte corrupted is fetched.
pub(super) async fn assert_each_corrupted_byte_is_a_miss(
    rest: &str,
    corrupt: fn(&mut Vec<u8>, usize),
    what: &str,
) {
    let fleet = Fleet::start().await;
    let a = fleet.gateway_with(rest).await;
    // Ids of one length have entries of one length.
    let id = |nth: usize| format!("s_{nth:04}");
    store_in_tier(&a, &[&step(&id(0))]).await;
    let length = fleet.redis.stored().await[0].value.len();
    let ids: Vec<String> = (0..length).map(id).collect();
    for id in &ids[1..] {
        assert!(a.get(&step(id)).await.is_stored(), "{id}");
    }
    wait_written(&a, length as f64).await;
    let mut connection = fleet.redis.connect().await;
    let all = fleet.redis.stored().await;
    assert_eq!(all.len(), length);
    for (nth, stored) in all.iter().enumerate() {
        let mut value = stored.value.clone();
        corrupt(&mut value, nth);
        let words: [&[u8]; 4] = [b"HSET", &stored.key, &stored.field, &value];
        command::<i64>(&mut connection, &words).await;
    }
    assert_all_missed(&fleet, rest, &ids, what).await;
}

#[tokio::test]
async fn c40_a_corrupted_entry_is_fetched_and_repaired() {
    assert_corruption_is_repaired("").await;
}

#[tokio::test]
async fn c40_an_entry_with_a_flipped_bit_is_a_miss() {
    let flip = |value: &mut Vec<u8>, at: usize| value[at] ^= 1 << (at % 8);
    assert_each_corrupted_byte_is_a_miss("", flip, "flipped").await;
}

#[tokio::test]
async fn c40_a_truncated_entry_is_a_miss() {
    assert_each_corrupted_byte_is_a_miss("", Vec::truncate, "truncated").await;
}

/// Swaps the values of two entries.
pub(super) async fn swap(redis: &Redis, one: &Stored, other: &Stored) {
    redis.overwrite(one, &other.value).await;
    redis.overwrite(other, &one.value).await;
}

/// Returns the one entry of `b` that is not in `a`.
pub(super) fn added(a: &[Stored], b: &[Stored]) -> Stored {
    let mut added = b.iter().filter(|stored| !a.contains(stored));
    let found = added.next().expect("one more").clone();
    assert_eq!(added.next(), None);
    found
}

/// Asserts that a valid entry is a miss at the location of another step, run, thread or variant.
pub(super) async fn assert_swapped_entries_are_misses(rest: &str) {
    let other_thread = step_of_thread("thread_2");
    let variant = format!("{STEP}?include[]=a");
    for (what, one, other) in [
        ("step", STEP, &*step("step_2")),
        ("run", STEP, "/v1/threads/thread_1/runs/run_2/steps/step_1"),
        ("thread", STEP, &other_thread),
        ("variant", STEP, &variant),
    ] {
        let fleet = Fleet::start().await;
        let a = fleet.gateway_with(rest).await;
        store_in_tier(&a, &[one]).await;
        let before = fleet.redis.stored().await;
        fleet.origin.set_status("failed");
        store_in_tier(&a, &[other]).await;
        let first = before[0].clone();
        let second = added(&before, &fleet.redis.stored().await);
        swap(&fleet.redis, &first, &second).await;
        let b = fleet.gateway_with(rest).await;
        for path in [one, other] {
            let answer = b.get(path).await;
            assert!(
                is_fetched(&answer),
                "{what}: {path}: {}",
                answer.cache_status()
            );
        }
        assert_eq!(fleet.origin.count(), 4, "{what}");
    }
}

#[tokio::test]
async fn c40_a_valid_entry_at_another_location_is_a_miss() {
    assert_swapped_entries_are_misses("").await;
}

/// Asserts that a valid entry is a miss at the location of another client, whose key differs only in the
/// partition.
pub(super) async fn assert_swapped_clients_are_misses(rest: &str) {
    let rest = format!("{rest}{TWO_CLIENTS}");
    let fleet = Fleet::start().await;
    let a = fleet.gateway_with(&rest).await;
    let clients = [BILLING_TOKEN, SUPPORT_TOKEN].map(|token| [("x-portkey-api-key", token)]);
    assert!(a.get_with(STEP, &clients[0]).await.is_stored());
    wait_written(&a, 1.0).await;
    let before = fleet.redis.stored().await;
    assert!(a.get_with(STEP, &clients[1]).await.is_stored());
    wait_written(&a, 2.0).await;
    let second = added(&before, &fleet.redis.stored().await);
    swap(&fleet.redis, &before[0], &second).await;
    let b = fleet.gateway_with(&rest).await;
    for client in &clients {
        let answer = b.get_with(STEP, client).await;
        assert!(is_fetched(&answer), "{}", answer.cache_status());
    }
}

#[tokio::test]
async fn c40_a_valid_entry_of_another_client_is_a_miss() {
    assert_swapped_clients_are_misses("").await;
}

#[tokio::test]
async fn c40_an_oversized_value_of_100_mib_is_not_read() {
    const MIB: u64 = 1 << 20;
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    store_in_tier(&a, &[STEP]).await;
    let place = fleet.redis.stored().await.remove(0);
    let script = b"return redis.call('HSET', KEYS[1], ARGV[1], string.rep('x', 104857600))";
    let words: [&[u8]; 5] = [b"EVAL", script, b"1", &place.key, &place.field];
    fleet.redis.command::<i64>(&words).await;
    let process = Process::start(&fleet.origin, &tier(&fleet.redis.url()), "info").await;
    wait_process_state(&process, "up").await;
    let memory = process.memory("VmHWM:");
    let start = Instant::now();
    let answer = process.get(STEP, &[]).await;
    let took = start.elapsed();
    assert_eq!(answer.text(), text("completed"));
    assert!(is_fetched(&answer), "{}", answer.cache_status());
    let grown = process.memory("VmHWM:").saturating_sub(memory);
    assert!(grown < 16 * MIB, "{} KiB more", grown >> 10);
    assert!(took < Duration::from_secs(2), "{took:?}");
    wait_process_state(&process, "up").await;
}

#[tokio::test]
async fn c39_a_bucket_of_another_type_is_a_miss() {
    let make: [&[&[u8]]; 4] = [
        &[b"SET", b"", b"junk"],
        &[b"RPUSH", b"", b"junk"],
        &[b"SADD", b"", b"junk"],
        &[b"XADD", b"", b"*", b"junk", b"junk"],
    ];
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    store_in_tier(&a, &[STEP]).await;
    let thread = fleet.redis.threads().await.remove(0);
    for words in make {
        let what = String::from_utf8_lossy(words[0]).into_owned();
        fleet.redis.command::<i64>(&[b"DEL", &thread]).await;
        let mut words = words.to_vec();
        words[1] = &thread;
        fleet.redis.command::<redis::Value>(&words).await;
        let ids: Vec<String> = (0..5).map(|nth| format!("{what}_{nth}")).collect();
        wait_up(&assert_all_missed(&fleet, "", &ids, &what).await).await;
        // What it fetched was not stored there.
        wait_up(&assert_all_missed(&fleet, "", &ids, &what).await).await;
    }
    // A purge of the thread removes the key.
    super::purge(&a, "run-step/thread_1").await;
    super::wait_purge_propagated().await;
    store_in_tier(&a, &[STEP]).await;
    assert!(is_shared_hit(&fleet.gateway().await.get(STEP).await));
}

#[tokio::test]
async fn c40_a_corrupted_write_token_causes_no_wrong_response() {
    for token in [&b""[..], b"x", &[0; 16], &[0xff; 17], &vec![b'x'; 1 << 20]] {
        let fleet = Fleet::start().await;
        let a = fleet.gateway().await;
        store_in_tier(&a, &[STEP]).await;
        let thread = fleet.redis.threads().await.remove(0);
        let words: [&[u8]; 4] = [b"HSET", &thread, b"g", token];
        fleet.redis.command::<i64>(&words).await;
        let b = fleet.gateway().await;
        assert_eq!(b.get(STEP).await.text(), text("completed"));
        assert_serves(&b, "junk_token").await;
        wait_up(&b).await;
    }
}

#[tokio::test]
async fn c40_corruption_in_redis_does_not_affect_memory() {
    let fleet = Fleet::start().await;
    let gateway = fleet.gateway().await;
    store_in_tier(&gateway, &[STEP]).await;
    for stored in fleet.redis.stored().await {
        fleet.redis.overwrite(&stored, b"junk").await;
    }
    assert!(super::is_memory_hit(&gateway.get(STEP).await));
}
