//! Redis in every state that it should not be in: fetches go on, none waits longer than the budget, and
//! when it is well again things are shared again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    BACK, BUDGET, Fleet, assert_serves, assert_shares, brisk_tier, counted, elsewhere, is_fetched,
    is_resting, is_shared, is_up, purge, reached, spread, state, tier, tier_at,
};
use crate::support::{Gateway, Origin, STEP, step, text};
use crate::support::{redis::Redis, redis_proxy::RedisProxy};

/// What a busy machine may add to anything.
const SLACK: Duration = Duration::from_millis(300);

#[tokio::test]
async fn c39_refused_at_its_start_a_gateway_serves_and_joins_when_redis_comes() {
    let mut fleet = Fleet::start().await;
    let toml = tier(&fleet.redis.url());
    fleet.redis.kill();
    let start = Instant::now();
    let a = Gateway::start(&fleet.origin, &toml).await;
    assert_serves(&a, "refused").await;
    assert_eq!(a.admin("GET", "/ready").await.status, 200);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    is_resting(&a).await;
    assert!(counted(&a, "circuit_open").await >= 1.0);
    fleet.redis.restart().await;
    let b = fleet.gateway().await;
    is_up(&a).await;
    assert_shares(&fleet.origin, &a, &b, "late").await;
    assert_shares(&fleet.origin, &b, &a, "late_too").await;
}

#[tokio::test]
async fn c39_a_wrong_password_shares_nothing_and_the_right_one_does() {
    let mut fleet = Fleet::start().await;
    fleet.redis.require_password("sesame-right").await;
    let toml = |password: &str| {
        let url = format!("redis://:{password}@127.0.0.1:{}\n", fleet.redis.port());
        let file = fleet.redis.write(password, &url);
        tier_at(&format!("{{ file = \"{file}\" }}"))
    };
    let wrong = Gateway::start(&fleet.origin, &toml("sesame-wrong")).await;
    is_resting(&wrong).await;
    assert_serves(&wrong, "wrong").await;
    let without = Gateway::start(&fleet.origin, &tier(&fleet.redis.url())).await;
    is_resting(&without).await;
    assert_serves(&without, "without").await;
    let a = Gateway::start(&fleet.origin, &toml("sesame-right")).await;
    let b = Gateway::start(&fleet.origin, &toml("sesame-right")).await;
    is_up(&a).await;
    is_up(&b).await;
    assert_shares(&fleet.origin, &a, &b, "right").await;
    for gateway in [&wrong, &without, &a] {
        for path in ["/status", "/metrics"] {
            let text = gateway.admin("GET", path).await.text();
            assert!(!text.contains("sesame"), "{text}");
        }
    }
}

/// What the documentation tells operators to allow is enough.
#[tokio::test]
async fn c39_a_user_that_may_do_no_more_than_documented_is_enough() {
    const MAY: &str = "+eval +hget +hset +hstrlen +hlen +hexists +hgetall +pttl +pexpire +unlink \
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
    rules.extend(MAY.split_whitespace());
    assert_eq!(fleet.redis.cli(&rules).await.trim(), "OK");
    let port = fleet.redis.port();
    let url = format!("redis://sharing:open-sesame@127.0.0.1:{port}\n");
    let toml = tier_at(&format!(
        "{{ file = \"{}\" }}",
        fleet.redis.write("url", &url)
    ));
    let a = Gateway::start(&fleet.origin, &toml).await;
    let b = Gateway::start(&fleet.origin, &toml).await;
    is_up(&a).await;
    is_up(&b).await;
    assert_shares(&fleet.origin, &a, &b, "allowed").await;
    spread(&a, &[STEP]).await;
    purge(&a, "run-step").await;
    reached().await;
    assert!(is_fetched(&b.get(STEP).await));
    for gateway in [&a, &b] {
        assert_eq!(counted(gateway, "error").await, 0.0);
    }
}

/// It accepts and says nothing, for a while.
#[tokio::test]
async fn c39_a_pause_of_all_clients_costs_a_budget_and_then_nothing() {
    let fleet = Fleet::start().await;
    let toml = brisk_tier(&fleet.redis.url());
    let a = Gateway::start(&fleet.origin, &toml).await;
    is_up(&a).await;
    spread(&a, &[STEP]).await;
    fleet.redis.cli(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
    for nth in 0..20 {
        let start = Instant::now();
        assert!(is_fetched(&a.get(&step(&format!("paused_{nth}"))).await));
        let took = start.elapsed();
        assert!(took < BUDGET + SLACK, "{nth}: {took:?}");
    }
    is_resting(&a).await;
    assert_serves(&a, "circuit_open").await;
    is_up(&a).await;
    let b = fleet.gateway().await;
    assert_shares(&fleet.origin, &a, &b, "after").await;
}

#[tokio::test]
async fn c39_answers_slower_than_the_budget_are_not_waited_for() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let b = fleet.gateway().await;
    let a = Gateway::start(&fleet.origin, &brisk_tier(&proxy.url())).await;
    is_up(&a).await;
    let paths: Vec<String> = (0..20).map(|n| elsewhere(&format!("slow_{n}"))).collect();
    for path in &paths {
        spread(&b, &[path]).await;
    }
    proxy.delay_replies(BUDGET * 2);
    for path in &paths {
        let start = Instant::now();
        let answer = a.get(path).await;
        let took = start.elapsed();
        assert!(took < BUDGET + SLACK, "{path}: {took:?}");
        assert_eq!(answer.body, b.get(path).await.body, "{path}");
        assert!(!is_shared(&answer), "{path}: {}", answer.cache_status());
    }
    is_resting(&a).await;
    assert!(counted(&a, "error").await >= 1.0);
    proxy.delay_replies(Duration::ZERO);
    is_up(&a).await;
    assert_shares(&fleet.origin, &b, &a, "quick").await;
}

