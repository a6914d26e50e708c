//! Faults of Redis: fetches go on, no request waits longer than the command timeout, and after the fault
//! bodies are shared again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    DEFAULT_TIMEOUT, Fleet, RECOVERY, assert_serves, assert_shares, counted, errors,
    expect_fetched, expect_shared_hit, is_shared_hit, purge, start_gateway, start_pair,
    step_of_thread, store_in_tier, tier, tier_at, tier_state, tier_with_default_timeout,
    wait_circuit_open, wait_purge_propagated, wait_up,
};
use crate::support::{Gateway, Origin, STEP, step, text};
use crate::support::{redis::Redis, redis_proxy::RedisProxy};

/// What a busy machine may add to a latency.
const SLACK: Duration = Duration::from_millis(300);

#[tokio::test]
async fn c39_a_gateway_started_without_redis_serves_and_connects_later() {
    let mut fleet = Fleet::start().await;
    let toml = tier(&fleet.redis.url());
    fleet.redis.kill();
    let start = Instant::now();
    let a = Gateway::start(&fleet.origin, &toml).await;
    assert_serves(&a, "refused").await;
    assert_eq!(a.admin("GET", "/ready").await.status, 200);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    wait_circuit_open(&a).await;
    assert!(counted(&a, "lookups", "circuit_open").await >= 1.0);
    fleet.redis.restart().await;
    let b = fleet.gateway().await;
    wait_up(&a).await;
    assert_shares(&fleet.origin, &a, &b, "late").await;
    assert_shares(&fleet.origin, &b, &a, "late_too").await;
}

#[tokio::test]
async fn c39_a_wrong_password_fails_no_request_and_shares_nothing() {
    let mut fleet = Fleet::start().await;
    fleet.redis.require_password("sesame-right").await;
    let toml = |password: &str| {
        let url = format!("redis://:{password}@127.0.0.1:{}\n", fleet.redis.port());
        let file = fleet.redis.write(password, &url);
        tier_at(&format!("{{ file = \"{file}\" }}"))
    };
    let wrong = Gateway::start(&fleet.origin, &toml("sesame-wrong")).await;
    wait_circuit_open(&wrong).await;
    assert_serves(&wrong, "wrong").await;
    let without = Gateway::start(&fleet.origin, &tier(&fleet.redis.url())).await;
    wait_circuit_open(&without).await;
    assert_serves(&without, "without").await;
    let (a, b) = start_pair(&fleet.origin, &toml("sesame-right")).await;
    assert_shares(&fleet.origin, &a, &b, "right").await;
    for gateway in [&wrong, &without, &a] {
        for path in ["/status", "/metrics"] {
            let text = gateway.admin("GET", path).await.text();
            assert!(!text.contains("sesame"), "{text}");
        }
    }
}

#[tokio::test]
async fn c39_the_documented_acl_is_sufficient() {
    const COMMANDS: &str = "+eval +hget +hset +hstrlen +hlen +hexists +hgetall +pttl +pexpire +unlink \
                       +xadd +xrange +ping";
    let fleet = Fleet::start().await;
    let mut rules = vec![
        "ACL",
        "SETUSER",
        "sharing",
        "on",
        ">open-sesame",
        "~fleet:*",
    ];
    rules.extend(["resetchannels", "-@all"]);
    rules.extend(COMMANDS.split_whitespace());
    assert_eq!(fleet.redis.cli(&rules).await.trim(), "OK");
    let port = fleet.redis.port();
    let url = format!("redis://sharing:open-sesame@127.0.0.1:{port}\n");
    let toml = tier_at(&format!(
        "{{ file = \"{}\" }}",
        fleet.redis.write("url", &url)
    ));
    let (a, b) = start_pair(&fleet.origin, &toml).await;
    assert_shares(&fleet.origin, &a, &b, "allowed").await;
    store_in_tier(&a, &[STEP]).await;
    purge(&a, "run-step").await;
    wait_purge_propagated().await;
    expect_fetched(&b, STEP).await;
    for gateway in [&a, &b] {
        assert_eq!(errors(gateway).await, 0.0);
    }
}

/// `CLIENT PAUSE`: the server accepts commands and does not reply.
#[tokio::test]
async fn c39_a_paused_server_costs_one_timeout_and_then_nothing() {
    let fleet = Fleet::start().await;
    let toml = tier_with_default_timeout(&fleet.redis.url());
    let a = start_gateway(&fleet.origin, &toml).await;
    store_in_tier(&a, &[STEP]).await;
    fleet.redis.cli(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
    for nth in 0..20 {
        let start = Instant::now();
        expect_fetched(&a, &step(&format!("paused_{nth}"))).await;
        let took = start.elapsed();
        assert!(took < DEFAULT_TIMEOUT + SLACK, "{nth}: {took:?}");
    }
    wait_circuit_open(&a).await;
    assert_serves(&a, "circuit_open").await;
    wait_up(&a).await;
    let b = fleet.gateway().await;
    assert_shares(&fleet.origin, &a, &b, "after").await;
}

#[tokio::test]
async fn c39_replies_slower_than_the_command_timeout_are_not_awaited() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let b = fleet.gateway().await;
    let a = start_gateway(&fleet.origin, &tier_with_default_timeout(&proxy.url())).await;
    let paths: Vec<String> = (0..20)
        .map(|n| step_of_thread(&format!("slow_{n}")))
        .collect();
    for path in &paths {
        store_in_tier(&b, &[path]).await;
    }
    proxy.delay_replies(DEFAULT_TIMEOUT * 2);
    for path in &paths {
        let start = Instant::now();
        let answer = a.get(path).await;
        let took = start.elapsed();
        assert!(took < DEFAULT_TIMEOUT + SLACK, "{path}: {took:?}");
        assert_eq!(answer.body, b.get(path).await.body, "{path}");
        assert!(!is_shared_hit(&answer), "{path}: {}", answer.cache_status());
    }
    wait_circuit_open(&a).await;
    assert!(counted(&a, "lookups", "error").await >= 1.0);
    proxy.delay_replies(Duration::ZERO);
    wait_up(&a).await;
    assert_shares(&fleet.origin, &b, &a, "quick").await;
}

