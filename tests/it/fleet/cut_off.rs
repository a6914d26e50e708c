//! Gateways that could not hear what was purged meanwhile.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{
    BACK, Fleet, assert_serves, elsewhere, is_fetched, is_own, is_resting, is_shared, is_up, purge,
    spread, tier,
};
use crate::support::client::head;
use crate::support::{Gateway, RawClient, STEP, step, text, within};
use crate::support::{redis::Redis, redis_proxy::RedisProxy};

/// What the stream is capped at.
const CAP: usize = 10_000;

/// A pair of which the second can be cut off, both with [`STEP`] and a step of `thread_2` in memory.
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
        let b = Gateway::start(&fleet.origin, &tier(&proxy.url())).await;
        is_up(&b).await;
        let other = elsewhere("thread_2");
        spread(&a, &[STEP, &other]).await;
        for path in [STEP, &other] {
            assert!(is_shared(&b.get(path).await), "{path}");
        }
        Self { fleet, proxy, a, b }
    }

    /// From then on nothing reaches `b`, and it knows.
    async fn cut_off(&self) {
        self.proxy.refuse();
        is_resting(&self.b).await;
        assert!(is_own(&self.b.get(STEP).await), "what it has it serves");
        assert_serves(&self.b, "alone").await;
    }

    /// It is back; from its first moment it serves nothing that was purged.
    async fn joins_and_knows(&self) {
        self.fleet.origin.set_status("failed");
        self.proxy.accept();
        let start = Instant::now();
        loop {
            let up = super::state(&self.b).await == "up";
            let answer = self.b.get(STEP).await;
            assert_eq!(answer.status, 200);
            if up {
                assert_eq!(answer.text(), text("failed"), "{}", answer.cache_status());
                return;
            }
            // From before it was cut off, or fetched since, or it is up by now: never what was purged from
            // a tier it does not know.
            let is_known = !is_shared(&answer) || answer.text() == text("failed");
            assert!(is_known, "{}", answer.cache_status());
            let waited = start.elapsed();
            assert!(waited < BACK, "not back after {waited:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn after_it_is_back_it_serves_nothing_of_what_was_purged() {
    for below in [
        "run-step/thread_1",
        "run-step/thread_1/run_1/step_1",
        "run-step",
    ] {
        let pair = Pair::start().await;
        pair.cut_off().await;
        purge(&pair.a, below).await;
        pair.joins_and_knows().await;
        let other = pair.b.get(&elsewhere("thread_2")).await;
        assert_eq!(
            is_own(&other),
            below != "run-step",
            "{below}: {}",
            other.cache_status()
        );
    }
}

/// It has heard nothing, and says nothing: the connection stands.
#[tokio::test]
async fn a_gateway_whose_connection_is_silent_does_not_use_the_tier_for_longer_than_a_second() {
    let pair = Pair::start().await;
    pair.proxy.stall();
    purge(&pair.a, "run-step").await;
    pair.fleet.origin.set_status("failed");
    assert_eq!(pair.a.get(STEP).await.text(), text("failed"));
    is_resting(&pair.b).await;
    pair.fleet.origin.set_status("completed");
    assert_serves(&pair.b, "silent").await;
    pair.proxy.resume();
    pair.joins_and_knows().await;
}

/// What it purged itself while it was alone, the others hear when it is back.
#[tokio::test]
async fn what_a_gateway_purges_while_cut_off_is_purged_everywhere_when_it_is_back() {
    let pair = Pair::start().await;
    pair.cut_off().await;
    purge(&pair.b, "run-step/thread_1").await;
    pair.fleet.origin.set_status("failed");
    assert_eq!(pair.b.get(STEP).await.text(), text("failed"));
    pair.proxy.accept();
    is_up(&pair.b).await;
    let start = Instant::now();
    while pair.a.get(STEP).await.text() != text("failed") {
        assert!(start.elapsed() < BACK, "never told");
        sleep(Duration::from_millis(20)).await;
    }
    let new = pair.fleet.gateway().await.get(STEP).await;
    assert_eq!(new.text(), text("failed"), "{}", new.cache_status());
}

/// No more than that: what failed on the old connection says nothing of the new one.
#[tokio::test]
async fn what_a_gateway_purges_while_cut_off_is_all_that_is_purged() {
    let pair = Pair::start().await;
    pair.proxy.stall();
    let mut asked = Vec::new();
    for nth in 0..5 {
        asked.push(pair.b.send_get(&step(&format!("late_{nth}")), &[]).await);
    }
    for mut one in asked {
        assert_eq!(one.response().await.status, 200);
    }
    is_resting(&pair.b).await;
    purge(&pair.b, "run-step/thread_1").await;
    pair.proxy.resume();
    is_up(&pair.b).await;
    super::reached().await;
    let new = pair.fleet.gateway().await;
    let other = new.get(&elsewhere("thread_2")).await;
    assert!(is_shared(&other), "{}", other.cache_status());
    assert!(is_fetched(&new.get(STEP).await));
}

/// What the stream has lost may have been anything: memory starts anew.
#[tokio::test]
async fn a_gap_in_the_stream_empties_the_memory_of_who_missed_it() {
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
    pair.joins_and_knows().await;
    let other = pair.b.get(&elsewhere("thread_2")).await;
    assert!(!is_own(&other), "{}", other.cache_status());
    // Who missed nothing keeps everything.
    assert!(is_own(&pair.a.get(&elsewhere("thread_2")).await));
}

/// The same without a trick: so many are purged that the cap drops what it missed.
#[tokio::test]
async fn more_purges_than_the_stream_holds_are_missed_by_nobody() {
    const CALLERS: usize = 8;
    let pair = Pair::start().await;
    pair.cut_off().await;
    purge(&pair.a, "run-step/thread_1").await;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let mut raw = RawClient::connect(pair.a.admin_address()).await;
        callers.spawn(async move {
            for nth in 0..CAP / CALLERS + 100 {
                let path = format!("/cache/run-step/many_{caller}_{nth}");
                raw.send(head("DELETE", &path, "127.0.0.1", &[])).await;
                assert_eq!(raw.response().await.status, 200);
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let stream = pair.fleet.redis.log_key("purges").await;
    let kept = pair.fleet.redis.command::<usize>(&[b"XLEN", &stream]).await;
    assert!(kept <= CAP + 500, "{kept} messages are kept");
    pair.joins_and_knows().await;
    let other = pair.b.get(&elsewhere("thread_2")).await;
    assert!(!is_own(&other), "{}", other.cache_status());
}

/// An old state of the server is back: numbers that were given are given again.
#[tokio::test]
async fn a_server_that_forgot_the_last_purges_takes_none_of_them_back() {
    let pair = Pair::start().await;
    for nth in 0..3 {
        purge(&pair.a, &format!("run-step/earlier_{nth}")).await;
    }
    sleep(Duration::from_millis(600)).await;
    let old = dump(&pair.fleet.redis).await;
    purge(&pair.a, "run-step/thread_1").await;
    pair.fleet.origin.set_status("failed");
    let gone = async {
        while is_own(&pair.b.get(STEP).await) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within("the purge", gone).await;
    restore(&pair.fleet.redis, &old).await;
    // As many again as were forgotten, so that no number is missing.
    purge(&pair.a, "run-step/later").await;
    super::reached().await;
    for gateway in [&pair.a, &pair.b, &pair.fleet.gateway().await] {
        let answer = gateway.get(STEP).await;
        assert_eq!(answer.text(), text("failed"), "{}", answer.cache_status());
    }
}

/// The same while what was told is no older than that it has been confirmed: nobody else has heard of it.
#[tokio::test]
async fn a_purge_that_was_confirmed_holds_also_where_the_server_forgets_it_at_once() {
    let fleet = Fleet::start().await;
    let proxy = RedisProxy::start(fleet.redis.port()).await;
    let a = Gateway::start(&fleet.origin, &tier(&proxy.url())).await;
    let b = fleet.gateway().await;
    is_up(&a).await;
    spread(&a, &[STEP]).await;
    for nth in 0..4 {
        fleet.origin.set_status("completed");
        let old_step = step(&format!("forgotten_{nth}"));
        spread(&a, &[&old_step]).await;
        assert!(is_shared(&b.get(&old_step).await));
        let old = dump(&fleet.redis).await;
        // What a asks next is a while on its way.
        proxy.delay_commands(Duration::from_millis(100));
        purge(&a, "run-step/thread_1").await;
        restore(&fleet.redis, &old).await;
        proxy.delay_commands(Duration::ZERO);
        fleet.origin.set_status("failed");
        super::reached().await;
        for gateway in [&a, &b, &fleet.gateway().await] {
            let answer = gateway.get(&old_step).await;
            let said = answer.cache_status();
            assert_eq!(answer.json()["status"], "failed", "{nth}: {said}");
        }
    }
}

/// All keys with what they hold.
async fn dump(redis: &Redis) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for key in redis.keys().await {
        let value = redis.command(&[b"DUMP", &key]).await;
        all.push((key, value));
    }
    all
}

/// That state, at once, as a server has it that was started from a file.
async fn restore(redis: &Redis, all: &[(Vec<u8>, Vec<u8>)]) {
    let mut script = "redis.command('FLUSHALL') ".to_owned();
    script += "for i = 1, #KEYS do redis.command('RESTORE', KEYS[i], 0, ARGV[i]) end return 1";
    let count = all.len().to_string();
    let mut words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), count.as_bytes()];
    words.extend(all.iter().map(|(key, _)| key.as_slice()));
    words.extend(all.iter().map(|(_, value)| value.as_slice()));
    redis.command::<i64>(&words).await;
}

#[tokio::test]
async fn connections_that_are_cut_between_purges_lose_none() {
    let pair = Pair::start().await;
    let threads: Vec<String> = (0..20).map(|nth| format!("cut_{nth}")).collect();
    let paths: Vec<String> = threads.iter().map(|thread| elsewhere(thread)).collect();
    for path in &paths {
        assert!(is_fetched(&pair.b.get(path).await), "{path}");
    }
    for thread in &threads {
        pair.proxy.cut();
        purge(&pair.a, &format!("run-step/{thread}")).await;
        sleep(Duration::from_millis(50)).await;
    }
    is_up(&pair.b).await;
    super::reached().await;
    pair.fleet.origin.set_status("failed");
    for path in &paths {
        let answer = pair.b.get(path).await;
        assert_eq!(answer.json()["status"], "failed", "{path}");
    }
}
