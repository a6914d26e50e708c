//! Connections of clients: their number and their timeouts.

use std::time::Duration;

use stepgate::config::{Address, Config, Flags, Sources};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep};

use crate::support::client::{self, head};
use crate::support::gateway::ENVIRONMENT;
use crate::support::{Action, Gateway, Latch, Origin, STEP, respond, within};

/// An idle listener does not take a connection slot from another one.
#[tokio::test]
async fn an_idle_listener_reserves_no_connection_slot() {
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, "[server]\nmax_connections = 1\n").unwrap();
    let socket = format!("unix:{}", folder.path().join("s.sock").display());
    let config = Config::load(&Sources {
        file: Some(file),
        flags: Flags {
            listen: vec![socket, "127.0.0.1:0".to_owned()],
            admin: Some("127.0.0.1:0".to_owned()),
            upstream: Some(origin.url()),
            log_format: None,
        },
        env: &|name| {
            let found = ENVIRONMENT.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        },
    });
    let config = config.unwrap_or_else(|problems| panic!("the test's file:\n{problems}"));
    let server = Box::pin(stepgate::Server::start(
        config,
        &stepgate::server::Workers::current(),
    ))
    .await
    .unwrap();
    let tcp = server.data().iter().find_map(|address| match address {
        Address::Tcp(address) => Some(*address),
        Address::Unix(_) => None,
    });
    for nth in 0..5 {
        let response = client::send(tcp.unwrap(), "GET", STEP, &[]).await;
        assert_eq!(response.unwrap().status, 200, "request {nth}");
    }
    assert!(within("the drain", server.drain()).await);
}

const UNEVEN: &str = "[server]\nheader_timeout = \"300ms\"\nidle_timeout = \"8s\"\n";

/// The header timeout of the next request starts with its first byte, although the response to the
/// previous one has not been sent yet.
#[tokio::test]
async fn slowloris_half_a_head_behind_a_request_is_cut_at_the_header_timeout() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, UNEVEN).await;
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let mut client = gateway.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    client.send("GET /v1/half HTTP/1.1\r\nHo").await;
    gateway.wait_until_read().await;
    gate.open();
    assert_eq!(client.response().await.status, 200);
    assert!(client.closes_within(Duration::from_secs(4)).await);
}

/// The same if both arrive in one packet.
#[tokio::test]
async fn slowloris_half_a_head_pipelined_with_a_request_is_cut_at_the_header_timeout() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, UNEVEN).await;
    let mut client = gateway.connect().await;
    let request = head("GET", STEP, "127.0.0.1", &[]);
    client.send(request + "GET /v1/half HTTP/1.1\r\nHo").await;
    assert_eq!(client.response().await.status, 200);
    assert!(client.closes_within(Duration::from_secs(4)).await);
}

const SHORT_TIMEOUTS: &str = "[server]\nheader_timeout = \"500ms\"\nidle_timeout = \"500ms\"\n";

/// A client that reads slowly but steadily is not cut.
#[tokio::test]
async fn a_slow_but_steady_reader_of_a_streamed_body_is_not_cut() {
    const SIZE: usize = 24 << 20;
    let origin = Origin::start().await;
    let toml = "[server]\nheader_timeout = \"1s\"\nidle_timeout = \"1s\"\n";
    let gateway = Gateway::start(&origin, toml).await;
    let length = [("content-length", &*SIZE.to_string())];
    let start = Instant::now();
    origin.next(vec![
        Action::Send(respond("200 OK", &length, "")),
        Action::Repeat(vec![b' '; 1 << 20], SIZE >> 20),
    ]);
    let socket = TcpSocket::new_v4().unwrap();
    // A small receive buffer: bytes in flight are few beside those read within an idle timeout.
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut io = socket.connect(gateway.address()).await.unwrap();
    let request = head("GET", STEP, "127.0.0.1", &[]);
    io.write_all(request.as_bytes()).await.unwrap();
    let (mut read, mut chunk) = (0, vec![0; 256 * 1024]);
    while read < SIZE {
        sleep(Duration::from_millis(25)).await;
        let mut taken = 0;
        while taken < chunk.len() && read + taken < SIZE {
            let more = within("more of the body", io.read(&mut chunk[taken..])).await;
            let more = more.unwrap();
            assert!(more > 0, "cut after {read} bytes and {:?}", start.elapsed());
            taken += more;
        }
        read += taken;
    }
    assert!(
        start.elapsed() > Duration::from_secs(2),
        "the body was read too fast to test the timeout"
    );
}

/// While the upstream is silent, its deadline counts and not the idle timeout of the client.
#[tokio::test]
async fn a_client_is_not_cut_while_the_upstream_is_silent() {
    const SIZE: usize = 3 << 20;
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, SHORT_TIMEOUTS).await;
    let length = [("content-length", &*SIZE.to_string())];
    origin.next(vec![
        Action::Send(respond("200 OK", &length, vec![b' '; SIZE - 3])),
        Action::Pause(Duration::from_millis(1500)),
        Action::Send(b"a".to_vec()),
        Action::Pause(Duration::from_millis(1500)),
        Action::Send(b"bc".to_vec()),
    ]);
    let response = gateway.get(STEP).await;
    assert_eq!((response.status, response.body.len()), (200, SIZE));
    assert!(response.body.ends_with(b" abc"));
}
