//! The log of purges is lost or corrupted (catalogue items 39 and 40): steps are served, and no later
//! purge is missed.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Fleet, assert_serves, assert_shares, expect_shared_hit, store_in_tier, tier_state,
    wait_purge_propagated,
};
use crate::support::{STEP, text};

#[tokio::test]
async fn c40_after_flushall_steps_are_served_and_shared_again() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    store_in_tier(&a, &[STEP]).await;
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

/// Without the log a gateway cannot know what was purged, so it purges all of its memory.
#[tokio::test]
async fn c40_after_the_loss_of_head_or_stream_steps_are_served_and_purges_propagate() {
    for what in ["head", "purges"] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        super::purge(&a, "run-step/thread_9").await;
        store_in_tier(&a, &[STEP]).await;
        let key = fleet.redis.log_key(what).await;
        fleet.redis.command::<i64>(&[b"DEL", &key]).await;
        for gateway in [&a, &b] {
            assert_eq!(gateway.get(STEP).await.text(), text("completed"), "{what}");
            assert_serves(gateway, what).await;
        }
        // Later purges propagate in both directions.
        assert_shares(&fleet.origin, &a, &b, &format!("without_{what}")).await;
        assert_shares(&fleet.origin, &b, &a, &format!("without_{what}_too")).await;
    }
}

/// The first gateway that finds it replaces the log.
#[tokio::test]
async fn c39_head_or_stream_of_another_type_is_replaced() {
    for what in ["head", "purges"] {
        let fleet = Fleet::start().await;
        let (a, b) = fleet.pair().await;
        super::purge(&a, "run-step/thread_9").await;
        store_in_tier(&a, &[STEP]).await;
        expect_shared_hit(&b, STEP).await;
        let key = fleet.redis.log_key(what).await;
        fleet
            .redis
            .command::<redis::Value>(&[b"SET", &key, b"junk"])
            .await;
        // Only a purge touches the stream.
        super::purge(&a, "run-step/thread_1").await;
        for gateway in [&a, &b] {
            assert_serves(gateway, what).await;
        }
        fleet.origin.set_status("failed");
        assert_eq!(a.get(STEP).await.text(), text("failed"), "{what}");
        wait_purge_propagated().await;
        assert_eq!(b.get(STEP).await.text(), text("failed"), "{what}");
        fleet.origin.set_status("completed");
        assert_shares(&fleet.origin, &a, &b, &format!("replaced_{what}")).await;
        assert_shares(&fleet.origin, &b, &a, &format!("replaced_too_{what}")).await;
    }
}

/// The head counts messages that the gateways have not read, and the stream is of another type. They
/// replace the log without another purge.
#[tokio::test]
async fn c39_a_stream_of_another_type_is_replaced_by_a_gateway_that_must_catch_up() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    super::purge(&a, "run-step/thread_9").await;
    wait_purge_propagated().await;
    let (head, stream) = (
        fleet.redis.log_key("head").await,
        fleet.redis.log_key("purges").await,
    );
    // As if two purges had been announced before another program overwrote the stream.
    let script = "redis.call('SET', KEYS[2], 'junk') return redis.call('HINCRBY', KEYS[1], 'n', 2)";
    let words: [&[u8]; 5] = [b"EVAL", script.as_bytes(), b"2", &head, &stream];
    fleet.redis.command::<u64>(&words).await;
    wait_purge_propagated().await;
    for gateway in [&a, &b] {
        assert_eq!(tier_state(gateway).await, "up");
    }
    assert_shares(&fleet.origin, &a, &b, "anew").await;
}

#[tokio::test]
async fn c40_a_corrupted_head_or_message_fails_no_request() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    super::purge(&a, "run-step/thread_9").await;
    store_in_tier(&a, &[STEP]).await;
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
