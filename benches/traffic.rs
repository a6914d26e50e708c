//! What a step's polling costs upstream: a simulation over the real code with the clock paused.
//!
//! One step, polled by 1 to 10,000 pollers until each has seen it end and then looked five times
//! more; the upstream is 120 ms away. A row of the table is one such crowd, sent four ways: straight
//! to the upstream, through a gateway that only keeps final bodies (a window of zero), through one
//! with departures, and through that one with `Prefer: wait=30`. What decides is the library's own,
//! with its default limits; only upstream and pollers are played here.
//!
//! Cuts are against what the crowd costs with no gateway. Part of a cut is patience: who waits for a
//! departure, up to 100 ms, asks again that much later.
//!
//! It knows no wall clock, and no chance but a seed: two runs print the same table. What must hold by
//! reason is asserted on the way, so a figure that contradicts it ends the run and is not printed.
//! `cargo bench --bench traffic` prints all rows; as a test it runs a small one.

#[path = "traffic/gate.rs"]
mod gate;
#[path = "traffic/origin.rs"]
mod origin;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stepgate::coalesce::coalescer::MAX_IN_FLIGHT_PER_KEY;
use stepgate::config;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time::sleep;

use gate::Gate;
use origin::{DONE, LATENCY, Log, Origin};

/// How often each looks again at the step that has ended.
const LOOKS: u64 = 5;
const WAIT: Duration = Duration::from_secs(30);
/// From an answer to the next wait: a caller on the same machine does not ask in the same instant.
const TURN: Duration = Duration::from_millis(1);
/// Any will do; but another one, another table.
const SEED: u64 = 1;

/// Pollers, the step's length in seconds, the interval in milliseconds.
const ROWS: [Row; 14] = [
    Row::of(1, 5, 200),
    Row::of(1, 30, 1000),
    Row::of(1, 300, 5000),
    Row::of(10, 5, 200),
    Row::of(10, 30, 1000),
    Row::of(10, 300, 5000),
    Row::of(100, 1, 200),
    Row::of(100, 30, 1000),
    Row::of(100, 300, 5000),
    Row::of(1000, 5, 1000),
    Row::of(1000, 30, 1000),
    Row::of(1000, 300, 1000),
    Row::of(10_000, 30, 200),
    Row::of(10_000, 300, 5000),
];
const SMALL: [Row; 1] = [Row::of(10, 1, 200)];

const HEAD: [&str; 8] = [
    "pollers",
    "step",
    "interval",
    "polls = fetches with no gateway",
    "terminal caching alone (cut)",
    "departures (cut)",
    "`Prefer: wait` requests",
    "`Prefer: wait` fetches (cut)",
];

#[derive(Clone, Copy)]
struct Row {
    pollers: u64,
    step: Duration,
    interval: Duration,
}

impl Row {
    const fn of(pollers: u64, seconds: u64, milliseconds: u64) -> Self {
        Self {
            pollers,
            step: Duration::from_secs(seconds),
            interval: Duration::from_millis(milliseconds),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    CacheAlone,
    Departures,
    Waiting,
}

/// A crowd's way to its answers.
struct Road {
    way: Way,
    origin: Arc<Origin>,
    gate: Arc<Gate>,
    requests: AtomicU64,
}

impl Road {
    fn new(row: Row, way: Way) -> Arc<Self> {
        let origin = Origin::new(row.step);
        let gate = match way {
            Way::Direct | Way::CacheAlone => Gate::cache_alone(&origin),
            Way::Departures | Way::Waiting => Gate::with_departures(&origin),
        };
        Arc::new(Self {
            way,
            origin,
            gate,
            requests: AtomicU64::new(0),
        })
    }

    async fn ask(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed);
        match self.way {
            Way::Direct => self.origin.fetch().await == DONE,
            Way::CacheAlone | Way::Departures => self.gate.ask(None).await,
            Way::Waiting => self.gate.ask(Some(WAIT)).await,
        }
    }

    /// One poller's story. Its pauses differ by up to a twentieth: else those who were once answered
    /// together would ask together for ever, which would flatter the gateway.
    async fn poll(self: Arc<Self>, interval: u64, mut dice: Dice) {
        let pause = |dice: &mut Dice| {
            let shortest = interval - interval / 20;
            Duration::from_millis(shortest + dice.below(interval / 10))
        };
        sleep(Duration::from_millis(dice.below(interval))).await;
        while !self.ask().await {
            match self.way {
                Way::Direct | Way::CacheAlone | Way::Departures => sleep(pause(&mut dice)).await,
                Way::Waiting => sleep(TURN).await,
            }
        }
        for _ in 0..LOOKS {
            sleep(pause(&mut dice)).await;
            assert!(self.ask().await, "a step that has ended stays so");
        }
    }
}

/// A seeded stream of numbers: a Weyl sequence, mixed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Sends a row's crowd one way: its requests, and the fetches that they cost.
fn send(row: Row, way: Way) -> (u64, u64) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("without IO it needs nothing from the system");
    runtime.block_on(async {
        let road = Road::new(row, way);
        let interval = u64::try_from(row.interval.as_millis()).expect("some seconds");
        let mut dice = Dice(SEED);
        let mut crowd = JoinSet::new();
        for _ in 0..row.pollers {
            let own = Dice(dice.below(u64::MAX));
            crowd.spawn(Arc::clone(&road).poll(interval, own));
        }
        crowd.join_all().await;
        let log = road.origin.log();
        if matches!(way, Way::Departures | Way::Waiting) {
            assert_bounds(&log);
        }
        (road.requests.load(Ordering::Relaxed), log.fetches)
    })
}

