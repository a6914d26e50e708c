//! TLS on the data listeners: clients get the same responses as without TLS.

mod certificates;
mod client;
mod close_notify;
mod handshakes;

use tokio_rustls::rustls::ProtocolVersion;

use crate::support::certificates::{Authority, Flaw};
use crate::support::client::head;
use crate::support::{Action, Gateway, Origin, RawClient, STEP, body, respond, step, step_json};

use client::{ClientOptions, TlsClient};

/// Starts an authority, a gateway with a certificate of it, and the gateway's origin.
async fn start_tls(toml: &str) -> (Authority, Gateway, Origin) {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let toml = authority.identity("server", Flaw::None).toml() + toml;
    let gateway = Gateway::start(&origin, &toml).await;
    (authority, gateway, origin)
}

const H2: ClientOptions<'static> = ClientOptions {
    identity: None,
    alpn: &["h2", "http/1.1"],
    only_tls_1_2: false,
};

#[tokio::test]
async fn http_1_1_is_served_with_alpn_and_without() {
    let (authority, gateway, origin) = start_tls("").await;
    for (id, alpn) in [("named", &["http/1.1"][..]), ("none", &[])] {
        let with = ClientOptions {
            alpn,
            ..ClientOptions::default()
        };
        let mut raw = TlsClient::new(&authority, with).raw(&gateway).await;
        for expected in ["stored", "hit"] {
            raw.send(head("GET", &step(id), "127.0.0.1", &[])).await;
            let response = raw.response().await;
            let bytes = step_json("thread_1", "run_1", id, "completed");
            assert_eq!((response.status, &response.body), (200, &bytes));
            assert!(response.cache_status().contains(expected), "{id}");
        }
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn http_2_is_served_if_the_client_prefers_it() {
    let (authority, gateway, origin) = start_tls("").await;
    let h2 = TlsClient::new(&authority, H2).h2(&gateway).await;
    for expected in ["stored", "hit"] {
        let request = hyper::Request::get(format!("https://{}{STEP}", gateway.address()));
        let response = h2.send(request).await;
        assert_eq!((response.status, &response.body), (200, &body("completed")));
        let cache_status = response.cache_status();
        assert!(cache_status.contains(expected), "{cache_status}");
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn http_2_preface_is_rejected_unless_alpn_chose_http_2() {
    let (authority, gateway, _origin) = start_tls("").await;
    let mut raw = TlsClient::new(&authority, ClientOptions::default())
        .raw(&gateway)
        .await;
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let received = raw.rest().await;
    assert!(
        received.is_empty() || received.starts_with(b"HTTP/1.1 4"),
        "{received:?}"
    );
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_served() {
    let (authority, gateway, _origin) = start_tls("").await;
    for (only_tls_1_2, expected) in [
        (true, ProtocolVersion::TLSv1_2),
        (false, ProtocolVersion::TLSv1_3),
    ] {
        let with = ClientOptions {
            only_tls_1_2,
            ..ClientOptions::default()
        };
        let stream = TlsClient::new(&authority, with).connect(&gateway).await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
        let mut raw = RawClient::over(stream);
        raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
        assert_eq!(raw.response().await.body, body("completed"));
    }
}

#[tokio::test]
async fn body_larger_than_all_buffers_is_complete() {
    const SIZE: usize = 12 << 20;
    let (authority, gateway, origin) = start_tls("").await;
    let length = [("content-length", &*SIZE.to_string())];
    origin.always(vec![
        Action::Send(respond("200 OK", &length, "")),
        Action::Repeat(b"0123456789abcdef".repeat(1 << 16), SIZE >> 20),
    ]);
    let mut raw = TlsClient::new(&authority, ClientOptions::default())
        .raw(&gateway)
        .await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    let http_1 = raw.response().await.body;
    let h2 = TlsClient::new(&authority, H2).h2(&gateway).await;
    let request = hyper::Request::get(format!("https://{}{STEP}", gateway.address()));
    let http_2 = h2.send(request).await.body;
    let expected = b"0123456789abcdef".repeat(SIZE / 16);
    assert!(http_1 == expected && http_2 == expected);
}

#[tokio::test]
async fn stalled_reader_is_closed_at_the_idle_timeout() {
    let (authority, gateway, origin) = start_tls("[server]\nidle_timeout = \"300ms\"\n").await;
    origin.always(vec![
        Action::Send(respond("200 OK", &[("content-length", "33554432")], "")),
        Action::Repeat(vec![b' '; 1 << 20], 32),
    ]);
    let mut raw = TlsClient::new(&authority, ClientOptions::default())
        .raw(&gateway)
        .await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    origin.wait_for_requests(1).await;
    gateway.wait_for_connections(0).await;
    let broken = raw.try_response("GET").await.expect_err("a body cut short");
    assert!(broken.body.len() < 32 << 20);
}

#[tokio::test]
async fn open_listener_checks_host_and_origin() {
    let (authority, gateway, origin) = start_tls("").await;
    let mut raw = TlsClient::new(&authority, ClientOptions::default())
        .raw(&gateway)
        .await;
    for (host, header) in [
        ("evil.example", ("accept", "*/*")),
        ("127.0.0.1", ("origin", "https://evil.example")),
        ("127.0.0.1", ("sec-fetch-site", "cross-site")),
    ] {
        raw.send(head("GET", STEP, host, &[header])).await;
        let response = raw.response().await;
        assert_eq!(
            response.code().as_deref(),
            Some("forbidden_origin"),
            "{header:?}"
        );
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn unix_sockets_and_the_admin_listener_have_no_tls() {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let toml = authority.identity("server", Flaw::None).toml();
    let gateway = Gateway::start_unix(&origin, &toml).await;
    let mut raw = RawClient::connect_unix(&gateway.socket()).await;
    raw.send(head("GET", STEP, "localhost", &[])).await;
    assert_eq!(raw.response().await.body, body("completed"));
    assert_eq!(gateway.admin("GET", "/ready").await.status, 200);
}
