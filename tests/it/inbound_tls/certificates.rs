//! Certificates: the callers' that are let in or not, and ours, replaced while connections live.

use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::HandshakeKind;

use super::caller::{Caller, With};
use super::secured;
use crate::support::certificates::{Authority, Flaw, Identity};
use crate::support::client::head;
use crate::support::gateway::TWO_CLIENTS;
use crate::support::{Gateway, Origin, Process, RawClient, STEP, body, step, until};

/// A gateway that asks callers for a certificate of the authority.
async fn asking(toml: &str) -> (Authority, Gateway, Origin) {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let server = authority.identity("server", Flaw::None).toml();
    let toml = format!("{server}client_ca = {:?}\n{toml}", authority.file());
    let gateway = Gateway::start(&origin, &toml).await;
    (authority, gateway, origin)
}

fn presenting<'a>(identity: Option<&'a Identity>, only_tls_1_2: bool) -> With<'a> {
    With {
        identity,
        alpn: &[],
        only_tls_1_2,
    }
}

#[tokio::test]
async fn no_request_gets_in_without_the_right_client_certificate() {
    let (authority, gateway, origin) = asking("").await;
    for flaw in [
        None,
        Some(Flaw::UnknownAuthority),
        Some(Flaw::SelfSigned),
        Some(Flaw::Expired),
    ] {
        let identity = flaw.map(|flaw| authority.identity("caller", flaw));
        for old in [false, true] {
            let caller = Caller::new(&authority, presenting(identity.as_ref(), old));
            let (said, ended) = caller.asks(gateway.address(), STEP).await;
            // The alert may be overtaken by the reset that the unread question causes.
            assert!(said.is_empty() && ended.is_err(), "{flaw:?}: {said:?}");
        }
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(gateway.outcomes("rejected").await, 0.0);
}

#[tokio::test]
async fn the_right_client_certificate_lets_a_request_in() {
    let (authority, gateway, _origin) = asking("").await;
    let identity = authority.identity("caller", Flaw::None);
    for old in [false, true] {
        let caller = Caller::new(&authority, presenting(Some(&identity), old));
        let mut raw = caller.raw(&gateway).await;
        raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
        assert_eq!(raw.response().await.body, body("completed"));
    }
}

#[tokio::test]
async fn a_client_certificate_does_not_replace_a_token() {
    let (authority, gateway, origin) = asking(TWO_CLIENTS).await;
    let identity = authority.identity("caller", Flaw::None);
    let caller = Caller::new(&authority, presenting(Some(&identity), false));
    let mut raw = caller.raw(&gateway).await;
    raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
    assert_eq!(raw.response().await.status, 401);
    assert_eq!(origin.count(), 0);
}

/// A resumed session would let in who was let in once, whatever became of the certificate since.
#[tokio::test]
async fn who_must_have_a_certificate_shows_it_at_every_connection() {
    let (authority, gateway, _origin) = asking("").await;
    let identity = authority.identity("caller", Flaw::None);
    for old in [false, true] {
        let caller = Caller::new(&authority, presenting(Some(&identity), old));
        for _ in 0..2 {
            let mut stream = caller.connect(&gateway).await;
            assert_eq!(kind(&stream), HandshakeKind::Full);
            // An answer comes after what would let a session resume.
            answered(&mut stream).await;
        }
    }
}

fn kind<T>(stream: &TlsStream<T>) -> HandshakeKind {
    stream.get_ref().1.handshake_kind().expect("it is over")
}

async fn answered(stream: &mut TlsStream<tokio::net::TcpStream>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let question = head("GET", STEP, "127.0.0.1", &[]);
    stream.write_all(question.as_bytes()).await.unwrap();
    assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
}

/// The certificate that a connection was shown.
fn shown(stream: &TlsStream<tokio::net::TcpStream>) -> Vec<u8> {
    let chain = stream.get_ref().1.peer_certificates();
    chain.expect("a server shows one")[0].to_vec()
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_open_ones_live_on() {
    let (authority, gateway, origin) = secured("").await;
    let caller = Caller::new(&authority, With::default());
    let stream = caller.connect(&gateway).await;
    let before = shown(&stream);
    let mut open = RawClient::over(stream);
    open.send(head("GET", &step("a"), "127.0.0.1", &[])).await;
    assert_eq!(open.response().await.status, 200);
    gateway.apply_config(&origin, &authority.identity("next", Flaw::None).toml());
    // Though it could resume a session that began with the old one.
    let stream = caller.connect(&gateway).await;
    assert_ne!(shown(&stream), before);
    let mut new = RawClient::over(stream);
    for raw in [&mut open, &mut new] {
        raw.send(head("GET", &step("a"), "127.0.0.1", &[])).await;
        assert!(raw.response().await.is_hit());
    }
}

#[tokio::test]
async fn new_roots_for_callers_hold_for_new_connections() {
    let (authority, gateway, origin) = secured("").await;
    let caller = Caller::new(&authority, With::default());
    assert!(caller.asks(gateway.address(), STEP).await.1.is_ok());
    let server = authority.identity("server", Flaw::None).toml();
    let asking = format!("{server}client_ca = {:?}\n", authority.file());
    gateway.apply_config(&origin, &asking);
    let (said, ended) = caller.asks(gateway.address(), STEP).await;
    assert!(said.is_empty() && ended.is_err());
}

#[tokio::test]
async fn renewed_files_are_taken_up_once_they_belong_together() {
    let authority = Authority::new();
    let origin = Origin::start().await;
    let identity = authority.identity("server", Flaw::None);
    let gateway = Process::start(&origin, &identity.toml(), "info").await;
    let caller = Caller::new(&authority, With::default());
    let before = shown(&caller.try_connect(gateway.data).await.unwrap());
    let next = authority.identity("next", Flaw::None);
    std::fs::copy(next.cert, identity.cert).unwrap();
    let told = async || gateway.output().contains("does not belong");
    until("the old key to be told", told).await;
    assert_eq!(
        shown(&caller.try_connect(gateway.data).await.unwrap()),
        before
    );
    std::fs::copy(next.key, identity.key).unwrap();
    let renewed = async || shown(&caller.try_connect(gateway.data).await.unwrap()) != before;
    until("the new certificate to be shown", renewed).await;
}

/// It passed neither the certificates of the one configuration nor, perhaps, the tokens of the other.
#[tokio::test]
async fn whoever_came_under_other_roots_is_not_let_in_by_the_new_ones() {
    let (authority, gateway, origin) = secured(TWO_CLIENTS).await;
    let caller = Caller::new(&authority, With::default());
    let server = authority.identity("server", Flaw::None).toml();
    let asking = format!("{server}client_ca = {:?}\n", authority.file());
    let mut idle = caller.raw(&gateway).await;
    let mut asked = caller.raw(&gateway).await;
    for raw in [&mut idle, &mut asked] {
        raw.send(head("GET", STEP, "127.0.0.1", &[])).await;
        assert_eq!(raw.response().await.status, 401);
    }
    // On its way when the new roots come; which of both is seen first is left to chance.
    asked.send(head("GET", STEP, "127.0.0.1", &[])).await;
    gateway.apply_config(&origin, &asking);
    let said = asked.rest().await;
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 503") || said.starts_with("HTTP/1.1 401"),
        "{said}"
    );
    assert!(idle.rest().await.is_empty(), "it is ended without a word");
    assert_eq!(origin.count(), 0);
}
