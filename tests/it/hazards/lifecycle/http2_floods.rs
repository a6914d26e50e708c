//! Floods of HTTP/2 frames from several peers at once (item 46): each is cut, or stays cheap until a
//! timeout ends it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::hazards::load_test;
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, FrameClient, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, header_block, request_frame,
};
use crate::support::latency::{LatencyProbe, median};
use crate::support::{Action, Origin, Process, STEP, step, until, within};

const MIB: u64 = 1024 * 1024;

const PEERS: usize = 4;

/// A timeout that a flood which is cut does not reach, on a busy machine either.
const LONG_TIMEOUT: Duration = Duration::from_secs(5);

/// A flood that is cut ends before this time, which is well before the timeout.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A timeout that ends the floods which are not cut.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the frames that a peer sends in its nth round.
type Round = fn(u32) -> Vec<u8>;

#[derive(Clone, Copy)]
struct Flood {
    /// Returns the frames before the first round.
    opening: fn() -> Vec<u8>,
    round: Round,
    /// Whether the peer reads what the gateway sends.
    reads: bool,
}

/// Floods from each peer until its connection ends; returns how long the slowest took.
async fn run_flood(address: SocketAddr, flood: Flood) -> Duration {
    let start = Instant::now();
    let mut peers = JoinSet::new();
    for _ in 0..PEERS {
        peers.spawn(async move {
            let peer = FrameClient::connect(address, 65_535).await;
            let (mut reads, mut writes) = peer.io.into_split();
            let listen = async {
                let mut chunk = vec![0; 64 * 1024];
                while flood.reads && matches!(reads.read(&mut chunk).await, Ok(1..)) {}
                if !flood.reads {
                    std::future::pending::<()>().await;
                }
            };
            let speak = async {
                let mut sent = writes.write_all(&(flood.opening)()).await;
                let mut nth = 0;
                while sent.is_ok() {
                    sent = writes.write_all(&(flood.round)(nth)).await;
                    nth += 1;
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = listen => {}
                () = speak => {}
            }
        });
    }
    peers.join_all().await;
    start.elapsed()
}

struct Harm {
    lasted: Duration,
    /// Fetches that the flood caused.
    fetches: usize,
}

/// Floods a gateway, and asserts that its memory and the latency of another client stay bounded.
///
/// A connection without a request is cut after `timeout`, whatever else it sends, so every flood ends.
async fn harm_of(flood: Flood, timeout: Duration) -> Harm {
    let _alone = load_test().await;
    let origin = Origin::start().await;
    let timeout = humantime::format_duration(timeout);
    let toml = format!("[server]\nheader_timeout = \"{timeout}\"\nidle_timeout = \"{timeout}\"\n");
    let process = Process::start(&origin, &toml, "info").await;
    let mut probe = LatencyProbe::start(process.data, STEP).await;
    let unloaded = Process::start(&origin, "", "info").await;
    let mut control = LatencyProbe::start(unloaded.data, STEP).await;
    origin.always(vec![Action::Stall]);
    let (before, fetches) = (process.memory("VmRSS:"), origin.count());

    let (mut busy, mut calm) = (Vec::new(), Vec::new());
    let lasted = {
        let running = within("the flood to end", run_flood(process.data, flood));
        let mut running = std::pin::pin!(running);
        loop {
            tokio::select! {
                lasted = &mut running => break lasted,
                (flooded, unloaded) = async { (probe.measure().await, control.measure().await) } => {
                    busy.push(flooded);
                    calm.push(unloaded);
                }
            }
        }
    };
    let (busy, calm) = (median(busy), median(calm));
    // A starved client would wait for the end of the flood.
    assert!(
        busy < 5 * calm + Duration::from_millis(250),
        "latency of another client: {busy:?}, on an unloaded gateway {calm:?}"
    );
    let grown = process.memory("VmHWM:").saturating_sub(before);
    assert!(grown < 16 * MIB, "RSS grew by {} KiB", grown / 1024);
    // The other client's connection may have reached its idle timeout meanwhile.
    let over = async || process.metric("stepgate_connections").await <= 1.0;
    until("the connections of all peers to end", over).await;
    Harm {
        lasted,
        fetches: origin.count() - fetches,
    }
}

/// Asserts that each peer of a flood is cut well before the timeouts, and that it causes at most so many
/// fetches.
async fn assert_cut(what: &str, opening: fn() -> Vec<u8>, round: Round, max_fetches: usize) {
    let reads = true;
    let harm = harm_of(
        Flood {
            opening,
            round,
            reads,
        },
        LONG_TIMEOUT,
    )
    .await;
    assert!(harm.lasted < AT_ONCE, "{what}: cut after {:?}", harm.lasted);
    assert!(
        harm.fetches <= max_fetches,
        "{what}: {} fetches",
        harm.fetches
    );
}

fn nothing() -> Vec<u8> {
    Vec::new()
}

/// Returns a request for a step of its own, on this stream.
fn request_on(stream: u32) -> Vec<u8> {
    request_frame("GET", &step(&format!("step_{stream}")), stream)
}

/// Each request is reset by the client at once (CVE-2023-44487).
#[tokio::test]
async fn c46_rapid_reset_is_cut() {
    let round: Round = |nth| {
        let streams = (0..100).map(|n| 2 * (100 * nth + n) + 1);
        let cancel = 8_u32.to_be_bytes();
        let frames = streams.map(|s| [request_on(s), frame(RST_STREAM, 0, s, &cancel)].concat());
        frames.collect::<Vec<_>>().concat()
    };
    assert_cut("rapid reset", nothing, round, 50 * PEERS).await;
}

/// Returns a request, and then an invalid frame on the same stream.
fn request_then(nth: u32, invalid: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let stream = 2 * nth + 1;
    [request_on(stream), invalid(stream)].concat()
}

/// The gateway resets each stream, because the peer sends an invalid frame on it (CVE-2025-8671).
#[tokio::test]
async fn c46_made_you_reset_is_cut() {
    let no_window: Round =
        |nth| request_then(nth, |s| frame(WINDOW_UPDATE, 0, s, &0_u32.to_be_bytes()));
    let too_much_window: Round = |nth| {
        request_then(nth, |s| {
            frame(WINDOW_UPDATE, 0, s, &(u32::MAX >> 1).to_be_bytes())
        })
    };
    let data_after_the_end: Round = |nth| request_then(nth, |s| frame(DATA, 0, s, b"more"));
    let its_own_parent: Round = |nth| {
        request_then(nth, |s| {
            frame(PRIORITY, 0, s, &[&s.to_be_bytes()[..], &[0]].concat())
        })
    };
    for (what, round) in [
        ("no window", no_window),
        ("too much window", too_much_window),
        ("data after the end", data_after_the_end),
        ("its own parent", its_own_parent),
    ] {
        assert_cut(what, nothing, round, 100 * PEERS).await;
    }
}

/// The head never ends (CVE-2024-27316).
#[tokio::test]
async fn c46_continuation_flood_is_cut() {
    let opening = || frame(HEADERS, 0, 1, &header_block("GET", STEP));
    let round: Round = |_| {
        let field = [&[0, 3, b'x', b'-', b'a', 100][..], &[b'a'; 100]].concat();
        frame(CONTINUATION, 0, 1, &field.repeat(100))
    };
    assert_cut("CONTINUATION", opening, round, 0).await;
}

/// The head never ends, and never grows.
#[tokio::test]
async fn c46_empty_continuation_flood_is_cut() {
    let opening = || frame(HEADERS, 0, 1, &header_block("GET", STEP));
    let round: Round = |_| frame(CONTINUATION, 0, 1, &[]).repeat(100);
    assert_cut("empty CONTINUATION", opening, round, 0).await;
}

/// The request body is endless and empty (CVE-2019-9518).
#[tokio::test]
async fn c46_empty_data_flood_is_cut() {
    let opening = || frame(HEADERS, END_HEADERS, 1, &header_block("GET", &step("data")));
    let round: Round = |_| frame(DATA, 0, 1, &[]).repeat(1000);
    assert_cut("empty DATA", opening, round, PEERS).await;
}

/// Each frame demands a reply (CVE-2019-9512, CVE-2019-9515). The gateway stops reading from a peer
/// that does not read the replies; a timeout ends the others.
#[tokio::test]
async fn c46_settings_and_ping_floods_are_bounded() {
    let settings: Round = |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]).repeat(1000);
    let pings: Round = |_| frame(PING, 0, 0, b"stepgate").repeat(1000);
    for round in [settings, pings] {
        for reads in [true, false] {
            let opening = nothing;
            let harm = harm_of(
                Flood {
                    opening,
                    round,
                    reads,
                },
                SHORT_TIMEOUT,
            )
            .await;
            assert!(harm.lasted < Duration::from_secs(5), "{:?}", harm.lasted);
            assert_eq!(harm.fetches, 0);
        }
    }
}

/// Each request is reset once its fetch has started. No limit on frames notices this, so the fetches
/// must end with their requests.
#[tokio::test]
async fn c46_slow_reset_leaves_no_fetches_behind() {
    const ROUNDS: u32 = 200;
    let origin = Origin::start().await;
    let process = Process::start(&origin, "", "info").await;
    origin.always(vec![Action::Stall]);
    let mut peer = FrameClient::connect(process.data, 65_535).await;
    for nth in 0..ROUNDS {
        let stream = 2 * nth + 1;
        assert!(peer.send(&request_on(stream)).await);
        origin
            .wait_for_requests(usize::try_from(nth).unwrap() + 1)
            .await;
        let cancel = 8_u32.to_be_bytes();
        assert!(peer.send(&frame(RST_STREAM, 0, stream, &cancel)).await);
    }
    origin
        .wait_for_hangups(usize::try_from(ROUNDS).unwrap())
        .await;
    let ended = async || process.metric("stepgate_upstream_in_flight").await == 0.0;
    until("all fetches to end", ended).await;
    drop(timeout(Duration::ZERO, peer.read_to_end()).await);
}
