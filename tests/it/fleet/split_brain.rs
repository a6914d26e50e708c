//! Split brain: a gateway is cut off from Redis while purges happen, or Redis loses the log of purges.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{
    Fleet, RECOVERY, assert_serves, expect_fetched, expect_shared_hit, is_memory_hit,
    is_shared_hit, purge, start_gateway, step_of_thread, store_in_tier, tier, wait_circuit_open,
    wait_up,
};
use crate::support::client::head;
use crate::support::{Gateway, RawClient, STEP, step, text, within};
use crate::support::{redis::Redis, redis_proxy::RedisProxy};

/// The limit of messages in the stream.
const CAP: usize = 10_000;

/// Two gateways with [`STEP`] and a step of `thread_2` in memory. `b` connects through a proxy.
struct Pair {
    fleet: Fleet,
    proxy: RedisProxy,
    a: Gateway,
    b: Gateway,
}

impl Pair {
    async fn start() -> Self {
        let fleet = Fleet::start().await;
        let proxy = RedisProxy::start(fleet.redis.port()).await;
        let a = fleet.gateway().await;
        let b = start_gateway(&fleet.origin, &tier(&proxy.url())).await;
        let other = step_of_thread("thread_2");
        store_in_tier(&a, &[STEP, &other]).await;
        for path in [STEP, &other] {
            expect_shared_hit(&b, path).await;
        }
        Self { fleet, proxy, a, b }
    }

    /// Refuses the connections of `b`, and waits until its circuit is open.
    async fn cut_off(&self) {
        self.proxy.refuse();
        wait_circuit_open(&self.b).await;
        assert!(
            is_memory_hit(&self.b.get(STEP).await),
            "memory still serves"
        );
        assert_serves(&self.b, "alone").await;
    }

