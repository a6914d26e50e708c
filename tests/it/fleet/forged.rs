//! Entries that are whole, in their place and with a right checksum, and that yet are not what a gateway
//! would have written. Whoever can write to Redis can forge bodies where nothing is sealed; what no
//! upstream body could get past, neither gets past from there.

use std::time::{SystemTime, UNIX_EPOCH};

use twox_hash::XxHash3_128;

use super::{Fleet, age, is_fetched, is_shared, spread, ttl};
use crate::support::redis::Stored;
use crate::support::{STEP, text};

const CHECKSUM: usize = 16;

/// Where the times stand, both in milliseconds since 1970, little endian.
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
        let right = checksums(&stored.value[..end]);
        assert!(right.contains(&stored.value[end..].try_into().unwrap()));
        Self(stored.value[..end].to_vec())
    }

    /// The first place of `what` is taken by something as long.
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

    fn time(mut self, place: std::ops::Range<usize>, milliseconds: u64) -> Self {
        self.0[place].copy_from_slice(&milliseconds.to_le_bytes());
        self
    }

    /// With the checksum that the genuine one has by that rule.
    fn signed(self, like: &Stored) -> Vec<u8> {
        let genuine = &like.value[like.value.len() - CHECKSUM..];
        let rules = checksums(&like.value[..like.value.len() - CHECKSUM]);
        let rule = rules.iter().position(|sum| sum == genuine).expect("a rule");
        let sum = checksums(&self.0)[rule];
        [self.0, sum.to_vec()].concat()
    }
}

/// Whichever end comes first.
fn checksums(bytes: &[u8]) -> [[u8; CHECKSUM]; 2] {
    let sum = XxHash3_128::oneshot(bytes);
    [sum.to_le_bytes(), sum.to_be_bytes()]
}

fn now() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "entries carry the time of the wall"
    )]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// The entry of [`STEP`], as a gateway wrote it.
async fn genuine(fleet: &Fleet) -> Stored {
    spread(&fleet.gateway().await, &[STEP]).await;
    fleet.redis.stored().await.remove(0)
}

/// The forger can do it: else the others would prove nothing.
#[tokio::test]
async fn c40_an_entry_that_is_signed_again_is_believed() {
    let fleet = Fleet::start().await;
    let genuine = genuine(&fleet).await;
    let same = Forgery::of(&genuine).signed(&genuine);
    assert_eq!(same, genuine.value);
    let forged = Forgery::of(&genuine).replace("message_creation", "message_imitated");
    fleet
        .redis
        .overwrite(&genuine, &forged.signed(&genuine))
        .await;
    let answer = fleet.gateway().await.get(STEP).await;
    assert!(is_shared(&answer), "{}", answer.cache_status());
    assert!(answer.text().contains("message_imitated"));
}

/// The same verdict as on a body from upstream.
#[tokio::test]
async fn c40_no_body_is_believed_that_would_not_be_stored_had_it_come_from_upstream() {
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
        // Of one length, as it is replaced in place.
        let by = format!("{by:<width$}", width = what.len());
        let forged = Forgery::of(&genuine).replace(what, &by[..what.len()]);
        fleet
            .redis
            .overwrite(&genuine, &forged.signed(&genuine))
            .await;
        let answer = fleet.gateway().await.get(STEP).await;
        assert!(is_fetched(&answer), "{by}: {}", answer.cache_status());
        assert_eq!(answer.text(), text("completed"), "{by}");
    }
}

#[tokio::test]
async fn c40_an_entry_whose_time_is_over_is_a_miss() {
    let fleet = Fleet::start().await;
    let genuine = genuine(&fleet).await;
    for expired in [0, 1, now() - 1] {
        let forged = Forgery::of(&genuine).time(EXPIRES_AT, expired);
        fleet
            .redis
            .overwrite(&genuine, &forged.signed(&genuine))
            .await;
        let answer = fleet.gateway().await.get(STEP).await;
        assert!(is_fetched(&answer), "{expired}: {}", answer.cache_status());
    }
}

/// Clocks differ, and anything can be in there.
#[tokio::test]
async fn c40_no_time_of_an_entry_makes_it_live_longer_or_be_younger_than_it_may() {
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
            .overwrite(&genuine, &forged.signed(&genuine))
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
                // What is older than its time is none of the above.
                assert!(age(&answer) <= now() / 1000, "{what}");
            }
        }
    }
}
