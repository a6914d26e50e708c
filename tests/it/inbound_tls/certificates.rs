//! Client certificates, and the replacement of certificates at run time.

use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::HandshakeKind;

use super::client::{ClientOptions, TlsClient};
use super::start_tls;
use crate::support::certificates::{Authority, Flaw, Identity};
use crate::support::client::head;
use crate::support::gateway::TWO_CLIENTS;
use crate::support::{Gateway, Origin, Process, RawClient, STEP, body, step, until};

/// Starts a gateway that requires client certificates of the authority.
async fn start_client_ca(toml: &str) -> (Authority, Gateway, Origin) {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let server = authority.identity("server", Flaw::None).toml();
    let toml = format!("{server}client_ca = {:?}\n{toml}", authority.file());
    let gateway = Gateway::start(&origin, &toml).await;
    (authority, gateway, origin)
}

fn with_identity<'a>(identity: Option<&'a Identity>, only_tls_1_2: bool) -> ClientOptions<'a> {
    ClientOptions {
        identity,
        alpn: &[],
        only_tls_1_2,
    }
}

#[tokio::test]
async fn request_without_a_valid_client_certificate_is_rejected() {
    let (authority, gateway, origin) = start_client_ca("").await;
    for flaw in [
        None,
        Some(Flaw::UnknownAuthority),
        Some(Flaw::SelfSigned),
        Some(Flaw::Expired),
    ] {
        let identity = flaw.map(|flaw| authority.identity("client", flaw));
        for only_tls_1_2 in [false, true] {
            let client = TlsClient::new(&authority, with_identity(identity.as_ref(), only_tls_1_2));
            let (received, ended) = client.request(gateway.address(), STEP).await;
            // The unread request causes a reset, which may overtake the TLS alert.
            assert!(
                received.is_empty() && ended.is_err(),
                "{flaw:?}: {received:?}"
            );
        }
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(gateway.outcomes("rejected").await, 0.0);
}

#[tokio::test]
async fn request_with_a_valid_client_certificate_is_served() {
    let (authority, gateway, _origin) = start_client_ca("").await;
    let identity = authority.identity("client", Flaw::None);
    for only_tls_1_2 in [false, true] {
        let client = TlsClient::new(&authority, with_identity(Some(&identity), only_tls_1_2));
        let mut raw = client.raw(&gateway).await;
        raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
        assert_eq!(raw.response().await.body, body("completed"));
    }
}

#[tokio::test]
async fn client_certificate_does_not_replace_a_token() {
    let (authority, gateway, origin) = start_client_ca(TWO_CLIENTS).await;
    let identity = authority.identity("client", Flaw::None);
    let client = TlsClient::new(&authority, with_identity(Some(&identity), false));
    let mut raw = client.raw(&gateway).await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    assert_eq!(raw.response().await.status, 401);
    assert_eq!(origin.count(), 0);
}

/// A resumed session would skip the verification of a certificate that has expired start.
#[tokio::test]
async fn required_client_certificate_is_verified_on_every_connection() {
    let (authority, gateway, _origin) = start_client_ca("").await;
    let identity = authority.identity("client", Flaw::None);
    for only_tls_1_2 in [false, true] {
        let client = TlsClient::new(&authority, with_identity(Some(&identity), only_tls_1_2));
        for _ in 0..2 {
            let mut stream = client.connect(&gateway).await;
            assert_eq!(kind(&stream), HandshakeKind::Full);
            // Session tickets arrive before the response.
            exchange(&mut stream).await;
        }
    }
}

fn kind<T>(stream: &TlsStream<T>) -> HandshakeKind {
    stream
        .get_ref()
        .1
        .handshake_kind()
        .expect("the handshake is complete")
}

async fn exchange(stream: &mut TlsStream<tokio::net::TcpStream>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let request = head("GET", STEP, "127.0.0.1", &[]);
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
}

/// Returns the certificate of the server.
fn server_certificate(stream: &TlsStream<tokio::net::TcpStream>) -> Vec<u8> {
    let chain = stream.get_ref().1.peer_certificates();
    chain.expect("a server has a certificate")[0].to_vec()
}

#[tokio::test]
async fn new_certificate_is_used_for_new_connections_only() {
    let (authority, gateway, origin) = start_tls("").await;
    let client = TlsClient::new(&authority, ClientOptions::default());
    let stream = client.connect(&gateway).await;
    let before = server_certificate(&stream);
    let mut open = RawClient::over(stream);
    open.send(head("GET", &step("a"), "127.0.0.1", &[])).await;
    assert_eq!(open.response().await.status, 200);
    gateway.apply_config(&origin, &authority.identity("next", Flaw::None).toml());
    // The client could resume a session with the old certificate.
    let stream = client.connect(&gateway).await;
    assert_ne!(server_certificate(&stream), before);
    let mut new = RawClient::over(stream);
    for raw in [&mut open, &mut new] {
        raw.send(head("GET", &step("a"), "127.0.0.1", &[])).await;
        assert!(raw.response().await.is_hit());
    }
}

#[tokio::test]
async fn new_client_ca_applies_to_new_connections() {
    let (authority, gateway, origin) = start_tls("").await;
    let client = TlsClient::new(&authority, ClientOptions::default());
    assert!(client.request(gateway.address(), STEP).await.1.is_ok());
    let server = authority.identity("server", Flaw::None).toml();
    let client_ca = format!("{server}client_ca = {:?}\n", authority.file());
    gateway.apply_config(&origin, &client_ca);
    let (received, ended) = client.request(gateway.address(), STEP).await;
    assert!(received.is_empty() && ended.is_err());
}

#[tokio::test]
async fn renewed_files_are_reloaded_once_certificate_and_key_match() {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let identity = authority.identity("server", Flaw::None);
    let gateway = Process::start(&origin, &identity.toml(), "info").await;
    let client = TlsClient::new(&authority, ClientOptions::default());
    let before = server_certificate(&client.try_connect(gateway.data).await.unwrap());
    let next = authority.identity("next", Flaw::None);
    std::fs::copy(next.cert, identity.cert).unwrap();
    let is_logged = async || gateway.output().contains("does not belong");
    until("a log line about the old key", is_logged).await;
    assert_eq!(
        server_certificate(&client.try_connect(gateway.data).await.unwrap()),
        before
    );
    std::fs::copy(next.key, identity.key).unwrap();
    let is_renewed =
        async || server_certificate(&client.try_connect(gateway.data).await.unwrap()) != before;
    until("the new certificate", is_renewed).await;
}

/// Such a connection was verified by neither configuration: the old one required no certificate, and the new
/// one may have other tokens.
#[tokio::test]
async fn connection_from_before_a_new_client_ca_is_closed() {
    let (authority, gateway, origin) = start_tls(TWO_CLIENTS).await;
    let client = TlsClient::new(&authority, ClientOptions::default());
    let server = authority.identity("server", Flaw::None).toml();
    let client_ca = format!("{server}client_ca = {:?}\n", authority.file());
    let mut idle = client.raw(&gateway).await;
    let mut busy = client.raw(&gateway).await;
    for raw in [&mut idle, &mut busy] {
        raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
        assert_eq!(raw.response().await.status, 401);
    }
    // The request races with the new configuration, and either may be seen first.
    busy.send(head("GET", STEP, "127.0.0.1", &[])).await;
    gateway.apply_config(&origin, &client_ca);
    let received = busy.rest().await;
    let received = String::from_utf8_lossy(&received);
    assert!(
        received.is_empty()
            || received.starts_with("HTTP/1.1 503")
            || received.starts_with("HTTP/1.1 401"),
        "{received}"
    );
    assert!(
        idle.rest().await.is_empty(),
        "the idle connection is closed without a response"
    );
    assert_eq!(origin.count(), 0);
}
