//! Simulates what polling a step costs upstream, with the library's own code on a paused clock.
//!
//! In each row, 1 to 10,000 pollers poll one step until each has seen it end, and then five times
//! more; the upstream responds after 120 ms. The row is simulated four ways: without a gateway, with
//! one that only stores final bodies, with one that also coalesces, and through that one with
//! `Prefer: wait=30`. Cache, coalescing and long polls are the library's, with its default limits; only
//! the upstream and the pollers are simulated.
//!
//! A cut is against the fetches without a gateway. A part of it comes from longer polls: a request
//! that waits up to 100 ms for its fetch delays the poller's next request by as much.
//!
//! Two runs print the same table, because the clock is paused and the random numbers are seeded. What
//! must hold for any figure is asserted, so a wrong one ends the run. `cargo bench --bench traffic`
//! prints all rows; `cargo test` runs a small one.

#[path = "traffic/gateway.rs"]
mod gateway;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use stepgate::coalesce::coalescer::MAX_IN_FLIGHT_PER_KEY;
use stepgate::config;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use gateway::{DONE, Gateway, LATENCY, Origin};

/// Is how often each poller polls the step after its end.
const POLLS_AFTER_END: u64 = 5;

/// Is the wait that a long poll asks for.
const WAIT: Duration = Duration::from_secs(30);

/// Is the time between a response and the next long poll.
const TURNAROUND: Duration = Duration::from_millis(1);

const ROWS: [Row; 14] = [
    Row(1, 5, 200),
    Row(1, 30, 1000),
    Row(1, 300, 5000),
    Row(10, 5, 200),
    Row(10, 30, 1000),
    Row(10, 300, 5000),
    Row(100, 1, 200),
    Row(100, 30, 1000),
    Row(100, 300, 5000),
    Row(1000, 5, 1000),
    Row(1000, 30, 1000),
    Row(1000, 300, 1000),
    Row(10_000, 30, 200),
    Row(10_000, 300, 5000),
];
const SMALL: [Row; 1] = [Row(10, 1, 200)];

const HEAD: &str = "| pollers | step | interval | polls = fetches with no gateway | terminal caching alone (cut) | shared fetches (cut) | `Prefer: wait`: requests | `Prefer: wait`: fetches (cut) |";

/// Describes a row by its pollers, the seconds that the step is live, and the milliseconds from a
/// response to the next poll.
#[derive(Clone, Copy)]
struct Row(u64, u64, u64);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    CacheAlone,
    Coalesced,
    LongPoll,
}

/// Polls until the step has ended and then some times more; returns the number of requests.
///
/// The intervals vary by a twentieth. Otherwise pollers that once shared a fetch would poll together
/// for ever, which would flatter the gateway.
async fn poll(gateway: Arc<Gateway>, way: Way, interval: u64, mut rng: Rng) -> u64 {
    let varied =
        |rng: &mut Rng| Duration::from_millis(interval - interval / 20 + rng.below(interval / 10));
    let request = async || match way {
        Way::Direct => gateway.origin.fetch().await == DONE,
        Way::CacheAlone | Way::Coalesced => gateway.request(None).await,
        Way::LongPoll => gateway.request(Some(WAIT)).await,
    };
    sleep(Duration::from_millis(rng.below(interval))).await;
    let mut requests = 1;
    while !request().await {
        let interval = if way == Way::LongPoll {
            TURNAROUND
        } else {
            varied(&mut rng)
        };
        sleep(interval).await;
        requests += 1;
    }
    for _ in 0..POLLS_AFTER_END {
        sleep(varied(&mut rng)).await;
        assert!(request().await, "a step that has ended is live again");
    }
    requests + POLLS_AFTER_END
}

