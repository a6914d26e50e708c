//! Connections end with close_notify, so that a client can tell the end from a truncation attack.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::client::{ClientOptions, TlsClient};
use super::{H2, start_tls};
use crate::support::certificates::{Authority, Flaw};
use crate::support::client::head;
use crate::support::{Action, Latch, Origin, Process, STEP, body, within};

/// Returns all bytes up to close_notify, and panics if the connection ends without it.
async fn read_to_close_notify(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut received = Vec::new();
    let ended = within("the end", stream.read_to_end(&mut received)).await;
    ended.expect("a close_notify before the end");
    received
}

async fn send_request(stream: &mut TlsStream<TcpStream>, headers: &[(&str, &str)]) {
    let request = head("GET", STEP, "127.0.0.1", headers);
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// Reads the origin's response.
async fn read_response(stream: &mut TlsStream<TcpStream>) {
    let mut received = Vec::new();
    while !received.ends_with(&body("completed")) {
        let more = within("a response", stream.read_buf(&mut received)).await;
        assert_ne!(more.unwrap(), 0, "{}", String::from_utf8_lossy(&received));
    }
}

#[tokio::test]
async fn connection_close_ends_with_close_notify() {
    let (authority, gateway, _origin) = start_tls("").await;
    let mut stream = TlsClient::new(&authority, ClientOptions::default())
        .connect(&gateway)
        .await;
    send_request(&mut stream, &[("connection", "close")]).await;
    assert!(
        read_to_close_notify(&mut stream)
            .await
            .ends_with(&body("completed"))
    );
}

#[tokio::test]
async fn idle_connection_ends_with_close_notify() {
    let (authority, gateway, _origin) = start_tls("[server]\nidle_timeout = \"300ms\"\n").await;
    let mut stream = TlsClient::new(&authority, ClientOptions::default())
        .connect(&gateway)
        .await;
    send_request(&mut stream, &[]).await;
    assert!(
        read_to_close_notify(&mut stream)
            .await
            .ends_with(&body("completed"))
    );
}

#[tokio::test]
async fn drain_closes_idle_connections_at_once_and_answers_active_requests() {
    let (authority, gateway, origin) = start_tls("").await;
    let client = TlsClient::new(&authority, ClientOptions::default());
    let mut unused = client.connect(&gateway).await;
    let mut idle = client.connect(&gateway).await;
    let unused_h2 = TlsClient::new(&authority, H2).h2(&gateway).await;
    send_request(&mut idle, &[]).await;
    read_response(&mut idle).await;
    let latch = Latch::closed();
    origin.next(vec![Action::Wait(latch.clone()), Action::Respond]);
    let mut busy = client.connect(&gateway).await;
    send_request(&mut busy, &[("cache-control", "no-cache")]).await;
    origin.wait_for_requests(2).await;
    let ended = async {
        assert!(read_to_close_notify(&mut unused).await.is_empty());
        assert!(read_to_close_notify(&mut idle).await.is_empty());
        unused_h2.closed().await;
        latch.open();
        read_to_close_notify(&mut busy).await
    };
    let (received, ()) = tokio::join!(ended, gateway.drain());
    assert!(received.starts_with(b"HTTP/1.1 200") && received.ends_with(&body("completed")));
}

#[tokio::test]
async fn drain_does_not_wait_for_stalled_handshakes() {
    let (authority, gateway, _origin) = start_tls("").await;
    let hello = TlsClient::new(&authority, ClientOptions::default()).hello();
    let mut silent = gateway.connect().await;
    let mut stalled = gateway.connect().await;
    stalled.send(hello).await;
    gateway.wait_for_connections(2).await;
    let start = Instant::now();
    gateway.drain().await;
    assert!(start.elapsed() < Duration::from_secs(3));
    silent.rest().await;
    stalled.rest().await;
}

#[tokio::test]
async fn drain_answers_a_request_whose_handshake_has_begun() {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let identity = authority.identity("server", Flaw::None);
    let process = Process::start(&origin, &identity.toml(), "info").await;
    let address = process.data;
    process.signal("STOP").await;
    let mut responses = JoinSet::new();
    for _ in 0..5 {
        let client = TlsClient::new(&authority, ClientOptions::default());
        // The process is stopped, so the kernel accepts the connection and receives the ClientHello.
        let tcp = TcpStream::connect(address).await.unwrap();
        responses.spawn(async move { client.request_on(tcp, STEP).await });
    }
    process.terminate().await;
    process.signal("CONT").await;
    while let Some(response) = responses.join_next().await {
        let (received, ended) = response.unwrap();
        ended.unwrap();
        assert!(received.ends_with(&body("completed")));
    }
    assert!(process.exit().await.0.success());
}
