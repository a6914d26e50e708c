//! HTTP/2 peers that keep a connection open without using it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::frames::{DATA, FrameClient, HEADERS, PING, frame, request_frame};
use crate::support::{
    Action, Gateway, Origin, Process, RawClient, STEP, body, client, until, within,
};

const SHORT: &str = "[server]\nheader_timeout = \"400ms\"\nidle_timeout = \"400ms\"\n";

/// The time within which an expired connection is closed, on a busy machine too.
const SOON: Duration = Duration::from_secs(4);

async fn ask(address: SocketAddr, window: u32, method: &str) -> FrameClient {
    let mut peer = FrameClient::connect(address, window).await;
    peer.send(&request_frame(method, STEP, 1)).await;
    peer
}

/// Returns whether the gateway closes before `SOON` although it is sent `pings` PINGs again and again.
async fn is_cut_despite_pings(peer: &mut FrameClient, at_once: usize) -> bool {
    let ping = frame(PING, 0, 0, b"stepgate").repeat(at_once);
    let pinging = async {
        // An error ends the connection too.
        while peer.send(&ping).await {
            if peer.is_closed_within(Duration::from_millis(50)).await {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, pinging).await.is_ok()
}

/// A client that grants no window is cut, for a stored body and for one that was just fetched.
#[tokio::test]
async fn a_zero_window_reader_is_cut_although_it_pings() {
    for stored in [true, false] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, SHORT).await;
        if stored {
            gateway.get(STEP).await;
        } else {
            origin.set_status("in_progress");
        }
        let mut peer = ask(gateway.address(), 0, "GET").await;
        assert!(is_cut_despite_pings(&mut peer, 1).await, "stored: {stored}");
        assert_eq!(peer.payloads(HEADERS, 1).len(), 1, "stored: {stored}");
        gateway.wait_for_connections(0).await;
    }
}

/// A PING starts no request head, so the connection keeps its whole idle timeout.
#[tokio::test]
async fn pings_neither_extend_nor_shorten_the_idle_timeout() {
    let origin = Origin::start().await;
    let uneven = "[server]\nheader_timeout = \"200ms\"\nidle_timeout = \"1s\"\n";
    let gateway = Gateway::start(&origin, uneven).await;
    let start = Instant::now();
    let mut peer = ask(gateway.address(), 65_535, "GET").await;
    assert!(is_cut_despite_pings(&mut peer, 1).await);
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(peer.payloads(DATA, 1).concat(), body("completed"));
    gateway.wait_for_connections(0).await;
}

/// An error response to HEAD has no body, which hyper's HTTP/2 server would send. Requests rejected by a
/// drain are counted and logged like any failure.
#[tokio::test]
async fn a_head_request_rejected_by_a_drain_has_no_body_and_is_counted_and_logged() {
    let origin = Origin::start().await;
    origin.always(vec![Action::Stall]);
    let drain = "[server]\ndrain_timeout = \"3s\"\n[log]\naccess = \"all\"\n";
    let gateway = Process::start(&origin, drain, "info").await;
    let mut peer = ask(gateway.data, 65_535, "HEAD").await;
    // A peer that never reads keeps the process alive until the drain ends, so metrics can be read.
    let mut stuck = RawClient::connect(gateway.data).await;
    stuck.send("GET /v1/half").await;
    origin.wait_for_requests(1).await;
    gateway.terminate().await;

    let failed = "stepgate_requests_total{rule=\"run-step\",outcome=\"error\"} 1";
    let counted = async || {
        let metrics = client::send(gateway.admin, "GET", "/metrics", &[]).await;
        metrics.is_ok_and(|metrics| metrics.text().contains(failed))
    };
    until("the refusal to be counted", counted).await;
    within("the end of the drain", peer.read_to_end()).await;
    assert_eq!(peer.payloads(HEADERS, 1).len(), 1, "no response");
    assert!(peer.payloads(DATA, 1).concat().is_empty(), "a body");
    let (_, output) = gateway.exit().await;
    let line = output
        .lines()
        .find(|line| line.contains("code=\"draining\""));
    let line = line.unwrap_or_else(|| panic!("no line of it in {output}"));
    assert!(
        line.contains("outcome=\"error\"") && line.contains("status=503"),
        "{line}"
    );
}

/// An idle peer has a few seconds to close, and not the whole `drain_timeout`.
#[tokio::test]
async fn an_idle_http2_peer_without_a_goaway_does_not_delay_a_drain() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut peer = ask(gateway.address(), 65_535, "GET").await;
    within("an answer", peer.read_until(|heard| heard.kind == DATA)).await;
    // The peer neither reads nor closes until the drain has ended.
    gateway.drain().await;
    drop(peer);
}

/// Several PONGs that are sent together are no response either.
#[tokio::test]
async fn pings_among_other_frames_do_not_extend_the_idle_timeout() {
    for window in [0, 65_535] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, SHORT).await;
        let mut peer = ask(gateway.address(), window, "GET").await;
        assert!(is_cut_despite_pings(&mut peer, 4).await, "window {window}");
    }
}
