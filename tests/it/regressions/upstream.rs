//! Upstreams that are slow, flood, or reflect secrets.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::certificates::{Authority, Flaw};
use crate::support::client;
use crate::support::gateway::API_KEY;
use crate::support::{Action, Gateway, Origin, STEP, respond, step, step_json};

/// Starts an upstream that answers well, and floods requests for `step_flood` with 1xx responses. It
/// runs on a thread of its own, so that it uses none of the gateway's runtime.
fn flooding_upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for io in listener.incoming() {
            let mut io = io.unwrap();
            std::thread::spawn(move || {
                let mut head = vec![0; 4096];
                let read = io.read(&mut head).unwrap_or(0);
                if !String::from_utf8_lossy(&head[..read]).contains("step_flood") {
                    let body = step_json("thread_1", "run_1", "step_1", "completed");
                    drop(io.write_all(&respond("200 OK", &[("connection", "close")], body)));
                    return;
                }
                let interim = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(4096);
                while io.write_all(&interim).is_ok() {}
            });
        }
    });
    url
}

#[tokio::test]
async fn a_1xx_flood_ends_at_the_deadline_and_slows_no_other_client() {
    let toml = "[upstream]\ntimeout = \"2s\"\n";
    let gateway = Gateway::start_with_upstream(&flooding_upstream(), toml).await;
    assert!(gateway.get(STEP).await.is_stored());
    let start = Instant::now();
    let mut flooded = gateway.send_get(&step("step_flood"), &[]).await;
    for _ in 0..20 {
        let start = Instant::now();
        assert!(gateway.get(STEP).await.is_hit());
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
        sleep(Duration::from_millis(50)).await;
    }
    let response = flooded.response().await;
    assert_eq!(
        (response.status, response.code().as_deref()),
        (504, Some("upstream_timeout"))
    );
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
}

/// Proxies connections to `target`, each after a delay, which makes TLS handshakes slow.
async fn slow_proxy(target: std::net::SocketAddr, delay: Duration) -> (u16, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            open.spawn(async move {
                sleep(delay).await;
                let mut server = TcpStream::connect(target).await.unwrap();
                drop(copy_bidirectional(&mut client, &mut server).await);
            });
        }
    });
    (port, tasks)
}

/// The first handshake decides whether connections are shared, so no fetch waits for more than two.
#[tokio::test]
async fn many_fetches_to_a_cold_upstream_wait_for_at_most_two_handshakes() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::None).await;
    let handshake = Duration::from_secs(1);
    let (port, _proxy) = slow_proxy(origin.address, handshake).await;
    let url = format!("https://127.0.0.1:{port}/v1");
    let gateway = Gateway::start_with_upstream(&url, &authority.toml()).await;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for n in 0..20 {
        let (address, path) = (gateway.address(), step(&format!("step_{n}")));
        clients.spawn(async move { client::send(address, "GET", &path, &[]).await });
    }
    for response in clients.join_all().await {
        assert_eq!(response.unwrap().status, 200);
    }
    // One handshake for the first fetch, one for all others, and a margin for a busy machine.
    let took = start.elapsed();
    assert!(took < 5 * handshake, "{took:?}");
}

/// The handshake of another fetch does not count against the connect timeout of this one.
#[tokio::test]
async fn each_of_many_fetches_to_a_cold_upstream_has_its_own_connect_timeout() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::None).await;
    let (port, _proxy) = slow_proxy(origin.address, Duration::from_millis(2400)).await;
    let url = format!("https://127.0.0.1:{port}/v1");
    let toml = authority.toml() + "connect_timeout = \"4s\"\n";
    let gateway = Gateway::start_with_upstream(&url, &toml).await;
    let mut clients = JoinSet::new();
    for n in 0..20 {
        let (address, path) = (gateway.address(), step(&format!("step_{n}")));
        clients.spawn(async move { client::send(address, "GET", &path, &[]).await });
    }
    for response in clients.join_all().await {
        assert_eq!(response.unwrap().status, 200);
    }
}

/// If a body has a length, nothing is read behind its last byte; the connection is reused all the same.
#[tokio::test]
async fn the_connection_of_a_large_body_with_a_length_is_reused() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let large = vec![b' '; 3 << 20];
    for _ in 0..2 {
        origin.next(vec![Action::Send(respond("200 OK", &[], &large))]);
        let response = gateway.get(STEP).await;
        assert_eq!((response.status, response.body.len()), (200, large.len()));
    }
    assert_eq!((origin.count(), origin.connections()), (2, 1));
}

#[tokio::test]
async fn secret_reflection_in_a_header_name_is_dropped() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let echo = format!("x-{API_KEY}-status");
    origin.next(vec![Action::Send(respond(
        "200 OK",
        &[(&echo, "known")],
        "{}",
    ))]);
    let response = gateway.get(STEP).await;
    assert_eq!(response.status, 200);
    assert!(
        !response.everything().contains(API_KEY),
        "{}",
        response.everything()
    );
}

/// The beginning of an error body is scanned for secrets, although the body is too large to buffer.
#[tokio::test]
async fn secret_reflection_before_a_large_error_body_is_a_502() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut large = vec![b' '; 1_100_000];
    let at = 60 * 1024;
    large[at..at + API_KEY.len()].copy_from_slice(API_KEY.as_bytes());
    origin.next(vec![Action::Send(respond("401 No", &[], &large))]);
    let response = gateway.get(STEP).await;
    assert_eq!(
        (response.status, response.code().as_deref()),
        (502, Some("upstream_invalid"))
    );
    assert!(!response.everything().contains(API_KEY));
}