#[tokio::test]
async fn c39_slow_replies_within_the_command_timeout_are_shared_hits() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (
        fleet.gateway().await,
        Gateway::start(&fleet.origin, &tier(&proxy.url())).await,
    );
    wait_up(&b).await;
    store_in_tier(&a, &[STEP]).await;
    proxy.delay_replies(Duration::from_millis(100));
    expect_shared_hit(&b, STEP).await;
}

#[tokio::test]
async fn c39_out_of_memory_no_body_is_written_and_stored_ones_are_shared() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    store_in_tier(&a, &[STEP]).await;
    fleet
        .redis
        .cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .await;
    fleet
        .redis
        .cli(&["CONFIG", "SET", "maxmemory", "1mb"])
        .await;
    let full = fleet.redis.cli(&["SET", "x", "y"]).await;
    assert!(full.contains("OOM"), "not full: {full}");
    let entries = fleet.redis.stored().await;
    assert_serves(&a, "full_a").await;
    assert_serves(&b, "full_b").await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(fleet.redis.stored().await, entries);
    let shared = b.get(STEP).await;
    assert!(
        is_shared_hit(&shared),
        "look-ups still work: {}",
        shared.cache_status()
    );
    // The purge cannot be announced, but applies to this gateway and to the tier.
    purge(&a, "run-step/thread_1").await;
    fleet.origin.set_status("failed");
    assert_eq!(a.get(STEP).await.text(), text("failed"));
    assert_eq!(fleet.redis.stored().await, []);
    fleet.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let start = Instant::now();
    while b.get(STEP).await.text() != text("failed") {
        assert!(start.elapsed() < RECOVERY, "the purge never arrived");
        sleep(Duration::from_millis(50)).await;
    }
    wait_up(&a).await;
    fleet.origin.set_status("completed");
    assert_shares(&fleet.origin, &a, &b, "room").await;
}

/// The server has no memory even for the head of the log.
#[tokio::test]
async fn c39_a_gateway_that_starts_on_a_full_server_serves() {
    let redis = Redis::run(&Redis::program(), &["--maxmemory", "1mb"]).await;
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, &tier(&redis.url())).await;
    assert_serves(&gateway, "full").await;
    purge(&gateway, "run-step/thread_1").await;
    assert_serves(&gateway, "full_still").await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
    wait_up(&gateway).await;
    let other = start_gateway(&origin, &tier(&redis.url())).await;
    assert_shares(&origin, &gateway, &other, "room").await;
}

#[tokio::test]
async fn c39_repeatedly_reset_connections_fail_no_request() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let toml = tier_with_default_timeout(&proxy.url());
    let a = start_gateway(&fleet.origin, &toml).await;
    let start = Instant::now();
    let mut nth = 0;
    while start.elapsed() < Duration::from_secs(3) {
        proxy.cut();
        assert_serves(&a, &format!("cut_{nth}")).await;
        nth += 1;
    }
    wait_up(&a).await;
    let b = fleet.gateway().await;
    assert_shares(&fleet.origin, &a, &b, "whole").await;
    assert_shares(&fleet.origin, &b, &a, "whole_too").await;
}

#[tokio::test]
async fn c39_a_drain_does_not_wait_for_a_hung_server() {
    let fleet = Fleet::start().await;
    let gateway = fleet.gateway().await;
    store_in_tier(&gateway, &[STEP]).await;
    fleet.redis.stop().await;
    expect_fetched(&gateway, &step_of_thread("drained")).await;
    let start = Instant::now();
    gateway.drain().await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn c39_a_drain_writes_the_queued_bodies() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    assert!(a.get(STEP).await.is_stored());
    a.drain().await;
    expect_shared_hit(&b, STEP).await;
}

/// The server accepts the connection and never replies.
#[tokio::test]
async fn c39_a_server_that_never_replies_does_not_delay_the_start() {
    let fleet = Fleet::start().await;
    fleet.redis.stop().await;
    let start = Instant::now();
    let gateway = Gateway::start(
        &fleet.origin,
        &tier_with_default_timeout(&fleet.redis.url()),
    )
    .await;
    assert_serves(&gateway, "silent").await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(tier_state(&gateway).await, "circuit_open");
    fleet.redis.resume().await;
    wait_up(&gateway).await;
}
