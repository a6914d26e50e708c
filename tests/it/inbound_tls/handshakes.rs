//! Handshakes that stall, fail or never begin: each ends in time, and none delays another connection.

use std::time::Duration;

use tokio::time::Instant;
use tokio_rustls::rustls::ContentType;

use super::client::{ClientOptions, TlsClient};
use super::start_tls;
use crate::support::certificates::{Authority, Flaw};
use crate::support::client::head;
use crate::support::{Origin, Process, RawClient, STEP, body, within};

const SHORT_TIMEOUT: &str = "[server]\nheader_timeout = \"400ms\"\n";

const FATAL: u8 = 2;
const PROTOCOL_VERSION: u8 = 70;

/// Asserts that the bytes are one fatal alert (RFC 8446 section 6), and returns its description.
#[track_caller]
fn assert_is_fatal_alert(received: &[u8]) -> u8 {
    assert_eq!(received.len(), 7, "{received:?}");
    assert_eq!(
        (received[0], received[5]),
        (u8::from(ContentType::Alert), FATAL)
    );
    received[6]
}

/// Returns the bytes that a client sends before it stalls.
fn hello_prefixes(hello: &[u8]) -> [&[u8]; 4] {
    [b"", &hello[..1], &hello[..hello.len() / 2], hello]
}

#[tokio::test]
async fn stalled_handshake_is_closed_at_the_header_timeout() {
    let (authority, gateway, _origin) = start_tls(SHORT_TIMEOUT).await;
    let client = TlsClient::new(&authority, ClientOptions::default());
    let start = Instant::now();
    let mut stalled = Vec::new();
    for prefix in hello_prefixes(&client.hello()) {
        let mut raw = gateway.connect().await;
        raw.send(prefix).await;
        stalled.push(raw);
    }
    // A client that is silent after its handshake gets no more time.
    stalled.push(client.raw(&gateway).await);
    for raw in &mut stalled {
        raw.rest().await;
        assert!(start.elapsed() >= Duration::from_millis(350));
    }
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn stalled_handshake_does_not_delay_other_connections() {
    let (authority, gateway, _origin) = start_tls("").await;
    let client = TlsClient::new(&authority, ClientOptions::default());
    let mut stalled = Vec::new();
    for prefix in hello_prefixes(&client.hello()) {
        let mut raw = gateway.connect().await;
        raw.send(prefix).await;
        stalled.push(raw);
    }
    gateway.wait_for_connections(stalled.len()).await;
    let (received, ended) = client.request(gateway.address(), STEP).await;
    assert!(received.ends_with(&body("completed")) && ended.is_ok());
    gateway.wait_for_connections(stalled.len()).await;
}

#[tokio::test]
async fn dripped_hello_does_not_extend_the_header_timeout() {
    let (authority, gateway, _origin) = start_tls(SHORT_TIMEOUT).await;
    let hello = TlsClient::new(&authority, ClientOptions::default()).hello();
    let start = Instant::now();
    let mut raw = gateway.connect().await;
    // At this rate the ClientHello would take more than 3 s.
    for byte in hello {
        raw.send([byte]).await;
        if raw.closes_within(Duration::from_millis(40)).await {
            break;
        }
    }
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn handshake_counts_as_a_connection() {
    let (_authority, gateway, _origin) = start_tls("").await;
    let silent = gateway.connect().await;
    gateway.wait_for_connections(1).await;
    drop(silent);
    gateway.wait_for_connections(0).await;
}

#[tokio::test]
async fn plain_http_gets_an_alert_and_no_response() {
    let (_authority, gateway, origin) = start_tls("").await;
    let mut raw = gateway.connect().await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    assert_is_fatal_alert(&raw.rest().await);
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn tls_1_1_is_rejected() {
    let (authority, gateway, _origin) = start_tls("").await;
    let with = ClientOptions {
        only_tls_1_2: true,
        ..ClientOptions::default()
    };
    let mut hello = TlsClient::new(&authority, with).hello();
    for (offset, version) in TLS_1_2 {
        let found = hello
            .windows(version.len())
            .skip(offset)
            .position(|window| window == version);
        let end = offset + found.expect("the hello contains its version") + version.len();
        hello[end - 1] = 2;
    }
    let mut raw = gateway.connect().await;
    raw.send(hello).await;
    assert_eq!(assert_is_fatal_alert(&raw.rest().await), PROTOCOL_VERSION);
}

/// The places where a ClientHello has version 1.2, each with the offset from which to search: after the headers
/// of record and handshake (RFC 5246 section 7.4.1.2), and in `supported_versions` (RFC 8446 section 4.2.1).
/// A 2 for the last byte means version 1.1.
const TLS_1_2: [(usize, &[u8]); 2] = [(9, &[3, 3]), (43, &[0, 43, 0, 3, 2, 3, 3])];

#[tokio::test]
async fn failed_handshake_is_logged_once_and_the_key_never() {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let identity = authority.identity("server", Flaw::None);
    let gateway = Process::start(&origin, &identity.toml(), "trace").await;
    let mut raw = RawClient::connect(gateway.data).await;
    raw.send("nonsense\r\n\r\n").await;
    raw.rest().await;
    let client = TlsClient::new(&authority, ClientOptions::default());
    assert!(client.request(gateway.data, STEP).await.1.is_ok());
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
