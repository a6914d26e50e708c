//! Redis hangs, crashes and restarts under load (catalogue item 39).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::load::{LIGHT, Latencies, Load, THOUSAND, rate};
use super::{
    DEFAULT_TIMEOUT, Fleet, assert_shares, counter, start_gateway, tier_with_default_timeout,
    wait_circuit_open, wait_process_state, wait_state, wait_up,
};
use crate::support::{Gateway, Process};

const MIB: u64 = 1 << 20;

/// What a busy machine may add to the 99th percentile.
const SLACK: Duration = Duration::from_millis(200);

/// Longer than it takes until the circuit opens.
const DETECTION: Duration = Duration::from_millis(500);

const OUTAGE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c39_a_hung_server_under_load_costs_one_timeout_and_then_nothing() {
    let fleet = Fleet::start().await;
    let toml = tier_with_default_timeout(&fleet.redis.url()) + "[log]\naccess = \"off\"\n";
    let process = Process::start(&fleet.origin, &toml, "info").await;
    wait_process_state(&process, "up").await;
    let load = Load::start(process.data, THOUSAND, "stopped").await;
    sleep(Duration::from_millis(500)).await;
    let from = Instant::now();
    sleep(Duration::from_millis(1_500)).await;
    let memory = process.memory("VmHWM:");

    let stop = Instant::now();
    fleet.redis.stop().await;
    sleep(DETECTION).await;
    let detected = Instant::now();
    wait_process_state(&process, "circuit_open").await;
    sleep((stop + OUTAGE).saturating_duration_since(Instant::now())).await;
    assert!(process.metric(&counter("lookups", "circuit_open")).await >= 1.0);
    let resumed = Instant::now();
    fleet.redis.resume().await;
    wait_process_state(&process, "up").await;
    sleep(Duration::from_millis(500)).await;
    let grown = process.memory("VmHWM:").saturating_sub(memory);
    let samples = load.finish().await;

    let before = Latencies::of(&samples, from, stop);
    let during = Latencies::of(&samples, stop, detected);
    let after = Latencies::of(&samples, detected, resumed);
    let requests = rate(&samples, from, resumed);
    assert!(requests > 500.0, "only {requests} requests a second");
    for (what, latency, bound) in [
        (
            "p99 until the circuit opens",
            during.p99(),
            before.p99() + DEFAULT_TIMEOUT + SLACK,
        ),
        (
            "median while the circuit is open",
            after.median(),
            before.median() + DEFAULT_TIMEOUT / 2,
        ),
        (
            "p99 while the circuit is open",
            after.p99(),
            before.p99() + SLACK,
        ),
    ] {
        assert!(latency <= bound, "{what}: {latency:?}, over {bound:?}");
    }
    assert!(grown < 64 * MIB, "{} KiB more", grown >> 10);
}

#[tokio::test]
async fn c39_after_a_crash_under_load_the_fleet_shares_again_by_itself() {
    let mut fleet = Fleet::start().await;
    let toml = tier_with_default_timeout(&fleet.redis.url());
    let a = Gateway::start(&fleet.origin, &toml).await;
    let b = Gateway::start(&fleet.origin, &toml).await;
    for gateway in [&a, &b] {
        wait_up(gateway).await;
    }
    let load = [
        Load::start(a.address(), LIGHT, "killed_a").await,
        Load::start(b.address(), LIGHT, "killed_b").await,
    ];
    for nth in 0..2 {
        sleep(Duration::from_millis(500)).await;
        fleet.redis.kill();
        for gateway in [&a, &b] {
            wait_circuit_open(gateway).await;
        }
        sleep(Duration::from_millis(500)).await;
        fleet.redis.restart().await;
        for gateway in [&a, &b] {
            wait_up(gateway).await;
        }
        assert_shares(&fleet.origin, &a, &b, &format!("killed_{nth}")).await;
        assert_shares(&fleet.origin, &b, &a, &format!("killed_too_{nth}")).await;
    }
    for load in load {
        assert!(load.finish().await.len() > 200);
    }
}

/// Most outages begin before the circuit has closed after the last one.
#[tokio::test]
async fn c39_repeated_short_outages_fail_no_request() {
    let fleet = Fleet::start().await;
    let gateway = start_gateway(
        &fleet.origin,
        &tier_with_default_timeout(&fleet.redis.url()),
    )
    .await;
    let load = Load::start(gateway.address(), LIGHT, "again").await;
    for pause in [20, 60, 120, 300, 700, 20, 60, 120] {
        fleet.redis.stop().await;
        sleep(Duration::from_millis(pause)).await;
        fleet.redis.resume().await;
        sleep(Duration::from_millis(pause)).await;
    }
    wait_state(&gateway, "up").await;
    let other = fleet.gateway().await;
    assert_shares(&fleet.origin, &gateway, &other, "again").await;
    assert!(load.finish().await.len() > 200);
}
