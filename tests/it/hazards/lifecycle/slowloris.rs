//! Slowloris: connections that never complete a request head (items 42 and 43).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::client::head;
use crate::support::hyper_server::HyperServer;
use crate::support::{Gateway, Origin, RawClient, STEP};

const SHORT_TIMEOUT: &str = "[server]\nheader_timeout = \"300ms\"\n";

/// Asserts that the gateway closes the connection at the header timeout, and not much later.
async fn assert_closed_after_300ms(client: &mut RawClient, since: Instant, what: &str) {
    client.rest().await;
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(250), "{what}: {took:?}");
    assert!(took < Duration::from_secs(3), "{what}: {took:?}");
}

#[tokio::test]
async fn c42_slowloris_half_a_head_is_closed_at_the_header_timeout() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, SHORT_TIMEOUT).await;
    for half in ["G", "GET /v1", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "] {
        let since = Instant::now();
        let mut client = gateway.connect().await;
        client.send(half).await;
        assert_closed_after_300ms(&mut client, since, half).await;
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c42_slowloris_half_of_a_later_head_is_closed_at_the_header_timeout() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, SHORT_TIMEOUT).await;
    let mut client = gateway.connect().await;
    client.send(head("GET", STEP, "127.0.0.1", &[])).await;
    client.response().await;
    let since = Instant::now();
    client.send("GET /v1/thr").await;
    assert_closed_after_300ms(&mut client, since, "a later head").await;
}

#[tokio::test]
async fn c42_slowloris_drip_does_not_extend_the_header_timeout() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, SHORT_TIMEOUT).await;
    let since = Instant::now();
    let mut client = gateway.connect().await;
    // At this pace the head would take more than three seconds.
    for byte in head("GET", STEP, "127.0.0.1", &[]).bytes() {
        client.send([byte]).await;
        if client.closes_within(Duration::from_millis(40)).await {
            break;
        }
    }
    assert!(since.elapsed() < Duration::from_secs(2));
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c43_silent_connection_is_closed_at_the_header_timeout() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, SHORT_TIMEOUT).await;
    let since = Instant::now();
    let mut client = gateway.connect().await;
    assert_closed_after_300ms(&mut client, since, "silence").await;
}

const HALF_PREFACES: [&str; 3] = ["P", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n"];

#[tokio::test]
async fn c43_half_an_http2_preface_is_closed_at_the_header_timeout() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, SHORT_TIMEOUT).await;
    for half in HALF_PREFACES {
        let since = Instant::now();
        let mut client = gateway.connect().await;
        client.send(half).await;
        assert_closed_after_300ms(&mut client, since, half).await;
    }
}

/// Waits three times as long as the header timeout above.
#[tokio::test]
async fn c43_bare_hyper_never_closes_a_silent_connection() {
    let bare = HyperServer::start().await;
    let beginnings = [""].into_iter().chain(HALF_PREFACES);
    let mut connections = Vec::new();
    for sent in beginnings {
        let mut client = RawClient::connect(bare.address).await;
        client.send(sent).await;
        connections.push((sent, client));
    }
    sleep(Duration::from_secs(1)).await;
    for (sent, client) in &mut connections {
        assert!(
            !client.closes_within(Duration::ZERO).await,
            "closed after {sent:?}"
        );
    }
}
