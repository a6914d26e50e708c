//! Timeouts and permits of forwarded requests.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::ALL;
use super::streams::{UpstreamListener, get, post};
use crate::support::client::head;
use crate::support::{Action, Gateway, Origin, STEP, respond};

const SHORT: Duration = Duration::from_millis(300);

fn with(upstream: &str) -> String {
    format!("{ALL}\n[upstream]\n{upstream}")
}

#[tokio::test]
async fn a_forwarded_response_must_start_in_time_and_may_then_take_long() {
    let toml = with("timeout = \"300ms\"");
    let (listener, gateway) = UpstreamListener::start(&toml).await;
    let mut client = gateway.connect().await;
    client.send(get("/v1/models")).await;
    let mut upstream = listener.accept().await;
    let began = Instant::now();
    let response = client.response().await;
    assert_eq!(response.code().as_deref(), Some("upstream_timeout"));
    assert!(began.elapsed() < 10 * SHORT);
    assert!(upstream.closes_within(10 * SHORT).await);
    client.send(get("/v1/models")).await;
    let mut upstream = listener.accept().await;
    upstream.text_before("\r\n\r\n").await;
    upstream
        .send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n")
        .await;
    for byte in ["1", "2", "3", "4", "5", "6"] {
        sleep(SHORT / 2).await;
        upstream.send(byte).await;
    }
    assert_eq!(client.response().await.text(), "123456");
}

#[tokio::test]
async fn an_upload_in_progress_is_not_cut_by_the_timeout() {
    let toml = with("timeout = \"300ms\"");
    let (listener, gateway) = UpstreamListener::start(&toml).await;
    let mut client = gateway.connect().await;
    let framing = [("content-length", "6")];
    client.send(post(&framing)).await;
    let mut upstream = listener.accept().await;
    upstream.text_before("\r\n\r\n").await;
    for byte in ["1", "2", "3", "4", "5", "6"] {
        sleep(SHORT / 2).await;
        client.send(byte).await;
    }
    assert_eq!(upstream.bytes(6).await, b"123456");
    upstream.send(respond("200 OK", &[], "{}")).await;
    assert_eq!(client.response_to("POST").await.status, 200);
}

#[tokio::test]
async fn a_pause_of_the_client_does_not_count_against_the_upstream() {
    let toml = with("timeout = \"300ms\"");
    let (listener, gateway) = UpstreamListener::start(&toml).await;
    let request = post(&[("content-length", "6")]) + "123";
    let (mut client, mut upstream) = listener.request(&gateway, request).await;
    assert_eq!(upstream.bytes(3).await, b"123");
    sleep(4 * SHORT).await;
    client.send("456").await;
    assert_eq!(upstream.bytes(3).await, b"456");
    upstream.send(respond("200 OK", &[], "{}")).await;
    assert_eq!(client.response_to("POST").await.status, 200);
}

#[tokio::test]
async fn an_idle_stream_is_cut_at_stream_idle_timeout() {
    let toml = with("stream_idle_timeout = \"300ms\"");
    let (listener, gateway) = UpstreamListener::start(&toml).await;
    let (mut client, mut upstream) = listener.request(&gateway, get("/v1/models")).await;
    upstream
        .send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
        .await;
    for _ in 0..4 {
        sleep(SHORT / 2).await;
        upstream.send("x").await;
    }
    let broken = client.try_response("GET").await.unwrap_err();
    assert_eq!(
        (broken.status, broken.body.as_slice()),
        (Some(200), &b"xxxx"[..])
    );
    assert!(upstream.closes_within(10 * SHORT).await);
}

#[tokio::test]
async fn an_idle_upload_is_rejected_at_stream_idle_timeout() {
    let toml = with("stream_idle_timeout = \"300ms\"\ntimeout = \"5s\"");
    let (listener, gateway) = UpstreamListener::start(&toml).await;
    let mut client = gateway.connect().await;
    let framing = [("content-length", "100")];
    client.send(post(&framing) + "x").await;
    let mut upstream = listener.accept().await;
    let response = client.response_to("POST").await;
    assert_eq!(response.code().as_deref(), Some("invalid_request"));
    assert_eq!(response.header("connection"), Some("close"));
    assert!(upstream.closes_within(10 * SHORT).await);
    assert!(client.closes_within(10 * SHORT).await);
}

#[tokio::test]
async fn an_endless_error_body_is_cut() {
    let toml = with("timeout = \"300ms\"");
    let (listener, gateway) = UpstreamListener::start(&toml).await;
    let (mut client, mut upstream) = listener.request(&gateway, get("/v1/models")).await;
    upstream
        .send("HTTP/1.1 500 Oh\r\ncontent-length: 100\r\n\r\nx")
        .await;
    let response = client.response().await;
    assert_eq!(response.code().as_deref(), Some("upstream_timeout"));
}

#[tokio::test]
async fn the_idle_timeout_of_a_connection_starts_after_a_streamed_body() {
    let origin = Origin::start().await;
    let toml = format!("{ALL}\nheader_timeout = \"300ms\"\nidle_timeout = \"5s\"");
    let gateway = Gateway::start(&origin, &toml).await;
    let mut client = gateway.connect().await;
    let framing = [("content-length", "3"), ("connection", "keep-alive")];
    // The origin reads the body as another request, and so has to close.
    origin.next(vec![
        Action::Send(respond("200 OK", &[("connection", "close")], "{}")),
        Action::Close,
    ]);
    client
        .send(head("POST", "/v1/x", "127.0.0.1", &framing) + "abc")
        .await;
    assert_eq!(client.response_to("POST").await.status, 200);
    sleep(3 * SHORT).await;
    client.send(get(STEP)).await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn streams_take_no_permits_from_fetches() {
    let toml = with("max_in_flight = 1\nqueue_timeout = \"0s\"");
    let (listener, gateway) = UpstreamListener::start(&toml).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let (mut client, mut upstream) = listener.request(&gateway, get("/v1/events")).await;
        upstream
            .send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx")
            .await;
        client.text_before("\r\n\r\n").await;
        streams.push((client, upstream));
    }
    let mut client = gateway.send_get(STEP, &[]).await;
    let mut upstream = listener.accept().await;
    upstream.text_before("\r\n\r\n").await;
    upstream
        .send(respond("200 OK", &[], crate::support::body("completed")))
        .await;
    assert!(client.response().await.is_stored());
}

#[tokio::test]
async fn a_drain_lets_a_stream_end() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    let (mut client, mut upstream) = listener.request(&gateway, get("/v1/events")).await;
    upstream
        .send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc")
        .await;
    client.text_before("\r\n\r\n").await;
    let finish = async {
        client.bytes(3).await;
        sleep(SHORT).await;
        upstream.send("def").await;
        assert_eq!(client.bytes(3).await, b"def");
    };
    tokio::join!(gateway.drain(), finish);
}
