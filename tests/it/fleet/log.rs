//! The log of purges is lost, or is not one (catalogue 39 and 40): steps are served, and no purge after
//! that is missed.

use std::time::Duration;

use tokio::time::sleep;

use super::{Fleet, assert_serves, assert_shares, is_shared, reached, spread, state};
use crate::support::{STEP, text};

#[tokio::test]
async fn c40_after_a_flush_of_everything_steps_are_served_and_shared_again() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    spread(&a, &[STEP]).await;
    for nth in 0..3 {
        assert_eq!(fleet.redis.cli(&["FLUSHALL"]).await.trim(), "OK");
        for gateway in [&a, &b] {
            assert_eq!(gateway.get(STEP).await.text(), text("completed"));
            assert_serves(gateway, &format!("flushed_{nth}")).await;
        }
        assert_shares(&fleet.origin, &a, &b, &format!("flushed_{nth}")).await;
        assert_shares(&fleet.origin, &b, &a, &format!("flushed_too_{nth}")).await;
    }
}

/// Without its log the tier cannot say what was purged meanwhile: memories start anew.
#[tokio::test]
async fn c40_without_head_or_stream_steps_are_served_and_purges_go_on() {
    for what in ["head", "purges"] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        super::purge(&a, "run-step/thread_9").await;
        spread(&a, &[STEP]).await;
        let key = fleet.redis.log_key(what).await;
        fleet.redis.command::<i64>(&[b"DEL", &key]).await;
        for gateway in [&a, &b] {
            assert_eq!(gateway.get(STEP).await.text(), text("completed"), "{what}");
            assert_serves(gateway, what).await;
        }
        // Purges after that must not be lost, whoever has noticed what.
        assert_shares(&fleet.origin, &a, &b, &format!("without_{what}")).await;
        assert_shares(&fleet.origin, &b, &a, &format!("without_{what}_too")).await;
    }
}

/// Nobody has to repair it: whoever finds it begins a new log, and what was purged meanwhile is gone.
#[tokio::test]
async fn c39_head_or_stream_of_another_type_is_replaced() {
    for what in ["head", "purges"] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        super::purge(&a, "run-step/thread_9").await;
        spread(&a, &[STEP]).await;
        assert!(is_shared(&b.get(STEP).await));
        let key = fleet.redis.log_key(what).await;
        fleet
            .redis
            .command::<redis::Value>(&[b"SET", &key, b"junk"])
            .await;
        // Only a purge looks at the stream.
        super::purge(&a, "run-step/thread_1").await;
        for gateway in [&a, &b] {
            assert_serves(gateway, what).await;
        }
        fleet.origin.set_status("failed");
        assert_eq!(a.get(STEP).await.text(), text("failed"), "{what}");
        reached().await;
        assert_eq!(b.get(STEP).await.text(), text("failed"), "{what}");
        fleet.origin.set_status("completed");
        assert_shares(&fleet.origin, &a, &b, &format!("replaced_{what}")).await;
        assert_shares(&fleet.origin, &b, &a, &format!("replaced_too_{what}")).await;
    }
}

/// Another type of key where the stream was, and messages that it must have had: who has not read them
/// does not wait for a purge of somebody else to set it right.
#[tokio::test]
async fn c39_a_gateway_behind_a_stream_that_is_none_begins_anew() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    super::purge(&a, "run-step/thread_9").await;
    reached().await;
    let (head, stream) = (
        fleet.redis.log_key("head").await,
        fleet.redis.log_key("purges").await,
    );
    // As if two more had been told, and the stream had been lost to something else right after.
    let script =
        "redis.command('SET', KEYS[2], 'junk') return redis.command('HINCRBY', KEYS[1], 'n', 2)";
    let words: [&[u8]; 5] = [b"EVAL", script.as_bytes(), b"2", &head, &stream];
    fleet.redis.command::<u64>(&words).await;
    reached().await;
    for gateway in [&a, &b] {
        assert_eq!(state(gateway).await, "up");
    }
    assert_shares(&fleet.origin, &a, &b, "anew").await;
}

/// Numbers and chains that make no sense: whatever is made of them, no answer is wrong.
#[tokio::test]
async fn c40_a_head_or_a_message_of_junk_costs_no_answer() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    super::purge(&a, "run-step/thread_9").await;
    spread(&a, &[STEP]).await;
    let head = fleet.redis.log_key("head").await;
    let junk: [(&[u8], &[u8]); 8] = [
        (b"n", b"-1"),
        (b"n", b"junk"),
        (b"n", b"99999999999999999999999"),
        (b"n", b"9223372036854775807"),
        (b"tail", b"x"),
        (b"log", b""),
        (b"log", b"\xff\0\r\n"),
        (b"r:junk", b"junk"),
    ];
    for (nth, (field, value)) in junk.into_iter().enumerate() {
        let words: [&[u8]; 4] = [b"HSET", &head, field, value];
        // Only a reset of the log before it may have left no head at all.
        fleet.redis.command::<i64>(&words).await;
        sleep(Duration::from_millis(600)).await;
        for gateway in [&a, &b] {
            assert_eq!(gateway.get(STEP).await.text(), text("completed"), "{nth}");
            assert_serves(gateway, &format!("junk_{nth}")).await;
        }
        let name = format!("junk_{nth}");
        assert_shares(&fleet.origin, &a, &b, &name).await;
    }
    let stream = fleet.redis.log_key("purges").await;
    let words: [&[u8]; 5] = [b"XADD", &stream, b"*", b"junk", b"junk"];
    fleet.redis.command::<redis::Value>(&words).await;
    for gateway in [&a, &b] {
        assert_serves(gateway, "message").await;
    }
    assert_shares(&fleet.origin, &a, &b, "message").await;
}
