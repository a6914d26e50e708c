//! What is in Redis is not ours, or no longer (catalogue 40): a miss each time, never an error, never a
//! wrong body, and the next write puts it right.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    BACK, Fleet, assert_serves, completed, elsewhere, has_written, is_fetched, is_shared, is_up,
    process_is, spread, tier,
};
use crate::support::gateway::{BILLING_TOKEN, SUPPORT_TOKEN, TWO_CLIENTS};
use crate::support::redis::{Redis, Stored, command};
use crate::support::{Gateway, Process, STEP, body, step, text};

/// What must not be believed, made of what should be.
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

/// A new gateway asks for all of `ids`: each must be fetched, and be right. Returns it: what it writes
/// comes behind its answers.
async fn assert_all_missed(fleet: &Fleet, rest: &str, ids: &[String], what: &str) -> Gateway {
    let gateway = fleet.gateway_with(rest).await;
    for id in ids {
        let before = fleet.origin.count();
        let answer = gateway.get(&step(id)).await;
        let right = completed("thread_1", id);
        assert_eq!((answer.status, answer.text()), (200, right), "{what}: {id}");
        assert!(!answer.is_hit(), "{what}: {id}: {}", answer.cache_status());
        assert_eq!(fleet.origin.count(), before + 1, "{what}: {id}");
    }
    gateway
}

/// Each kind of damage, done to every entry; then it is put right by who fetched.
pub(super) async fn assert_survives_damage(rest: &str) {
    let fleet = Fleet::start().await;
    let a = fleet.gateway_with(rest).await;
    let ids: Vec<String> = (0..3).map(|nth| format!("s_{nth}")).collect();
    let paths: Vec<String> = ids.iter().map(|id| step(id)).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    spread(&a, &paths).await;
    let whole = fleet.redis.stored().await;
    assert_eq!(whole.len(), ids.len());
    for (what, damage) in DAMAGES {
        for stored in &whole {
            fleet.redis.overwrite(stored, &damage(&stored.value)).await;
        }
        let _writing = assert_all_missed(&fleet, rest, &ids, what).await;
        let start = Instant::now();
        let right = async || {
            let now = fleet.redis.stored().await;
            now.len() == whole.len() && now.iter().all(|s| s.value.len() == whole[0].value.len())
        };
        while !right().await {
            assert!(start.elapsed() < BACK, "{what}: not put right");
            sleep(Duration::from_millis(10)).await;
        }
        let healed = fleet.gateway_with(rest).await.get(&step(&ids[0])).await;
        assert!(is_shared(&healed), "{what}: {}", healed.cache_status());
    }
}

/// One step for each byte of an entry, of which `harm` spoils that byte.
pub(super) async fn assert_no_byte_is_trusted(
    rest: &str,
    harm: fn(&mut Vec<u8>, usize),
    what: &str,
) {
    let fleet = Fleet::start().await;
    let a = fleet.gateway_with(rest).await;
    // Ids of one length, so that their entries are, too.
    let id = |nth: usize| format!("s_{nth:04}");
    spread(&a, &[&step(&id(0))]).await;
    let length = fleet.redis.stored().await[0].value.len();
    let ids: Vec<String> = (0..length).map(id).collect();
    for id in &ids[1..] {
        assert!(a.get(&step(id)).await.is_stored(), "{id}");
    }
    has_written(&a, length as f64).await;
    let mut link = fleet.redis.connect().await;
    let all = fleet.redis.stored().await;
    assert_eq!(all.len(), length);
    for (nth, stored) in all.iter().enumerate() {
        let mut value = stored.value.clone();
        harm(&mut value, nth);
        let words: [&[u8]; 4] = [b"HSET", &stored.key, &stored.field, &value];
        command::<i64>(&mut link, &words).await;
    }
    assert_all_missed(&fleet, rest, &ids, what).await;
}

#[tokio::test]
async fn c40_what_is_damaged_is_fetched_and_put_right() {
    assert_survives_damage("").await;
}

#[tokio::test]
async fn c40_no_flipped_bit_is_trusted() {
    let flip = |value: &mut Vec<u8>, at: usize| value[at] ^= 1 << (at % 8);
    assert_no_byte_is_trusted("", flip, "flipped").await;
}

#[tokio::test]
async fn c40_no_part_is_trusted_as_the_whole() {
    assert_no_byte_is_trusted("", Vec::truncate, "truncated").await;
}

/// Writes each entry of the first in the place of the second, and the other way round.
pub(super) async fn swap(redis: &Redis, one: &Stored, other: &Stored) {
    redis.overwrite(one, &other.value).await;
    redis.overwrite(other, &one.value).await;
}

/// What `b` has that `a` has not.
pub(super) fn added(a: &[Stored], b: &[Stored]) -> Stored {
    let mut added = b.iter().filter(|stored| !a.contains(stored));
    let found = added.next().expect("one more").clone();
    assert_eq!(added.next(), None);
    found
}

