//! Redis stopped, killed and restarted under load (catalogue 39).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::load::{LIGHT, Load, Spread, THOUSAND, rate};
use super::{BUDGET, Fleet, assert_shares, brisk_tier, counter, is, is_resting, is_up, process_is};
use crate::support::{Gateway, Process};

const MIB: u64 = 1 << 20;

/// What a busy machine may add to the slowest of a hundred.
const SLACK: Duration = Duration::from_millis(200);

/// Until it is noticed, and a good deal more.
const NOTICED: Duration = Duration::from_millis(500);

const STOPPED: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c39_stopped_under_a_thousand_requests_a_second_it_costs_a_budget_and_then_nothing() {
    let fleet = Fleet::start().await;
    let toml = brisk_tier(&fleet.redis.url()) + "[log]\naccess = \"off\"\n";
    let process = Process::start(&fleet.origin, &toml, "info").await;
    process_is(&process, "up").await;
    let load = Load::start(process.data, THOUSAND, "stopped").await;
    sleep(Duration::from_millis(500)).await;
    let from = Instant::now();
    sleep(Duration::from_millis(1_500)).await;
    let memory = process.memory("VmHWM:");

    let stop = Instant::now();
    fleet.redis.stop().await;
    sleep(NOTICED).await;
    let noticed = Instant::now();
    process_is(&process, "circuit_open").await;
    sleep((stop + STOPPED).saturating_duration_since(Instant::now())).await;
    assert!(process.metric(&counter("circuit_open")).await >= 1.0);
    let resting = Instant::now();
    fleet.redis.resume().await;
    process_is(&process, "up").await;
    sleep(Duration::from_millis(500)).await;
    let grown = process.memory("VmHWM:").saturating_sub(memory);
    let samples = load.finish().await;

    let before = Spread::of(&samples, from, stop);
    let during = Spread::of(&samples, stop, noticed);
    let after = Spread::of(&samples, noticed, resting);
    let asked = rate(&samples, from, resting);
    assert!(asked > 500.0, "{asked} requests a second are no load");
    let (rose, bound) = (during.p99(), before.p99() + BUDGET + SLACK);
    assert!(
        rose <= bound,
        "p99 {rose:?} while it is noticed, over {bound:?}"
    );
    let (rests, bound) = (after.median(), before.median() + BUDGET / 2);
    assert!(
        rests <= bound,
        "half take {rests:?} while it rests, over {bound:?}"
    );
    let (rests, bound) = (after.p99(), before.p99() + SLACK);
    assert!(
        rests <= bound,
        "p99 {rests:?} while it rests, over {bound:?}"
    );
    assert!(grown < 64 * MIB, "{} KiB more", grown >> 10);
}

#[tokio::test]
async fn c39_killed_and_restarted_under_load_it_comes_back_by_itself() {
    let mut fleet = Fleet::start().await;
    let toml = brisk_tier(&fleet.redis.url());
    let a = Gateway::start(&fleet.origin, &toml).await;
    let b = Gateway::start(&fleet.origin, &toml).await;
    for gateway in [&a, &b] {
        is_up(gateway).await;
    }
    let load = [
        Load::start(a.address(), LIGHT, "killed_a").await,
        Load::start(b.address(), LIGHT, "killed_b").await,
    ];
    for nth in 0..2 {
        sleep(Duration::from_millis(500)).await;
        fleet.redis.kill();
        for gateway in [&a, &b] {
            is_resting(gateway).await;
        }
        sleep(Duration::from_millis(500)).await;
        fleet.redis.restart().await;
        for gateway in [&a, &b] {
            is_up(gateway).await;
        }
        assert_shares(&fleet.origin, &a, &b, &format!("killed_{nth}")).await;
        assert_shares(&fleet.origin, &b, &a, &format!("killed_too_{nth}")).await;
    }
    for load in load {
        assert!(load.finish().await.len() > 200);
    }
}

/// Each time before it has looked whether the last time is over.
#[tokio::test]
async fn c39_stopped_and_gone_on_again_and_again_every_answer_is_right() {
    let fleet = Fleet::start().await;
    let gateway = Gateway::start(&fleet.origin, &brisk_tier(&fleet.redis.url())).await;
    is_up(&gateway).await;
    let load = Load::start(gateway.address(), LIGHT, "again").await;
    for pause in [20, 60, 120, 300, 700, 20, 60, 120] {
        fleet.redis.stop().await;
        sleep(Duration::from_millis(pause)).await;
        fleet.redis.resume().await;
        sleep(Duration::from_millis(pause)).await;
    }
    is(&gateway, "up").await;
    let other = fleet.gateway().await;
    assert_shares(&fleet.origin, &gateway, &other, "again").await;
    assert!(load.finish().await.len() > 200);
}