    /// Reconnects `b`, and asserts that it never serves what was purged meanwhile.
    async fn assert_rejoins_without_purged_bodies(&self) {
        self.fleet.origin.set_status("failed");
        self.proxy.accept();
        let start = Instant::now();
        loop {
            let up = super::tier_state(&self.b).await == "up";
            let answer = self.b.get(STEP).await;
            assert_eq!(answer.status, 200);
            if up {
                assert_eq!(answer.text(), text("failed"), "{}", answer.cache_status());
                return;
            }
            // Until it is up, memory may serve the old body. The tier must not.
            let is_valid = !is_shared_hit(&answer) || answer.text() == text("failed");
            assert!(is_valid, "{}", answer.cache_status());
            let waited = start.elapsed();
            assert!(waited < RECOVERY, "no reconnect within {waited:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_reconnected_gateway_serves_nothing_that_was_purged_during_the_partition() {
    for below in [
        "run-step/thread_1",
        "run-step/thread_1/run_1/step_1",
        "run-step",
    ] {
        let pair = Pair::start().await;
        pair.cut_off().await;
        purge(&pair.a, below).await;
        pair.assert_rejoins_without_purged_bodies().await;
        let other = pair.b.get(&step_of_thread("thread_2")).await;
        assert_eq!(
            is_memory_hit(&other),
            below != "run-step",
            "{below}: {}",
            other.cache_status()
        );
    }
}

/// The connection stays open, but no byte passes.
#[tokio::test]
async fn a_gateway_with_a_stalled_connection_stops_using_the_tier_within_a_second() {
    let pair = Pair::start().await;
    pair.proxy.stall();
    purge(&pair.a, "run-step").await;
    pair.fleet.origin.set_status("failed");
    assert_eq!(pair.a.get(STEP).await.text(), text("failed"));
    wait_circuit_open(&pair.b).await;
    pair.fleet.origin.set_status("completed");
    assert_serves(&pair.b, "silent").await;
    pair.proxy.resume();
    pair.assert_rejoins_without_purged_bodies().await;
}

#[tokio::test]
async fn a_purge_during_the_partition_reaches_the_fleet_after_the_reconnect() {
    let pair = Pair::start().await;
    pair.cut_off().await;
    purge(&pair.b, "run-step/thread_1").await;
    pair.fleet.origin.set_status("failed");
    assert_eq!(pair.b.get(STEP).await.text(), text("failed"));
    pair.proxy.accept();
    wait_up(&pair.b).await;
    let start = Instant::now();
    while pair.a.get(STEP).await.text() != text("failed") {
        assert!(start.elapsed() < RECOVERY, "the purge never arrived");
        sleep(Duration::from_millis(20)).await;
    }
    let new = pair.fleet.gateway().await.get(STEP).await;
    assert_eq!(new.text(), text("failed"), "{}", new.cache_status());
}

/// The breakers of the old connection do not apply to the new one, so the purge is of one thread only.
#[tokio::test]
async fn a_purge_during_the_partition_purges_nothing_else() {
    let pair = Pair::start().await;
    pair.proxy.stall();
    let mut pending = Vec::new();
    for nth in 0..5 {
        pending.push(pair.b.send_get(&step(&format!("late_{nth}")), &[]).await);
    }
    for mut one in pending {
        assert_eq!(one.response().await.status, 200);
    }
    wait_circuit_open(&pair.b).await;
    purge(&pair.b, "run-step/thread_1").await;
    pair.proxy.resume();
    wait_up(&pair.b).await;
    super::wait_purge_propagated().await;
    let new = pair.fleet.gateway().await;
    expect_shared_hit(&new, &step_of_thread("thread_2")).await;
    expect_fetched(&new, STEP).await;
}

/// The lost messages may have been any purges, so the gateway purges all of its memory.
#[tokio::test]
async fn a_gap_in_the_log_purges_the_memory_of_the_gateway_that_missed_it() {
    let pair = Pair::start().await;
    pair.cut_off().await;
    purge(&pair.a, "run-step/thread_1").await;
    for nth in 0..20 {
        purge(&pair.a, &format!("run-step/other_{nth}")).await;
    }
    let stream = pair.fleet.redis.log_key("purges").await;
    pair.fleet
        .redis
        .command::<i64>(&[b"XTRIM", &stream, b"MAXLEN", b"5"])
        .await;
    pair.assert_rejoins_without_purged_bodies().await;
    let other = pair.b.get(&step_of_thread("thread_2")).await;
    assert!(!is_memory_hit(&other), "{}", other.cache_status());
    // The other gateway has missed nothing.
    assert!(is_memory_hit(
        &pair.a.get(&step_of_thread("thread_2")).await
    ));
}

/// More purges than the limit of the stream drop the messages that the gateway missed.
#[tokio::test]
async fn more_purges_than_the_stream_keeps_purge_the_memory_of_a_disconnected_gateway() {
    const CLIENTS: usize = 8;
    let pair = Pair::start().await;
    pair.cut_off().await;
    purge(&pair.a, "run-step/thread_1").await;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let mut raw = RawClient::connect(pair.a.admin_address()).await;
        clients.spawn(async move {
            for nth in 0..CAP / CLIENTS + 100 {
                let path = format!("/cache/run-step/many_{client}_{nth}");
                raw.send(head("DELETE", &path, "127.0.0.1", &[])).await;
                assert_eq!(raw.response().await.status, 200);
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let stream = pair.fleet.redis.log_key("purges").await;
    let kept = pair.fleet.redis.command::<usize>(&[b"XLEN", &stream]).await;
    assert!(kept <= CAP + 500, "{kept} messages are kept");
    pair.assert_rejoins_without_purged_bodies().await;
    let other = pair.b.get(&step_of_thread("thread_2")).await;
    assert!(!is_memory_hit(&other), "{}", other.cache_status());
}

/// A snapshot of Redis is restored, so the log gives the same numbers to other purges.
#[tokio::test]
async fn a_restored_snapshot_reverts_no_purge() {
    let pair = Pair::start().await;
    for nth in 0..3 {
        purge(&pair.a, &format!("run-step/earlier_{nth}")).await;
    }
    sleep(Duration::from_millis(600)).await;
    let old = dump(&pair.fleet.redis).await;
    purge(&pair.a, "run-step/thread_1").await;
    pair.fleet.origin.set_status("failed");
    let gone = async {
        while is_memory_hit(&pair.b.get(STEP).await) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within("the purge", gone).await;
    restore(&pair.fleet.redis, &old).await;
    // As many purges as the snapshot lost, so that no number is missing.
    purge(&pair.a, "run-step/later").await;
    super::wait_purge_propagated().await;
    for gateway in [&pair.a, &pair.b, &pair.fleet.gateway().await] {
        let answer = gateway.get(STEP).await;
        assert_eq!(answer.text(), text("failed"), "{}", answer.cache_status());
    }
}

/// The snapshot is restored right after the purge was confirmed, before another gateway has read it.
#[tokio::test]
async fn a_confirmed_purge_survives_a_snapshot_restored_at_once() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let a = Gateway::start(&fleet.origin, &tier(&proxy.url())).await;
    let b = fleet.gateway().await;
    wait_up(&a).await;
    store_in_tier(&a, &[STEP]).await;
    for nth in 0..4 {
        fleet.origin.set_status("completed");
        let old_step = step(&format!("forgotten_{nth}"));
        store_in_tier(&a, &[&old_step]).await;
        expect_shared_hit(&b, &old_step).await;
        let old = dump(&fleet.redis).await;
        // The next commands of `a` are delayed.
        proxy.delay_commands(Duration::from_millis(100));
        purge(&a, "run-step/thread_1").await;
        restore(&fleet.redis, &old).await;
        proxy.delay_commands(Duration::ZERO);
        fleet.origin.set_status("failed");
        super::wait_purge_propagated().await;
        for gateway in [&a, &b, &fleet.gateway().await] {
            let answer = gateway.get(&old_step).await;
            let status = answer.cache_status();
            assert_eq!(answer.json()["status"], "failed", "{nth}: {status}");
        }
    }
}

/// Returns all keys with their values.
async fn dump(redis: &Redis) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for key in redis.keys().await {
        let value = redis.command(&[b"DUMP", &key]).await;
        all.push((key, value));
    }
    all
}

/// Replaces all keys at once, like a server that loads a snapshot.
async fn restore(redis: &Redis, all: &[(Vec<u8>, Vec<u8>)]) {
    let mut script = "redis.call('FLUSHALL') ".to_owned();
    script += "for i = 1, #KEYS do redis.call('RESTORE', KEYS[i], 0, ARGV[i]) end return 1";
    let count = all.len().to_string();
    let mut words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), count.as_bytes()];
    words.extend(all.iter().map(|(key, _)| key.as_slice()));
    words.extend(all.iter().map(|(_, value)| value.as_slice()));
    redis.command::<i64>(&words).await;
}

#[tokio::test]
async fn a_connection_that_is_cut_between_purges_loses_none() {
    let pair = Pair::start().await;
    let threads: Vec<String> = (0..20).map(|nth| format!("cut_{nth}")).collect();
    let paths: Vec<String> = threads
        .iter()
        .map(|thread| step_of_thread(thread))
        .collect();
    for path in &paths {
        expect_fetched(&pair.b, path).await;
    }
    for thread in &threads {
        pair.proxy.cut();
        purge(&pair.a, &format!("run-step/{thread}")).await;
        sleep(Duration::from_millis(50)).await;
    }
    wait_up(&pair.b).await;
    super::wait_purge_propagated().await;
    pair.fleet.origin.set_status("failed");
    for path in &paths {
        let answer = pair.b.get(path).await;
        assert_eq!(answer.json()["status"], "failed", "{path}");
    }
}
