//! Handshakes that stall, fail or never begin: they end in time and disturb nobody.

use std::time::Duration;

use tokio::time::Instant;
use tokio_rustls::rustls::ContentType;

use super::caller::{Caller, With};
use super::secured;
use crate::support::certificates::{Authority, Flaw};
use crate::support::client::head;
use crate::support::{Origin, Process, RawClient, STEP, body, within};

const IMPATIENT: &str = "[server]\nheader_timeout = \"400ms\"\n";

const FATAL: u8 = 2;
const PROTOCOL_VERSION: u8 = 70;

/// RFC 8446 section 6: one alert and nothing else.
#[track_caller]
fn assert_is_fatal_alert(said: &[u8]) -> u8 {
    assert_eq!(said.len(), 7, "{said:?}");
    assert_eq!((said[0], said[5]), (u8::from(ContentType::Alert), FATAL));
    said[6]
}

/// What a peer says before it stalls.
fn openings(hello: &[u8]) -> [&[u8]; 4] {
    [b"", &hello[..1], &hello[..hello.len() / 2], hello]
}

#[tokio::test]
async fn who_does_not_finish_the_handshake_is_cut_at_the_header_timeout() {
    let (authority, gateway, _origin) = secured(IMPATIENT).await;
    let caller = Caller::new(&authority, With::default());
    let since = Instant::now();
    let mut stalled = Vec::new();
    for opening in openings(&caller.hello()) {
        let mut raw = gateway.connect().await;
        raw.send(opening).await;
        stalled.push(raw);
    }
    // Silence after the handshake is no better; the time counts from the beginning.
    stalled.push(caller.raw(&gateway).await);
    for raw in &mut stalled {
        raw.rest().await;
        assert!(since.elapsed() >= Duration::from_millis(350));
    }
    assert!(since.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn others_are_served_while_a_handshake_stalls() {
    let (authority, gateway, _origin) = secured("").await;
    let caller = Caller::new(&authority, With::default());
    let mut stalled = Vec::new();
    for opening in openings(&caller.hello()) {
        let mut raw = gateway.connect().await;
        raw.send(opening).await;
        stalled.push(raw);
    }
    gateway.wait_for_connections(stalled.len()).await;
    let (said, ended) = caller.asks(gateway.address(), STEP).await;
    assert!(said.ends_with(&body("completed")) && ended.is_ok());
    gateway.wait_for_connections(stalled.len()).await;
}

#[tokio::test]
async fn a_dripped_hello_gains_no_time() {
    let (authority, gateway, _origin) = secured(IMPATIENT).await;
    let hello = Caller::new(&authority, With::default()).hello();
    let since = Instant::now();
    let mut raw = gateway.connect().await;
    // At this pace it would take more than three seconds.
    for byte in hello {
        raw.send([byte]).await;
        if raw.closes_within(Duration::from_millis(40)).await {
            break;
        }
    }
    assert!(since.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_handshake_counts_as_a_connection() {
    let (_authority, gateway, _origin) = secured("").await;
    let silent = gateway.connect().await;
    gateway.wait_for_connections(1).await;
    drop(silent);
    gateway.wait_for_connections(0).await;
}

#[tokio::test]
async fn plain_http_gets_an_alert_and_no_answer() {
    let (_authority, gateway, origin) = secured("").await;
    let mut raw = gateway.connect().await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    assert_is_fatal_alert(&raw.rest().await);
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn tls_1_1_is_refused() {
    let (authority, gateway, _origin) = secured("").await;
    let with = With {
        only_tls_1_2: true,
        ..With::default()
    };
    let mut hello = Caller::new(&authority, with).hello();
    for (at, part) in TLS_1_2 {
        let found = hello.windows(part.len()).skip(at).position(|w| w == part);
        let end = at + found.expect("the hello names its version") + part.len();
        hello[end - 1] = 2;
    }
    let mut raw = gateway.connect().await;
    raw.send(hello).await;
    assert_eq!(assert_is_fatal_alert(&raw.rest().await), PROTOCOL_VERSION);
}

/// Where a hello names 1.2 as its version, with the offset from which to look: behind the headers
/// of record and handshake (RFC 5246 section 7.4.1.2), and in `supported_versions` (RFC 8446
/// section 4.2.1). With 2 for the last byte it is 1.1.
const TLS_1_2: [(usize, &[u8]); 2] = [(9, &[3, 3]), (43, &[0, 43, 0, 3, 2, 3, 3])];

#[tokio::test]
async fn a_failed_handshake_is_a_line_and_no_log_has_the_key() {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let identity = authority.identity("server", Flaw::None);
    let gateway = Process::start(&origin, &identity.toml(), "trace").await;
    let mut raw = RawClient::connect(gateway.data).await;
    raw.send("nonsense\r\n\r\n").await;
    raw.rest().await;
    let caller = Caller::new(&authority, With::default());
    assert!(caller.asks(gateway.data, STEP).await.1.is_ok());
    gateway.terminate().await;
    let (_, output) = within("the end", gateway.exit()).await;
    let mut lines = output.lines().filter(|line| line.contains("handshake"));
    let line = lines.next().unwrap();
    assert!(line.contains("INFO") && lines.next().is_none(), "{output}");
    let key = std::fs::read_to_string(identity.key).unwrap();
    for line in key.lines().filter(|line| !line.starts_with('-')) {
        assert!(!output.contains(line));
    }
}
