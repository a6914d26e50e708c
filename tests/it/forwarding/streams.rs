//! Forwarded bodies are streamed in both directions, and neither direction waits for the other.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::ALL;
use crate::support::certificates::Authority;
use crate::support::client::head;
use crate::support::origin::Origin;
use crate::support::{Gateway, RawClient, STEP, respond, within};

/// An upstream that accepts connections, on which the test writes the responses byte by byte.
pub(super) struct UpstreamListener {
    listener: TcpListener,
}

impl UpstreamListener {
    pub(super) async fn start(toml: &str) -> (Self, Gateway) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        (
            Self { listener },
            Gateway::start_with_upstream(&url, toml).await,
        )
    }

    /// Sends a request through the gateway; returns the client's connection and the upstream's.
    pub(super) async fn request(
        &self,
        gateway: &Gateway,
        request: impl AsRef<[u8]>,
    ) -> (RawClient, RawClient) {
        let mut client = gateway.connect().await;
        client.send(request).await;
        let mut upstream = self.accept().await;
        upstream.text_before("\r\n\r\n").await;
        (client, upstream)
    }

    pub(super) async fn accept(&self) -> RawClient {
        let (stream, _) = within("a connection", self.listener.accept())
            .await
            .unwrap();
        RawClient::over(stream)
    }
}

pub(super) fn get(path: &str) -> String {
    head("GET", path, "127.0.0.1", &[])
}

pub(super) fn post(headers: &[(&str, &str)]) -> String {
    head("POST", "/v1/files", "127.0.0.1", headers)
}

/// Returns bytes of which no four at two offsets are alike.
fn payload(size: u32) -> Vec<u8> {
    (0..size / 4).flat_map(u32::to_le_bytes).collect()
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    let (mut client, mut upstream) = listener
        .request(&gateway, get("/v1/threads/t/runs/r/events"))
        .await;
    upstream
        .send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let head = client.text_before("\r\n\r\n").await.to_lowercase();
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    for nth in 0..5 {
        let event = format!("event: {nth}\n\n");
        upstream
            .send(format!("{:x}\r\n{event}\r\n", event.len()))
            .await;
        // The next event is sent only after this one has arrived.
        assert_eq!(
            client.text_before("\n\n").await.lines().last().unwrap(),
            event.trim()
        );
    }
    upstream.send("0\r\n\r\n").await;
    client.text_before("0\r\n\r\n").await;
}

#[tokio::test]
async fn an_upload_is_streamed() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    let mut client = gateway.connect().await;
    client
        .send(post(&[("content-length", "10")]) + "12345")
        .await;
    let mut upstream = listener.accept().await;
    let head = upstream.text_before("\r\n\r\n").await.to_lowercase();
    assert!(
        head.contains("content-length: 10") && !head.contains("transfer-encoding"),
        "{head}"
    );
    assert_eq!(upstream.bytes(5).await, b"12345");
    client.send("67890").await;
    assert_eq!(upstream.bytes(5).await, b"67890");
    upstream.send(respond("200 OK", &[], "{}")).await;
    assert_eq!(client.response_to("POST").await.text(), "{}");
}

#[tokio::test]
async fn a_chunked_upload_stays_chunked_and_both_connections_are_reused() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    let mut client = gateway.connect().await;
    let mut upstream = None;
    for nth in 0..3 {
        client
            .send(post(&[("transfer-encoding", "chunked")]) + "3\r\nabc\r\n")
            .await;
        if nth == 0 {
            upstream = Some(listener.accept().await);
        }
        let upstream = upstream.as_mut().unwrap();
        let head = upstream.text_before("\r\n\r\n").await.to_lowercase();
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        assert_eq!(upstream.text_before("abc\r\n").await, "3\r\n");
        client.send("2\r\nde\r\n0\r\nx-trailer: 1\r\n\r\n").await;
        assert_eq!(upstream.text_before("0\r\n\r\n").await, "2\r\nde\r\n");
        upstream.send(respond("200 OK", &[], "{}")).await;
        let response = client.response_to("POST").await;
        assert_eq!(
            (response.text().as_str(), response.header("connection")),
            ("{}", None)
        );
    }
}

