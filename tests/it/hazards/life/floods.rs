//! Floods of HTTP/2 frames, from several peers at once: each is cut, or costs nothing that counts,
//! and ends.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, FrameClient, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, header_block, request_frame,
};
use crate::support::latency::LatencyProbe;
use crate::support::{Action, Origin, Process, STEP, step, until, within};

const MIB: u64 = 1024 * 1024;

const PEERS: usize = 4;

/// Who has asked nothing by then is cut whatever else it does; so every flood ends.
const IMPATIENT: &str = "[server]\nheader_timeout = \"1s\"\nidle_timeout = \"1s\"\n";

/// A flood that is cut ends well before the limits would end it.
const AT_ONCE: Duration = Duration::from_millis(700);

/// What a peer does, over and over: the frames of its nth round.
type Round = fn(u32) -> Vec<u8>;

#[derive(Clone, Copy)]
struct Flood {
    /// What comes first.
    opening: fn() -> Vec<u8>,
    round: Round,
    /// Whether it reads what it is sent.
    reads: bool,
}

/// Each peer floods until it is cut; how long the slowest took.
async fn drown(address: SocketAddr, flood: Flood) -> Duration {
    let start = Instant::now();
    let mut peers = JoinSet::new();
    for _ in 0..PEERS {
        peers.spawn(async move {
            let peer = FrameClient::connect(address, 65_535).await;
            let (mut reads, mut writes) = peer.io.into_split();
            let listen = async {
                let mut chunk = vec![0; 64 * 1024];
                // An error is an end as well.
                while flood.reads && matches!(reads.read(&mut chunk).await, Ok(1..)) {}
                if !flood.reads {
                    std::future::pending::<()>().await;
                }
            };
            let speak = async {
                let mut spoken = writes.write_all(&(flood.opening)()).await;
                let mut nth = 0;
                while spoken.is_ok() {
                    spoken = writes.write_all(&(flood.round)(nth)).await;
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
    /// How long the flood lasted.
    lasted: Duration,
    /// Fetches that it caused.
    fetches: usize,
}

/// Floods a gateway, and looks at what it costs the gateway and its other callers.
async fn harm(flood: Flood) -> Harm {
    let origin = Origin::start().await;
    let process = Process::start(&origin, IMPATIENT, "info").await;
    let mut pulse = LatencyProbe::start(process.data, STEP).await;
    let calm = pulse.median_of(50).await;
    origin.always(vec![Action::Stall]);
    let (before, fetches) = (process.memory("VmRSS:"), origin.count());

    let mut beats = Vec::new();
    let lasted = {
        let drown = within("an end of the flood", drown(process.data, flood));
        let mut drown = std::pin::pin!(drown);
        loop {
            tokio::select! {
                lasted = &mut drown => break lasted,
                beat = pulse.measure() => beats.push(beat),
            }
        }
    };
    beats.sort();
    let busy = beats.get(beats.len() / 2).copied().unwrap_or_default();
    // A busy machine adds to it; who is starved waits for the end of the flood.
    assert!(
        busy < 5 * calm + Duration::from_millis(250),
        "others: {calm:?}, then {busy:?}"
    );
    let grown = process.memory("VmHWM:").saturating_sub(before);
    assert!(grown < 16 * MIB, "{} KiB", grown / 1024);
    // And nothing is left of it; the beating connection may have come to its end meanwhile.
    let over = async || process.metric("stepgate_connections").await <= 1.0;
    until("all of the peers to be gone", over).await;
    Harm {
        lasted,
        fetches: origin.count() - fetches,
    }
}

fn nothing() -> Vec<u8> {
    Vec::new()
}

/// A question to a step of its own, on a stream of its own.
fn fresh_question(stream: u32) -> Vec<u8> {
    request_frame("GET", &step(&format!("step_{stream}")), stream)
}

/// Asked and taken back in one breath.
#[tokio::test]
async fn c46_rapid_reset_is_cut() {
    let harm = harm(Flood {
        opening: nothing,
        round: |nth| {
            let streams = (0..100).map(|n| 2 * (100 * nth + n) + 1);
            let cancel = 8_u32.to_be_bytes();
            let asked =
                streams.map(|s| [fresh_question(s), frame(RST_STREAM, 0, s, &cancel)].concat());
            asked.collect::<Vec<_>>().concat()
        },
        reads: true,
    })
    .await;
    assert!(harm.lasted < AT_ONCE, "{:?}", harm.lasted);
    assert!(harm.fetches <= 50 * PEERS, "{} fetches", harm.fetches);
}

/// Asked, and then something wrong on the same stream.
fn asked_wrongly(nth: u32, wrong: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let stream = 2 * nth + 1;
    [fresh_question(stream), wrong(stream)].concat()
}

/// Taken back by the gateway, for what the peer does on the stream next.
#[tokio::test]
async fn c46_made_you_reset_is_cut() {
    let no_window: Round =
        |nth| asked_wrongly(nth, |s| frame(WINDOW_UPDATE, 0, s, &0_u32.to_be_bytes()));
    let too_much_window: Round = |nth| {
        asked_wrongly(nth, |s| {
            frame(WINDOW_UPDATE, 0, s, &(u32::MAX >> 1).to_be_bytes())
        })
    };
    let data_after_the_end: Round = |nth| asked_wrongly(nth, |s| frame(DATA, 0, s, b"more"));
    let its_own_parent: Round = |nth| {
        asked_wrongly(nth, |s| {
            frame(PRIORITY, 0, s, &[&s.to_be_bytes()[..], &[0]].concat())
        })
    };
    for (what, round) in [
        ("no window", no_window),
        ("too much window", too_much_window),
        ("data after the end", data_after_the_end),
        ("its own parent", its_own_parent),
    ] {
        let (opening, reads) = (nothing, true);
        let harm = harm(Flood {
            opening,
            round,
            reads,
        })
        .await;
        assert!(harm.lasted < AT_ONCE, "{what}: {:?}", harm.lasted);
        assert!(
            harm.fetches <= 100 * PEERS,
            "{what}: {} fetches",
            harm.fetches
        );
    }
}

/// A head that never ends.
#[tokio::test]
async fn c46_a_continuation_flood_is_cut() {
    let harm = harm(Flood {
        opening: || frame(HEADERS, 0, 1, &header_block("GET", STEP)),
        round: |_| {
            let field = [&[0, 3, b'x', b'-', b'a', 100][..], &[b'a'; 100]].concat();
            frame(CONTINUATION, 0, 1, &field.repeat(100))
        },
        reads: true,
    })
    .await;
    assert!(harm.lasted < AT_ONCE, "{:?}", harm.lasted);
    assert_eq!(harm.fetches, 0);
}

/// And one that never grows.
#[tokio::test]
async fn c46_a_flood_of_empty_continuations_is_cut() {
    let harm = harm(Flood {
        opening: || frame(HEADERS, 0, 1, &header_block("GET", STEP)),
        round: |_| frame(CONTINUATION, 0, 1, &[]).repeat(100),
        reads: true,
    })
    .await;
    assert!(harm.lasted < AT_ONCE, "{:?}", harm.lasted);
    assert_eq!(harm.fetches, 0);
}

/// A body without bytes, without end, of a request that is being answered.
#[tokio::test]
async fn c46_an_empty_data_flood_is_cut() {
    let harm = harm(Flood {
        opening: || frame(HEADERS, END_HEADERS, 1, &header_block("GET", &step("data"))),
        round: |_| frame(DATA, 0, 1, &[]).repeat(1000),
        reads: true,
    })
    .await;
    assert!(harm.lasted < AT_ONCE, "{:?}", harm.lasted);
    assert!(harm.fetches <= PEERS, "{} fetches", harm.fetches);
}

/// Each asks for an answer. Of those who do not read, no more is read than the answers have room
/// for; the others have their time and no more.
#[tokio::test]
async fn c46_settings_and_ping_floods_are_bounded_and_end() {
    let settings: Round = |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]).repeat(1000);
    let pings: Round = |_| frame(PING, 0, 0, b"stepgate").repeat(1000);
    for round in [settings, pings] {
        for reads in [true, false] {
            let opening = nothing;
            let harm = harm(Flood {
                opening,
                round,
                reads,
            })
            .await;
            assert!(harm.lasted < Duration::from_secs(5), "{:?}", harm.lasted);
            assert_eq!(harm.fetches, 0);
        }
    }
}

/// Asked, given time to depart, and taken back: no limit of frames notices. What counts is that the
/// fetches end with their questions.
#[tokio::test]
async fn c46_patient_resets_leave_no_fetches_behind() {
    const ROUNDS: u32 = 200;
    let origin = Origin::start().await;
    let process = Process::start(&origin, "", "info").await;
    origin.always(vec![Action::Stall]);
    let mut peer = FrameClient::connect(process.data, 65_535).await;
    for nth in 0..ROUNDS {
        let stream = 2 * nth + 1;
        assert!(peer.send(&fresh_question(stream)).await);
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
