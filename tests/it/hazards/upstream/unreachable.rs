//! Upstreams that cannot be reached (item 31) or whose TLS fails (items 21 and 33).

use std::time::Duration;

use tokio::time::Instant;

use crate::support::certificates::{Authority, Flaw, TLS_1_1_SERVER_HELLO};
use crate::support::origin::Connections;
use crate::support::{Action, Gateway, Origin, STEP, body, respond};

const SHORT: &str = "[upstream]\nconnect_timeout = \"300ms\"\ntimeout = \"600ms\"\n";

#[tokio::test]
async fn c31_connection_refused_is_a_502() {
    let origin = Origin::start().await;
    origin.set_connections(Connections::Refuse).await;
    let gateway = Gateway::start(&origin, "").await;
    let response = gateway.get(STEP).await;
    assert_eq!(response.status, 502);
    assert_eq!(response.code().as_deref(), Some("upstream_unreachable"));
}

#[tokio::test]
async fn c31_dns_failure_is_an_error_within_the_deadline() {
    let gateway = Gateway::start_with_upstream("http://no-such-host.invalid/v1", SHORT).await;
    let start = Instant::now();
    let response = gateway.get(STEP).await;
    assert!([502, 504].contains(&response.status), "{}", response.status);
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn c31_black_hole_is_a_504_within_the_deadline() {
    let origin = Origin::start().await;
    origin.set_connections(Connections::DropSyn).await;
    let gateway = Gateway::start(&origin, SHORT).await;
    let start = Instant::now();
    let response = gateway.get(STEP).await;
    assert_eq!(response.status, 504);
    assert_eq!(response.code().as_deref(), Some("upstream_timeout"));
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn c33_valid_certificate_is_trusted() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::None).await;
    let url = format!("https://{}/v1", origin.address);
    let gateway = Gateway::start_with_upstream(&url, &authority.toml()).await;
    assert_eq!(gateway.get(STEP).await.body, body("completed"));
    assert!(gateway.get(STEP).await.is_hit());
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn c33_invalid_certificate_is_a_502_and_no_header_is_sent() {
    for flaw in [
        Flaw::Expired,
        Flaw::OtherName,
        Flaw::SelfSigned,
        Flaw::UnknownAuthority,
    ] {
        let authority = Authority::new();
        let origin = Origin::start_tls(&authority, flaw).await;
        let url = format!("https://{}/v1", origin.address);
        let gateway = Gateway::start_with_upstream(&url, &authority.toml()).await;
        let response = gateway.get(STEP).await;
        assert_eq!(response.status, 502, "{flaw:?}");
        assert_eq!(
            response.code().as_deref(),
            Some("upstream_unreachable"),
            "{flaw:?}"
        );
        assert!(
            origin.connections() > 0,
            "{flaw:?}: no connection was attempted"
        );
        assert_eq!(origin.count(), 0, "{flaw:?}");
    }
}

#[tokio::test]
async fn c33_tls_downgrade_to_1_1_is_a_502_and_no_header_is_sent() {
    let origin = Origin::start().await;
    let old = Connections::SendAfterHello(TLS_1_1_SERVER_HELLO);
    origin.set_connections(old).await;
    let gateway = Gateway::start_with_upstream(&format!("https://{}/v1", origin.address), "").await;
    let response = gateway.get(STEP).await;
    assert_eq!(response.status, 502);
    assert_eq!(response.code().as_deref(), Some("upstream_unreachable"));
    let heard = origin.received_after_hello().await;
    const ALERT: u8 = 21;
    assert!(matches!(heard.first(), None | Some(&ALERT)), "{heard:?}");
    assert!(heard.len() < 64, "more than an alert was sent: {heard:?}");
}

#[tokio::test]
async fn c33_plaintext_server_at_an_https_url_is_an_error_and_no_header_is_sent() {
    let origin = Origin::start().await;
    let gateway =
        Gateway::start_with_upstream(&format!("https://{}/v1", origin.address), SHORT).await;
    let response = gateway.get(STEP).await;
    assert!([502, 504].contains(&response.status), "{}", response.status);
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c21_tls_truncation_without_close_notify_is_a_502() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::None).await;
    let url = format!("https://{}/v1", origin.address);
    let gateway = Gateway::start_with_upstream(&url, &authority.toml()).await;
    // Without a length and chunks, only the end of the connection delimits the body.
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
    let bytes = [&head[..], &body("completed")].concat();
    origin.next(vec![Action::Send(bytes), Action::Cut]);
    let response = gateway.get(STEP).await;
    assert_eq!(response.status, 502);
    assert_eq!(response.code().as_deref(), Some("upstream_invalid"));
    origin.next(vec![Action::Send(respond("200 OK", &[], body("failed")))]);
    assert_eq!(gateway.get(STEP).await.body, body("failed"));
}
