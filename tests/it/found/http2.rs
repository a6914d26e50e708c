//! HTTP/2 peers that keep a connection without using it. They speak in raw frames: a client library
//! would be too polite.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::{Act, Gateway, Origin, Process, Raw, STEP, body, raw, until, within};

const SHORT: &str = "[server]\nheader_timeout = \"400ms\"\nidle_timeout = \"400ms\"\n";

/// Within this, a connection whose time is over is closed, on a busy machine too.
const SOON: Duration = Duration::from_secs(4);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The preface, with settings that give the answers this much room.
fn hello(window: u32) -> Vec<u8> {
    let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
    let settings = frame(SETTINGS, 0, 0, &setting);
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*settings].concat()
}

/// A question on that stream: indexed method and scheme, the rest in plain.
fn question(method: &str, stream: u8) -> Vec<u8> {
    let plain = |name: u8, value: &str| {
        let length = u8::try_from(value.len()).unwrap();
        [&[name, length][..], value.as_bytes()].concat()
    };
    let fields = [
        plain(2, method),
        vec![0x86],
        plain(4, STEP),
        plain(1, "localhost"),
    ];
    frame(HEADERS, 5, stream, &fields.concat())
}

/// A peer that answers pings as it must, and reads all that it is sent.
struct Peer {
    io: TcpStream,
    unread: Vec<u8>,
    /// Kind, stream, payload.
    heard: Vec<(u8, u8, Vec<u8>)>,
}

impl Peer {
    async fn ask(address: SocketAddr, window: u32, method: &str) -> Self {
        let mut io = TcpStream::connect(address).await.unwrap();
        let said = [hello(window), question(method, 1)].concat();
        io.write_all(&said).await.unwrap();
        Self {
            io,
            unread: Vec::new(),
            heard: Vec::new(),
        }
    }

    /// Whether the gateway closes before `SOON`, though it is pinged so many times at once, and again.
    async fn is_cut_despite_pings(&mut self, at_once: usize) -> bool {
        let ping = frame(PING, 0, 0, b"stepgate").repeat(at_once);
        let pinging = async {
            // An error is an end as well.
            while self.io.write_all(&ping).await.is_ok() {
                let listening = tokio::time::timeout(Duration::from_millis(50), self.listen());
                if listening.await.is_ok() {
                    break;
                }
            }
        };
        tokio::time::timeout(SOON, pinging).await.is_ok()
    }

    /// Listens until the gateway closes.
    async fn listen(&mut self) {
        while matches!(self.io.read_buf(&mut self.unread).await, Ok(1..)) {
            while let Some((head, rest)) = self.unread.split_at_checked(9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let (kind, flags, stream) = (head[3], head[4], head[8]);
                let Some(payload) = rest.get(..usize::try_from(length).unwrap()) else {
                    break;
                };
                let payload = payload.to_vec();
                self.unread.drain(..9 + payload.len());
                if (kind, flags & 1) == (PING, 0) {
                    // It may have closed meanwhile, which reading will tell.
                    drop(self.io.write_all(&frame(PING, 1, 0, &payload)).await);
                }
                self.heard.push((kind, stream, payload));
            }
        }
    }

    /// Payloads of that kind of frame on the question's stream.
    fn payloads(&self, kind: u8) -> Vec<&[u8]> {
        let ours = self.heard.iter().filter(|(k, s, _)| (*k, *s) == (kind, 1));
        ours.map(|(_, _, payload)| payload.as_slice()).collect()
    }
}

/// A stored body and one that was just fetched wait alike for a reader that gives them no room.
#[tokio::test]
async fn a_reader_without_a_window_is_cut_however_it_pings() {
    for stored in [true, false] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, SHORT).await;
        if stored {
            gateway.get(STEP).await;
        } else {
            origin.status("in_progress");
        }
        let mut peer = Peer::ask(gateway.address(), 0, "GET").await;
        assert!(peer.is_cut_despite_pings(1).await, "stored: {stored}");
        assert_eq!(peer.payloads(HEADERS).len(), 1, "stored: {stored}");
        gateway.has_open(0).await;
    }
}

/// A ping is no head that has begun either: the connection has its whole idle time.
#[tokio::test]
async fn pings_neither_keep_an_idle_connection_nor_cut_it_short() {
    let origin = Origin::start().await;
    let uneven = "[server]\nheader_timeout = \"200ms\"\nidle_timeout = \"1s\"\n";
    let gateway = Gateway::start(&origin, uneven).await;
    let start = Instant::now();
    let mut peer = Peer::ask(gateway.address(), 65_535, "GET").await;
    assert!(peer.is_cut_despite_pings(1).await);
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(peer.payloads(DATA).concat(), body("completed"));
    gateway.has_open(0).await;
}

/// HEAD has no body in a refusal either (hyper's HTTP/2 server would send it), and what the drain
/// refuses is counted and logged like any failure.
#[tokio::test]
async fn what_a_drain_refuses_is_bodiless_for_head_counted_and_logged() {
    let origin = Origin::start().await;
    origin.always(vec![Act::Hold]);
    let drain = "[server]\ndrain_timeout = \"3s\"\n[log]\naccess = \"all\"\n";
    let gateway = Process::start(&origin, drain, "info").await;
    let mut peer = Peer::ask(gateway.data, 65_535, "HEAD").await;
    // Never read from, it keeps the process until the end of the drain: time to ask for metrics.
    let mut stuck = Raw::connect(gateway.data).await;
    stuck.send("GET /v1/half").await;
    origin.arrived(1).await;
    gateway.terminate().await;

    let failed = "stepgate_requests_total{rule=\"run-step\",outcome=\"failed\"} 1";
    let counted = async || {
        let metrics = raw::ask(gateway.admin, "GET", "/metrics", &[]).await;
        metrics.is_ok_and(|metrics| metrics.text().contains(failed))
    };
    until("the refusal to be counted", counted).await;
    within("the end of the drain", peer.listen()).await;
    assert_eq!(peer.payloads(HEADERS).len(), 1, "an answer");
    assert!(peer.payloads(DATA).concat().is_empty(), "without a body");
    let (_, output) = gateway.exit().await;
    let line = output
        .lines()
        .find(|line| line.contains("code=\"draining\""));
    let line = line.unwrap_or_else(|| panic!("no line of it in {output}"));
    assert!(
        line.contains("outcome=\"failed\"") && line.contains("status=503"),
        "{line}"
    );
}

/// Pongs that leave together are no answer either.
#[tokio::test]
async fn pings_in_company_do_not_keep_a_connection() {
    for window in [0, 65_535] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, SHORT).await;
        let mut peer = Peer::ask(gateway.address(), window, "GET").await;
        assert!(peer.is_cut_despite_pings(4).await, "window {window}");
    }
}
