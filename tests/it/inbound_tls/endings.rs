//! How a connection ends: with close_notify, so that nobody takes an end for an attack.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::caller::{Caller, With};
use super::{H2, secured};
use crate::support::certificates::{Authority, Flaw};
use crate::support::client::head;
use crate::support::{Action, Latch, Origin, Process, STEP, body, within};

/// Everything until the peer says close_notify; an end without it is a failure.
async fn until_goodbye(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut said = Vec::new();
    let ended = within("the end", stream.read_to_end(&mut said)).await;
    ended.expect("a close_notify before the end");
    said
}

async fn ask(stream: &mut TlsStream<TcpStream>, headers: &[(&str, &str)]) {
    let question = head("GET", STEP, "127.0.0.1", headers);
    stream.write_all(question.as_bytes()).await.unwrap();
}

/// Reads until the answer has come, as the origin gives it.
async fn answer(stream: &mut TlsStream<TcpStream>) {
    let mut said = Vec::new();
    while !said.ends_with(&body("completed")) {
        let more = within("an answer", stream.read_buf(&mut said)).await;
        assert_ne!(more.unwrap(), 0, "{}", String::from_utf8_lossy(&said));
    }
}

#[tokio::test]
async fn a_connection_that_was_to_be_closed_ends_with_a_close_notify() {
    let (authority, gateway, _origin) = secured("").await;
    let mut stream = Caller::new(&authority, With::default())
        .connect(&gateway)
        .await;
    ask(&mut stream, &[("connection", "close")]).await;
    assert!(
        until_goodbye(&mut stream)
            .await
            .ends_with(&body("completed"))
    );
}

#[tokio::test]
async fn an_idle_connection_ends_with_a_close_notify() {
    let (authority, gateway, _origin) = secured("[server]\nidle_timeout = \"300ms\"\n").await;
    let mut stream = Caller::new(&authority, With::default())
        .connect(&gateway)
        .await;
    ask(&mut stream, &[]).await;
    assert!(
        until_goodbye(&mut stream)
            .await
            .ends_with(&body("completed"))
    );
}

#[tokio::test]
async fn a_drain_closes_what_is_idle_at_once_and_answers_what_is_under_way() {
    let (authority, gateway, origin) = secured("").await;
    let caller = Caller::new(&authority, With::default());
    let mut unused = caller.connect(&gateway).await;
    let mut idle = caller.connect(&gateway).await;
    let unused_h2 = Caller::new(&authority, H2).h2(&gateway).await;
    ask(&mut idle, &[]).await;
    answer(&mut idle).await;
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let mut busy = caller.connect(&gateway).await;
    ask(&mut busy, &[("cache-control", "no-cache")]).await;
    origin.wait_for_requests(2).await;
    let ended = async {
        assert!(until_goodbye(&mut unused).await.is_empty());
        assert!(until_goodbye(&mut idle).await.is_empty());
        unused_h2.closed().await;
        gate.open();
        until_goodbye(&mut busy).await
    };
    let (said, ()) = tokio::join!(ended, gateway.drain());
    assert!(said.starts_with(b"HTTP/1.1 200") && said.ends_with(&body("completed")));
}

#[tokio::test]
async fn a_drain_does_not_wait_for_handshakes() {
    let (authority, gateway, _origin) = secured("").await;
    let hello = Caller::new(&authority, With::default()).hello();
    let mut silent = gateway.connect().await;
    let mut stalled = gateway.connect().await;
    stalled.send(hello).await;
    gateway.wait_for_connections(2).await;
    let since = Instant::now();
    gateway.drain().await;
    assert!(since.elapsed() < Duration::from_secs(3));
    silent.rest().await;
    stalled.rest().await;
}

#[tokio::test]
async fn a_drain_answers_whose_handshake_it_meets() {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let identity = authority.identity("server", Flaw::None);
    let process = Process::start(&origin, &identity.toml(), "info").await;
    let address = process.data;
    process.signal("STOP").await;
    let mut asked = JoinSet::new();
    for _ in 0..5 {
        let caller = Caller::new(&authority, With::default());
        // The kernel accepts it, and takes its first words.
        let tcp = TcpStream::connect(address).await.unwrap();
        asked.spawn(async move { caller.asks_on(tcp, STEP).await });
    }
    process.terminate().await;
    process.signal("CONT").await;
    while let Some(answer) = asked.join_next().await {
        let (said, ended) = answer.unwrap();
        ended.unwrap();
        assert!(said.ends_with(&body("completed")));
    }
    assert!(process.exit().await.0.success());
}