/// What a step may cost, however many poll it: ten fetches a second, four at once.
fn assert_bounds(log: &Log) {
    let window = config::Upstream::default().coalesce_window;
    assert!(log.narrowest.is_none_or(|gap| gap >= window));
    assert!(log.most_in_the_air <= MAX_IN_FLIGHT_PER_KEY);
}

/// The polls of a patrol: a flight and at least nine tenths of a second each, one at either end; and
/// one for each time that its only waiter came back after it had stopped.
fn most_rounds(step: Duration) -> u64 {
    let times = |each: Duration| u64::try_from(step.as_millis() / each.as_millis());
    let rounds = times(LATENCY + Duration::from_millis(900)).expect("hundreds");
    rounds + 2 + times(WAIT).expect("tens")
}

fn line(row: Row) -> String {
    let (polls, direct) = send(row, Way::Direct);
    let (cached_polls, cached) = send(row, Way::CacheAlone);
    let (_, departures) = send(row, Way::Departures);
    let (waits, waiting) = send(row, Way::Waiting);
    let looks = row.pollers * LOOKS;
    assert_eq!(direct, polls, "nothing is shared");
    assert_eq!(cached_polls, polls, "a cache alone delays nobody");
    assert!(cached <= polls - looks, "what is final costs no fetch");
    assert!(departures <= cached, "sharing costs nothing");
    assert!(waits <= polls, "a wait stands for many polls");
    assert!(waiting <= most_rounds(row.step), "one loop for all");
    if row.pollers == 1 {
        assert_eq!(cached, polls - looks, "one learns of the end by a fetch");
        assert_eq!(departures, cached, "nobody to share with");
    }
    let cells = [
        grouped(row.pollers),
        format!("{} s", row.step.as_secs()),
        format!("{} s", row.interval.as_secs_f64()),
        grouped(polls),
        with_cut(cached, polls),
        with_cut(departures, polls),
        grouped(waits),
        with_cut(waiting, polls),
    ];
    format!("| {} |", cells.join(" | "))
}

/// The fetches, and by how much they are fewer than the polls: rounded down, so that 100 % is all.
fn with_cut(fetches: u64, polls: u64) -> String {
    let (sign, tenths) = if fetches <= polls {
        ("", (polls - fetches) * 1000 / polls)
    } else {
        ("-", ((fetches - polls) * 1000).div_ceil(polls))
    };
    let fetches = grouped(fetches);
    format!("{fetches} ({sign}{}.{} %)", tenths / 10, tenths % 10)
}

fn grouped(number: u64) -> String {
    if number < 1000 {
        return number.to_string();
    }
    format!("{},{:03}", grouped(number / 1000), number % 1000)
}

fn main() -> std::io::Result<()> {
    let told = |flag: &str| std::env::args().any(|argument| argument == flag);
    // Cargo says so when it runs benches; it does not when it runs them as tests.
    let all = told("--bench") && !told("--test");
    let rows: &[Row] = if all { &ROWS } else { &SMALL };
    let mut out = std::io::stdout().lock();
    writeln!(out, "| {} |", HEAD.join(" | "))?;
    writeln!(out, "|{}", "---:|".repeat(HEAD.len()))?;
    for row in rows {
        writeln!(out, "{}", line(*row))?;
    }
    Ok(())
}