/// Is SplitMix64. The table in `benches/README.md` depends on its numbers, so no update of a crate may
/// change them.
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Simulates a row one way; returns its requests and the fetches that they cost.
fn simulate(row: Row, way: Way) -> (u64, u64) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing from the system");
    runtime.block_on(async {
        let origin = Origin::new(Duration::from_secs(row.1));
        let limits = config::Upstream::default();
        let gateway = match way {
            // No window and no limit: only the cache saves fetches.
            Way::Direct | Way::CacheAlone => Gateway::new(origin, Duration::ZERO, usize::MAX),
            Way::Coalesced | Way::LongPoll => {
                Gateway::new(origin, limits.coalesce_window, limits.max_in_flight)
            }
        };
        let mut rng = Rng(1);
        let mut pollers = JoinSet::new();
        for _ in 0..row.0 {
            let own = Rng(rng.below(u64::MAX));
            pollers.spawn(poll(Arc::clone(&gateway), way, row.2, own));
        }
        let requests = pollers.join_all().await.iter().sum();
        let starts = gateway.origin.starts();
        if matches!(way, Way::Coalesced | Way::LongPoll) {
            assert_limits(&starts, limits.coalesce_window);
        }
        (requests, starts.len() as u64)
    })
}

/// Asserts that fetches started a window apart, and no more at once than a key may have in flight.
fn assert_limits(starts: &[Instant], window: Duration) {
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= window));
    let too_many = starts.windows(MAX_IN_FLIGHT_PER_KEY + 1);
    assert!(
        too_many
            .into_iter()
            .all(|starts| starts[MAX_IN_FLIGHT_PER_KEY] - starts[0] >= LATENCY)
    );
}

/// Returns the most fetches of a long-poll loop: each takes the latency and at least nine tenths of a
/// second. There is one more at either end, and one each time that the last waiter came back after
/// the loop had stopped.
fn max_loop_fetches(seconds: u64) -> u128 {
    let times = |each: Duration| u128::from(seconds) * 1000 / each.as_millis();
    times(LATENCY + Duration::from_millis(900)) + 2 + times(WAIT)
}

fn line(row: Row) -> String {
    let (polls, direct) = simulate(row, Way::Direct);
    let (cached_polls, cached) = simulate(row, Way::CacheAlone);
    let (_, coalesced) = simulate(row, Way::Coalesced);
    let (long_polls, looped) = simulate(row, Way::LongPoll);
    let after_end = row.0 * POLLS_AFTER_END;
    assert_eq!(direct, polls, "without a gateway, each poll is a fetch");
    assert_eq!(cached_polls, polls, "a cache alone delays no poll");
    assert!(
        cached <= polls - after_end,
        "a stored final body costs no fetch"
    );
    assert!(coalesced <= cached, "coalescing costs no fetch");
    assert!(long_polls <= polls, "a long poll stands for many polls");
    assert!(
        u128::from(looped) <= max_loop_fetches(row.1),
        "one loop fetches for all"
    );
    if row.0 == 1 {
        assert_eq!(
            cached,
            polls - after_end,
            "a lone poller sees the end by a fetch"
        );
        assert_eq!(coalesced, cached, "a lone poller shares no fetch");
    }
    let cells = [
        grouped(row.0),
        format!("{} s", row.1),
        format!("{} s", Duration::from_millis(row.2).as_secs_f64()),
        grouped(polls),
        with_cut(cached, polls),
        with_cut(coalesced, polls),
        grouped(long_polls),
        with_cut(looped, polls),
    ];
    format!("| {} |", cells.join(" | "))
}

/// Shows by how much the fetches are fewer than the polls, rounded down.
fn with_cut(fetches: u64, polls: u64) -> String {
    let (sign, tenths) = match polls.checked_sub(fetches) {
        Some(cut) => ("", cut * 1000 / polls),
        None => ("-", ((fetches - polls) * 1000).div_ceil(polls)),
    };
    let fetches = grouped(fetches);
    format!("{fetches} ({sign}{}.{} %)", tenths / 10, tenths % 10)
}

/// Writes a number with commas between thousands.
fn grouped(number: u64) -> String {
    match number / 1000 {
        0 => number.to_string(),
        thousands => format!("{},{:03}", grouped(thousands), number % 1000),
    }
}

fn main() -> std::io::Result<()> {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    // Cargo passes `--bench` when it runs benches, not when it runs them as tests.
    let rows: &[Row] = if has("--bench") && !has("--test") {
        &ROWS
    } else {
        &SMALL
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{HEAD}
|{}",
        "---:|".repeat(8)
    )?;
    for row in rows {
        writeln!(out, "{}", line(*row))?;
    }
    Ok(())
}