#[tokio::test]
async fn c39_slow_answers_within_the_budget_are_still_shared() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let (a, b) = (
        fleet.gateway().await,
        Gateway::start(&fleet.origin, &tier(&proxy.url())).await,
    );
    is_up(&b).await;
    spread(&a, &[STEP]).await;
    proxy.delay_replies(Duration::from_millis(100));
    let shared = b.get(STEP).await;
    assert!(is_shared(&shared), "{}", shared.cache_status());
}

#[tokio::test]
async fn c39_out_of_memory_nothing_more_is_stored_and_what_is_there_is_shared() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    spread(&a, &[STEP]).await;
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
    assert!(is_shared(&shared), "reads go on: {}", shared.cache_status());
    // A purge cannot be told to the others, yet holds here, and for the tier.
    purge(&a, "run-step/thread_1").await;
    fleet.origin.set_status("failed");
    assert_eq!(a.get(STEP).await.text(), text("failed"));
    assert_eq!(fleet.redis.stored().await, []);
    fleet.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let start = Instant::now();
    while b.get(STEP).await.text() != text("failed") {
        assert!(start.elapsed() < BACK, "never told");
        sleep(Duration::from_millis(50)).await;
    }
    is_up(&a).await;
    fleet.origin.set_status("completed");
    assert_shares(&fleet.origin, &a, &b, "room").await;
}

/// At its start there is no room even for the head.
#[tokio::test]
async fn c39_a_gateway_that_starts_on_a_full_server_serves() {
    let redis = Redis::run(&Redis::program(), &["--maxmemory", "1mb"]).await;
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, &tier(&redis.url())).await;
    assert_serves(&gateway, "full").await;
    purge(&gateway, "run-step/thread_1").await;
    assert_serves(&gateway, "full_still").await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
    is_up(&gateway).await;
    let other = Gateway::start(&origin, &tier(&redis.url())).await;
    is_up(&other).await;
    assert_shares(&origin, &gateway, &other, "room").await;
}

#[tokio::test]
async fn c39_connections_that_are_cut_again_and_again_cost_no_answer() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let toml = brisk_tier(&proxy.url());
    let a = Gateway::start(&fleet.origin, &toml).await;
    is_up(&a).await;
    let start = Instant::now();
    let mut nth = 0;
    while start.elapsed() < Duration::from_secs(3) {
        proxy.cut();
        assert_serves(&a, &format!("cut_{nth}")).await;
        nth += 1;
    }
    is_up(&a).await;
    let b = fleet.gateway().await;
    assert_shares(&fleet.origin, &a, &b, "whole").await;
    assert_shares(&fleet.origin, &b, &a, "whole_too").await;
}

#[tokio::test]
async fn c39_a_drain_does_not_wait_for_a_redis_that_says_nothing() {
    let fleet = Fleet::start().await;
    let gateway = fleet.gateway().await;
    spread(&gateway, &[STEP]).await;
    fleet.redis.stop().await;
    assert!(is_fetched(&gateway.get(&elsewhere("drained")).await));
    let start = Instant::now();
    gateway.drain().await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
}

/// What was written just before a drain is there after it.
#[tokio::test]
async fn c39_a_drain_writes_what_is_still_to_be_written() {
    let fleet = Fleet::start().await;
    let (a, b) = fleet.pair().await;
    assert!(a.get(STEP).await.is_stored());
    a.drain().await;
    assert!(is_shared(&b.get(STEP).await));
}

/// Silent from its first byte: a black hole that accepts.
#[tokio::test]
async fn c39_a_redis_that_never_said_anything_holds_up_no_start() {
    let fleet = Fleet::start().await;
    fleet.redis.stop().await;
    let start = Instant::now();
    let gateway = Gateway::start(&fleet.origin, &brisk_tier(&fleet.redis.url())).await;
    assert_serves(&gateway, "silent").await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(state(&gateway).await, "circuit_open");
    fleet.redis.resume().await;
    is_up(&gateway).await;
}