#[tokio::test]
async fn a_forwarded_get_may_have_a_body() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    for (framing, body, expected) in [
        ("content-length: 3", "abc", "abc"),
        (
            "transfer-encoding: chunked",
            "3\r\nabc\r\n0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
    ] {
        for method in ["GET", "DELETE", "FROB"] {
            let head = format!("{method} /v1/x HTTP/1.1\r\nhost: 127.0.0.1\r\n{framing}\r\n\r\n");
            let mut client = gateway.connect().await;
            client.send(head + body).await;
            let mut upstream = listener.accept().await;
            let head = upstream.text_before("\r\n\r\n").await.to_lowercase();
            assert!(head.contains(framing), "{method}: {head}");
            assert_eq!(
                upstream.bytes(expected.len()).await,
                expected.as_bytes(),
                "{method}"
            );
            let last = [("connection", "close")];
            upstream.send(respond("200 OK", &last, "{}")).await;
            assert_eq!(client.response_to(method).await.status, 200);
        }
    }
}

#[tokio::test]
async fn expect_100_continue_is_answered() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    let mut client = gateway.connect().await;
    client
        .send(post(&[("content-length", "3"), ("expect", "100-continue")]))
        .await;
    assert_eq!(
        client.text_before("\r\n\r\n").await,
        "HTTP/1.1 100 Continue"
    );
    client.send("abc").await;
    let mut upstream = listener.accept().await;
    let head = upstream.text_before("\r\n\r\n").await.to_lowercase();
    assert!(!head.contains("expect"), "{head}");
    assert_eq!(upstream.bytes(3).await, b"abc");
    upstream.send(respond("200 OK", &[], "{}")).await;
    assert_eq!(client.response_to("POST").await.status, 200);
}

#[tokio::test]
async fn expect_100_continue_of_a_rejected_request_is_not_answered() {
    let (_listener, gateway) = UpstreamListener::start("").await;
    let mut client = gateway.connect().await;
    client
        .send(post(&[("content-length", "3"), ("expect", "100-continue")]))
        .await;
    assert!(client.text_before("\r\n").await.ends_with("404 Not Found"));
}

#[tokio::test]
async fn large_bodies_arrive_byte_for_byte() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    let body = payload(8 << 20);
    let size = body.len().to_string();
    let mut client = gateway.connect().await;
    let mut upstream = JoinSet::new();
    upstream.spawn(async move {
        let mut upstream = listener.accept().await;
        let head = upstream.text_before("\r\n\r\n").await.to_lowercase();
        assert!(head.contains("content-length: 8388608"), "{head}");
        let body = upstream.bytes(8 << 20).await;
        upstream.send(respond("200 OK", &[], &body)).await;
        upstream
    });
    client.send(post(&[("content-length", &size)])).await;
    client.send(&body).await;
    let response = client.response_to("POST").await;
    assert_eq!(response.header("content-length"), Some(size.as_str()));
    assert!(response.body == body);
    drop(upstream.join_next().await);
}

#[tokio::test]
async fn backpressure_a_slow_client_slows_the_upstream() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    let mut client = gateway.connect().await;
    client.send(get("/v1/files/f/content")).await;
    let mut upstream = listener.accept().await;
    upstream.text_before("\r\n\r\n").await;
    upstream
        .send("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
        .await;
    let chunk = payload(1 << 20);
    let mut sent = 0;
    // Without backpressure the gateway would read a gibibyte into memory.
    while tokio::time::timeout(std::time::Duration::from_millis(500), upstream.send(&chunk))
        .await
        .is_ok()
    {
        sent += 1;
        assert!(
            sent < 64,
            "{sent} MiB were read from the upstream for a client that does not read"
        );
    }
}

#[tokio::test]
async fn an_early_response_reaches_the_client_and_its_connection_is_not_reused() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    let (mut client, mut upstream) = listener
        .request(&gateway, post(&[("content-length", "1000000")]) + "12345")
        .await;
    upstream
        .send(respond("413 Too Large", &[], r#"{"error": {}}"#))
        .await;
    let response = client.response_to("POST").await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (413, r#"{"error": {}}"#)
    );
    // The unfinished upload must not keep its connection.
    assert_eq!(upstream.rest().await, b"12345");
    // And it must not delay other requests.
    let mut other = gateway.send_get(STEP, &[]).await;
    let mut second = listener.accept().await;
    second.text_before("\r\n\r\n").await;
    second
        .send(respond("200 OK", &[], crate::support::body("completed")))
        .await;
    assert!(other.response().await.is_stored());
}

#[tokio::test]
async fn an_aborted_upload_is_aborted_upstream() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    for framing in [("content-length", "10"), ("transfer-encoding", "chunked")] {
        let mut client = gateway.connect().await;
        client.send(post(&[framing]) + "3\r\nabc\r\n").await;
        let mut upstream = listener.accept().await;
        upstream.text_before("abc\r\n").await;
        drop(client);
        assert_eq!(
            upstream.rest().await,
            b"",
            "the gateway ended the body that its client had not ended"
        );
    }
}

