//! TLS for callers: what they get over it is what they get without, and nobody else gets in.

mod caller;
mod certificates;
mod endings;
mod handshakes;

use tokio_rustls::rustls::ProtocolVersion;

use crate::support::certificates::{Authority, Flaw};
use crate::support::client::head;
use crate::support::{Action, Gateway, Origin, RawClient, STEP, body, respond, step, step_json};

use caller::{Caller, With};

/// An authority, a gateway with a certificate of it, and the gateway's origin.
async fn secured(toml: &str) -> (Authority, Gateway, Origin) {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let toml = authority.identity("server", Flaw::None).toml() + toml;
    let gateway = Gateway::start(&origin, &toml).await;
    (authority, gateway, origin)
}

const H2: With<'static> = With {
    identity: None,
    alpn: &["h2", "http/1.1"],
    only_tls_1_2: false,
};

#[tokio::test]
async fn http_1_1_is_spoken_with_who_names_it_and_with_who_names_nothing() {
    let (authority, gateway, origin) = secured("").await;
    for (id, alpn) in [("named", &["http/1.1"][..]), ("none", &[])] {
        let with = With {
            alpn,
            ..With::default()
        };
        let mut raw = Caller::new(&authority, with).raw(&gateway).await;
        for expected in ["stored", "hit"] {
            raw.send(head("GET", &step(id), "127.0.0.1", &[])).await;
            let answer = raw.response().await;
            let bytes = step_json("thread_1", "run_1", id, "completed");
            assert_eq!((answer.status, &answer.body), (200, &bytes));
            assert!(answer.cache_status().contains(expected), "{id}");
        }
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn http_2_is_spoken_with_who_prefers_it() {
    let (authority, gateway, origin) = secured("").await;
    let h2 = Caller::new(&authority, H2).h2(&gateway).await;
    for expected in ["stored", "hit"] {
        let request = hyper::Request::get(format!("https://{}{STEP}", gateway.address()));
        let answer = h2.send(request).await;
        assert_eq!((answer.status, &answer.body), (200, &body("completed")));
        let cache_status = answer.cache_status();
        assert!(cache_status.contains(expected), "{cache_status}");
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn http_2_is_not_guessed_where_alpn_did_not_choose_it() {
    let (authority, gateway, _origin) = secured("").await;
    let mut raw = Caller::new(&authority, With::default()).raw(&gateway).await;
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let said = raw.rest().await;
    assert!(
        said.is_empty() || said.starts_with(b"HTTP/1.1 4"),
        "{said:?}"
    );
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken() {
    let (authority, gateway, _origin) = secured("").await;
    for (only_tls_1_2, expected) in [
        (true, ProtocolVersion::TLSv1_2),
        (false, ProtocolVersion::TLSv1_3),
    ] {
        let with = With {
            only_tls_1_2,
            ..With::default()
        };
        let stream = Caller::new(&authority, with).connect(&gateway).await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
        let mut raw = RawClient::over(stream);
        raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
        assert_eq!(raw.response().await.body, body("completed"));
    }
}

#[tokio::test]
async fn a_body_larger_than_all_buffers_arrives_whole() {
    const SIZE: usize = 12 << 20;
    let (authority, gateway, origin) = secured("").await;
    let length = [("content-length", &*SIZE.to_string())];
    origin.always(vec![
        Action::Send(respond("200 OK", &length, "")),
        Action::Repeat(b"0123456789abcdef".repeat(1 << 16), SIZE >> 20),
    ]);
    let mut raw = Caller::new(&authority, With::default()).raw(&gateway).await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    let plain = raw.response().await.body;
    let h2 = Caller::new(&authority, H2).h2(&gateway).await;
    let request = hyper::Request::get(format!("https://{}{STEP}", gateway.address()));
    let streamed = h2.send(request).await.body;
    let expected = b"0123456789abcdef".repeat(SIZE / 16);
    assert!(plain == expected && streamed == expected);
}

#[tokio::test]
async fn a_reader_that_stops_is_cut_at_the_idle_timeout() {
    let (authority, gateway, origin) = secured("[server]\nidle_timeout = \"300ms\"\n").await;
    origin.always(vec![
        Action::Send(respond("200 OK", &[("content-length", "33554432")], "")),
        Action::Repeat(vec![b' '; 1 << 20], 32),
    ]);
    let mut raw = Caller::new(&authority, With::default()).raw(&gateway).await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    origin.wait_for_requests(1).await;
    gateway.wait_for_connections(0).await;
    let broken = raw.try_response("GET").await.expect_err("a body cut short");
    assert!(broken.body.len() < 32 << 20);
}

#[tokio::test]
async fn an_open_listener_keeps_its_guard() {
    let (authority, gateway, origin) = secured("").await;
    let mut raw = Caller::new(&authority, With::default()).raw(&gateway).await;
    for (host, header) in [
        ("evil.example", ("accept", "*/*")),
        ("127.0.0.1", ("origin", "https://evil.example")),
        ("127.0.0.1", ("sec-fetch-site", "cross-site")),
    ] {
        raw.send(head("GET", STEP, host, &[header])).await;
        let answer = raw.response().await;
        assert_eq!(
            answer.code().as_deref(),
            Some("forbidden_origin"),
            "{header:?}"
        );
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn unix_sockets_and_the_admin_listener_stay_plain() {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let toml = authority.identity("server", Flaw::None).toml();
    let gateway = Gateway::start_unix(&origin, &toml).await;
    let mut raw = RawClient::connect_unix(&gateway.socket()).await;
    raw.send(head("GET", STEP, "localhost", &[])).await;
    assert_eq!(raw.response().await.body, body("completed"));
    assert_eq!(gateway.admin("GET", "/ready").await.status, 200);
}
