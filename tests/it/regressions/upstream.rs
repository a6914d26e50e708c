//! Upstreams that are slow, flood, or tell what they must not.

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

/// Answers well, but floods whoever asks for `step_flood`: unpaced, and from a thread of its own, so
/// that it takes nothing of the gateway's time but what the gateway gives it.
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
        let asked = Instant::now();
        assert!(gateway.get(STEP).await.is_hit());
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "{:?}",
            asked.elapsed()
        );
        sleep(Duration::from_millis(50)).await;
    }
    let answer = flooded.response().await;
    assert_eq!(
        (answer.status, answer.code().as_deref()),
        (504, Some("upstream_timeout"))
    );
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
}

/// Passes bytes on to `target`, a while after each connection was accepted: a slow handshake.
async fn slow_door(target: std::net::SocketAddr, delay: Duration) -> (u16, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            open.spawn(async move {
                sleep(delay).await;
                let mut far = TcpStream::connect(target).await.unwrap();
                drop(copy_bidirectional(&mut near, &mut far).await);
            });
        }
    });
    (port, tasks)
}

/// Whether connections can be shared is known after the first handshake; nobody waits for more.
#[tokio::test]
async fn many_fetches_to_a_cold_upstream_wait_for_at_most_two_handshakes() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::None).await;
    let handshake = Duration::from_millis(500);
    let (port, _door) = slow_door(origin.address, handshake).await;
    let url = format!("https://127.0.0.1:{port}/v1");
    let gateway = Gateway::start_with_upstream(&url, &authority.toml()).await;
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for n in 0..20 {
        let (address, path) = (gateway.address(), step(&format!("step_{n}")));
        callers.spawn(async move { client::send(address, "GET", &path, &[]).await });
    }
    for answer in callers.join_all().await {
        assert_eq!(answer.unwrap().status, 200);
    }
    // One for the first, one for all others; the rest is a busy machine's.
    let took = start.elapsed();
    assert!(took < 5 * handshake, "{took:?}");
}

/// The time that another's handshake takes is not this one's connect time.
#[tokio::test]
async fn each_of_many_fetches_to_a_cold_upstream_has_its_own_connect_timeout() {
    let authority = Authority::new();
    let origin = Origin::start_tls(&authority, Flaw::None).await;
    let (port, _door) = slow_door(origin.address, Duration::from_millis(1200)).await;
    let url = format!("https://127.0.0.1:{port}/v1");
    let toml = authority.toml() + "connect_timeout = \"2s\"\n";
    let gateway = Gateway::start_with_upstream(&url, &toml).await;
    let mut callers = JoinSet::new();
    for n in 0..20 {
        let (address, path) = (gateway.address(), step(&format!("step_{n}")));
        callers.spawn(async move { client::send(address, "GET", &path, &[]).await });
    }
    for answer in callers.join_all().await {
        assert_eq!(answer.unwrap().status, 200);
    }
}

/// With a length nobody asks for more after the last byte, which must not cost the connection.
#[tokio::test]
async fn the_connection_of_a_large_body_with_a_length_is_reused() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let large = vec![b' '; 3 << 20];
    for _ in 0..2 {
        origin.next(vec![Action::Send(respond("200 OK", &[], &large))]);
        let answer = gateway.get(STEP).await;
        assert_eq!((answer.status, answer.body.len()), (200, large.len()));
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
    let answer = gateway.get(STEP).await;
    assert_eq!(answer.status, 200);
    assert!(
        !answer.everything().contains(API_KEY),
        "{}",
        answer.everything()
    );
}

/// An error body is searched in front, also where its length says that it is too large to hold.
#[tokio::test]
async fn secret_reflection_before_a_large_error_body_is_a_502() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut large = vec![b' '; 1_100_000];
    let at = 60 * 1024;
    large[at..at + API_KEY.len()].copy_from_slice(API_KEY.as_bytes());
    origin.next(vec![Action::Send(respond("401 No", &[], &large))]);
    let answer = gateway.get(STEP).await;
    assert_eq!(
        (answer.status, answer.code().as_deref()),
        (502, Some("upstream_invalid"))
    );
    assert!(!answer.everything().contains(API_KEY));
}