#[tokio::test]
async fn a_truncated_response_is_truncated_for_the_client() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    for framing in ["content-length: 10", "transfer-encoding: chunked"] {
        let mut client = gateway.connect().await;
        client.send(get("/v1/models")).await;
        let mut upstream = listener.accept().await;
        upstream.text_before("\r\n\r\n").await;
        upstream
            .send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n3\r\nabc\r\n"))
            .await;
        drop(upstream);
        let broken = client.try_response("GET").await.unwrap_err();
        assert_eq!(broken.status, Some(200), "{framing}");
    }
}

#[tokio::test]
async fn an_empty_post_has_content_length_0() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    let mut client = gateway.connect().await;
    for framing in [&[][..], &[("content-length", "0")]] {
        client.send(post(framing)).await;
        let mut upstream = listener.accept().await;
        let head = upstream.text_before("\r\n\r\n").await.to_lowercase();
        assert!(head.contains("content-length: 0"), "{head}");
        upstream
            .send(respond("200 OK", &[("connection", "close")], "{}"))
            .await;
        assert_eq!(client.response_to("POST").await.status, 200);
    }
}

#[tokio::test]
async fn a_lost_connection_is_retried_only_if_that_is_safe() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    let mut client = gateway.connect().await;
    for (method, body, again) in [
        ("GET", "", true),
        ("DELETE", "", true),
        ("POST", "", false),
        ("POST", "abc", false),
        ("PUT", "abc", false),
    ] {
        let ask = head(
            method,
            "/v1/x",
            "127.0.0.1",
            &[("content-length", &body.len().to_string())],
        ) + body;
        client.send(&ask).await;
        let mut upstream = listener.accept().await;
        upstream.text_before("\r\n\r\n").await;
        upstream.bytes(body.len()).await;
        upstream.send(respond("200 OK", &[], "{}")).await;
        assert_eq!(client.response_to(method).await.status, 200);
        // The same on a reused connection, which is lost.
        client.send(&ask).await;
        upstream.text_before("\r\n\r\n").await;
        upstream.bytes(body.len()).await;
        drop(upstream);
        if again {
            let mut upstream = listener.accept().await;
            upstream.text_before("\r\n\r\n").await;
            let last = [("connection", "close")];
            upstream.send(respond("200 OK", &last, "{}")).await;
        }
        let status = client.response_to(method).await.status;
        assert_eq!(status, if again { 200 } else { 502 }, "{method} {body:?}");
    }
}

#[tokio::test]
async fn bodies_are_forwarded_over_http2() {
    let (listener, gateway) = UpstreamListener::start(ALL).await;
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut requests, connection) = shaken.await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let body = payload(1 << 20);
    let sent = Bytes::from(body.clone());
    tasks.spawn(async move {
        let mut upstream = listener.accept().await;
        upstream.text_before("\r\n\r\n").await;
        let body = upstream.bytes(1 << 20).await;
        upstream.send(respond("200 OK", &[], &body)).await;
        drop(upstream.rest().await);
    });
    let uri = format!("http://{}/v1/files", gateway.address());
    let request = Request::post(uri).body(Full::new(sent)).unwrap();
    let response = within("an answer", requests.send_request(request))
        .await
        .unwrap();
    let response = within("its body", response.into_body().collect())
        .await
        .unwrap();
    assert!(response.to_bytes() == body);
}

#[tokio::test]
async fn forwarded_http2_streams_do_not_share_the_connection_of_fetches() {
    let authority = Authority::new();
    let origin = Origin::start_http2(&authority).await;
    origin.set_status("in_progress");
    let toml = format!("{ALL}\n{}", authority.toml());
    let gateway = Gateway::start_with_upstream(&origin.url(), &toml).await;
    for method in ["GET", "POST", "GET", "POST"] {
        assert_eq!(gateway.request(method, STEP, &[]).await.status, 200);
    }
    assert_eq!(origin.requests().len(), 4);
    assert_eq!(origin.connections(), 2);
}