/// Entries that are whole, in the places of others: of the same run, of other threads, of other
/// variants, of other clients.
pub(super) async fn assert_nothing_is_believed_in_anothers_place(rest: &str) {
    let other_thread = elsewhere("thread_2");
    let variant = format!("{STEP}?include[]=a");
    for (what, one, other) in [
        ("step", STEP, &*step("step_2")),
        ("run", STEP, "/v1/threads/thread_1/runs/run_2/steps/step_1"),
        ("thread", STEP, &other_thread),
        ("variant", STEP, &variant),
    ] {
        let fleet = Fleet::start().await;
        let a = fleet.gateway_with(rest).await;
        spread(&a, &[one]).await;
        let before = fleet.redis.stored().await;
        fleet.origin.set_status("failed");
        spread(&a, &[other]).await;
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
async fn c40_nothing_is_believed_in_anothers_place() {
    assert_nothing_is_believed_in_anothers_place("").await;
}

/// Clients differ by partition alone.
pub(super) async fn assert_nothing_is_believed_of_another_client(rest: &str) {
    let rest = format!("{rest}{TWO_CLIENTS}");
    let fleet = Fleet::start().await;
    let a = fleet.gateway_with(&rest).await;
    let clients = [BILLING_TOKEN, SUPPORT_TOKEN].map(|token| [("x-portkey-api-key", token)]);
    assert!(a.get_with(STEP, &clients[0]).await.is_stored());
    has_written(&a, 1.0).await;
    let before = fleet.redis.stored().await;
    assert!(a.get_with(STEP, &clients[1]).await.is_stored());
    has_written(&a, 2.0).await;
    let second = added(&before, &fleet.redis.stored().await);
    swap(&fleet.redis, &before[0], &second).await;
    let b = fleet.gateway_with(&rest).await;
    for client in &clients {
        let answer = b.get_with(STEP, client).await;
        assert!(is_fetched(&answer), "{}", answer.cache_status());
    }
}

#[tokio::test]
async fn c40_nothing_is_believed_of_another_client() {
    assert_nothing_is_believed_of_another_client("").await;
}

#[tokio::test]
async fn c40_a_value_of_a_hundred_megabytes_is_not_even_read() {
    const MIB: u64 = 1 << 20;
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    spread(&a, &[STEP]).await;
    let place = fleet.redis.stored().await.remove(0);
    let script = b"return redis.command('HSET', KEYS[1], ARGV[1], string.rep('x', 104857600))";
    let words: [&[u8]; 5] = [b"EVAL", script, b"1", &place.key, &place.field];
    fleet.redis.command::<i64>(&words).await;
    let process = Process::start(&fleet.origin, &tier(&fleet.redis.url()), "info").await;
    process_is(&process, "up").await;
    let memory = process.memory("VmHWM:");
    let start = Instant::now();
    let answer = process.get(STEP, &[]).await;
    let took = start.elapsed();
    assert_eq!(answer.text(), text("completed"));
    assert!(is_fetched(&answer), "{}", answer.cache_status());
    let grown = process.memory("VmHWM:").saturating_sub(memory);
    assert!(grown < 16 * MIB, "{} KiB more", grown >> 10);
    assert!(took < Duration::from_secs(2), "{took:?}");
    process_is(&process, "up").await;
}

#[tokio::test]
async fn c39_a_key_of_another_type_is_a_miss() {
    let make: [&[&[u8]]; 4] = [
        &[b"SET", b"", b"junk"],
        &[b"RPUSH", b"", b"junk"],
        &[b"SADD", b"", b"junk"],
        &[b"XADD", b"", b"*", b"junk", b"junk"],
    ];
    let fleet = Fleet::start().await;
    let a = fleet.gateway().await;
    spread(&a, &[STEP]).await;
    let thread = fleet.redis.threads().await.remove(0);
    for words in make {
        let what = String::from_utf8_lossy(words[0]).into_owned();
        fleet.redis.command::<i64>(&[b"DEL", &thread]).await;
        let mut words = words.to_vec();
        words[1] = &thread;
        fleet.redis.command::<redis::Value>(&words).await;
        let ids: Vec<String> = (0..5).map(|nth| format!("{what}_{nth}")).collect();
        is_up(&assert_all_missed(&fleet, "", &ids, &what).await).await;
        // Nor has what it brought been kept there.
        is_up(&assert_all_missed(&fleet, "", &ids, &what).await).await;
    }
    // The purge of that thread makes room for what belongs there.
    super::purge(&a, "run-step/thread_1").await;
    super::reached().await;
    spread(&a, &[STEP]).await;
    assert!(is_shared(&fleet.gateway().await.get(STEP).await));
}

#[tokio::test]
async fn c40_a_token_that_is_junk_lets_nothing_wrong_in() {
    for token in [&b""[..], b"x", &[0; 16], &[0xff; 17], &vec![b'x'; 1 << 20]] {
        let fleet = Fleet::start().await;
        let a = fleet.gateway().await;
        spread(&a, &[STEP]).await;
        let thread = fleet.redis.threads().await.remove(0);
        let words: [&[u8]; 4] = [b"HSET", &thread, b"g", token];
        fleet.redis.command::<i64>(&words).await;
        let b = fleet.gateway().await;
        assert_eq!(b.get(STEP).await.text(), text("completed"));
        assert_serves(&b, "junk_token").await;
        is_up(&b).await;
    }
}

/// Nothing of a gateway's own is lost with what Redis has.
#[tokio::test]
async fn c40_damage_touches_no_memory() {
    let fleet = Fleet::start().await;
    let gateway = fleet.gateway().await;
    spread(&gateway, &[STEP]).await;
    for stored in fleet.redis.stored().await {
        fleet.redis.overwrite(&stored, b"junk").await;
    }
    assert!(super::is_own(&gateway.get(STEP).await));
}
