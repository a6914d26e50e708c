//! Forged values: intact entries with a right checksum that no gateway would write. Without a seal, an
//! attacker who can write to Redis can forge bodies. They are judged like bodies from upstream.

use std::time::{SystemTime, UNIX_EPOCH};

use twox_hash::XxHash3_128;

use super::{Fleet, age, is_fetched, is_shared_hit, store_in_tier, ttl};
use crate::support::redis::Stored;
use crate::support::{STEP, text};

const CHECKSUM: usize = 16;

/// The offsets of the times, in milliseconds of UNIX time, little-endian.
const STORED_AT: std::ops::Range<usize> = 4..12;
const EXPIRES_AT: std::ops::Range<usize> = 12..20;

/// A plain entry without its checksum.
struct Forgery(Vec<u8>);

impl Forgery {
    fn of(stored: &Stored) -> Self {
        let end = stored.value.len() - CHECKSUM;
        assert!(
            stored.value.starts_with(b"SG\x01\0"),
            "{:?}",
            &stored.value[..4]
        );
        let expected = checksums(&stored.value[..end]);
        assert!(expected.contains(&stored.value[end..].try_into().unwrap()));
        Self(stored.value[..end].to_vec())
    }

    /// Replaces the first occurrence of `what` by text of the same length.
    fn replace(mut self, what: &str, by: &str) -> Self {
        assert_eq!(what.len(), by.len());
        let at = self
            .0
            .windows(what.len())
            .position(|w| w == what.as_bytes());
        let at = at.unwrap_or_else(|| panic!("no {what}"));
        self.0[at..at + by.len()].copy_from_slice(by.as_bytes());
        self
    }

    fn time(mut self, offsets: std::ops::Range<usize>, milliseconds: u64) -> Self {
        self.0[offsets].copy_from_slice(&milliseconds.to_le_bytes());
        self
    }

    /// Adds the checksum, in the byte order that the genuine entry uses.
    fn with_checksum(self, like: &Stored) -> Vec<u8> {
        let genuine = &like.value[like.value.len() - CHECKSUM..];
        let orders = checksums(&like.value[..like.value.len() - CHECKSUM]);
        let order = orders
            .iter()
            .position(|sum| sum == genuine)
            .expect("one of the orders");
        let sum = checksums(&self.0)[order];
        [self.0, sum.to_vec()].concat()
    }
}

/// Returns the checksum in both byte orders.
fn checksums(bytes: &[u8]) -> [[u8; CHECKSUM]; 2] {
    let sum = XxHash3_128::oneshot(bytes);
    [sum.to_le_bytes(), sum.to_be_bytes()]
}

fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "entries contain UNIX times")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// Returns the entry of [`STEP`] that a gateway wrote.
async fn genuine(fleet: &Fleet) -> Stored {
    store_in_tier(&fleet.gateway().await, &[STEP]).await;
    fleet.redis.stored().await.remove(0)
}

/// Proves that the other tests' forgeries are intact.
#[tokio::test]
async fn c40_a_forged_final_body_with_a_right_checksum_is_a_hit_without_a_seal() {
    let fleet = Fleet::start().await;
    let genuine = genuine(&fleet).await;
    let same = Forgery::of(&genuine).with_checksum(&genuine);
    assert_eq!(same, genuine.value);
    let forged = Forgery::of(&genuine).replace("message_creation", "message_imitated");
    fleet
        .redis
        .overwrite(&genuine, &forged.with_checksum(&genuine))
        .await;
    let answer = fleet.gateway().await.get(STEP).await;
    assert!(is_shared_hit(&answer), "{}", answer.cache_status());
    assert!(answer.text().contains("message_imitated"));
}

#[tokio::test]
async fn c40_a_forged_body_that_is_not_cacheable_is_a_miss() {
    let fleet = Fleet::start().await;
    let genuine = genuine(&fleet).await;
    for (what, by) in [
        ("\"completed\"", "\"not_final\""),
        ("\"id\": \"step_1\"", "\"id\": \"step_2\""),
        ("\"run_id\": \"run_1\"", "\"run_id\": \"run_2\""),
        ("\"thread_id\": \"thread_1\"", "\"thread_id\": \"thread_2\""),
        ("\"thread.run.step\"", "\"thread.run.stop\""),
        ("\"created_at\": 1699063291", "\"status\":    \"completed\""),
        ("\"usage\": {", "\"usage\": ["),
        ("\"usage\": {", "\"\u{1}sage\": {"),
    ] {
        // The replacement has the same length.
        let by = format!("{by:<width$}", width = what.len());
        let forged = Forgery::of(&genuine).replace(what, &by[..what.len()]);
        fleet
            .redis
            .overwrite(&genuine, &forged.with_checksum(&genuine))
            .await;
        let answer = fleet.gateway().await.get(STEP).await;
        assert!(is_fetched(&answer), "{by}: {}", answer.cache_status());
        assert_eq!(answer.text(), text("completed"), "{by}");
    }
}

#[tokio::test]
async fn c40_an_expired_entry_is_a_miss() {
    let fleet = Fleet::start().await;
    let genuine = genuine(&fleet).await;
    for expired in [0, 1, now() - 1] {
        let forged = Forgery::of(&genuine).time(EXPIRES_AT, expired);
        fleet
            .redis
            .overwrite(&genuine, &forged.with_checksum(&genuine))
            .await;
        let answer = fleet.gateway().await.get(STEP).await;
        assert!(is_fetched(&answer), "{expired}: {}", answer.cache_status());
    }
}

#[tokio::test]
async fn c40_forged_times_extend_no_ttl_and_cause_no_negative_age() {
    let fleet = Fleet::start().await;
    let genuine = genuine(&fleet).await;
    let day = 86_400_000;
    for (stored_at, expires_at) in [
        (now() + day, now() + 2 * day),
        (now(), u64::MAX),
        (u64::MAX, u64::MAX),
        (0, u64::MAX),
        (i64::MAX as u64, i64::MAX as u64),
        (now() + day, now() + 1_000),
    ] {
        let forged = Forgery::of(&genuine)
            .time(STORED_AT, stored_at)
            .time(EXPIRES_AT, expires_at);
        fleet
            .redis
            .overwrite(&genuine, &forged.with_checksum(&genuine))
            .await;
        let gateway = fleet.gateway().await;
        for _tier_then_memory in 0..2 {
            let answer = gateway.get(STEP).await;
            let what = format!("{stored_at} {expires_at}: {}", answer.cache_status());
            assert_eq!(
                (answer.status, answer.text()),
                (200, text("completed")),
                "{what}"
            );
            if answer.is_hit() {
                assert!(ttl(&answer) <= 86_400, "{what}");
                // No stored time is before 1970.
                assert!(age(&answer) <= now() / 1000, "{what}");
            }
        }
    }
}
