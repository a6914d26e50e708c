//! File descriptor exhaustion (item 45): 64 descriptors and 200 connections.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::client::head;
use crate::support::frames::{FrameClient, HEADERS, request_frame};
use crate::support::process::Launch;
use crate::support::{Action, Origin, Process, RawClient, STEP, client, step, until, within};

const DESCRIPTORS: usize = 64;
const CROWD: usize = 200;

/// A header timeout that no connection of these tests reaches.
const LONG_TIMEOUT: &str = "[server]\nheader_timeout = \"60s\"\n";

/// Opens [`CROWD`] connections. The kernel accepts those that fit the accept queue; the others retry
/// their SYN.
fn crowd(process: &Process) -> JoinSet<TcpStream> {
    let (address, mut crowd) = (process.data, JoinSet::new());
    for _ in 0..CROWD {
        crowd.spawn(async move { TcpStream::connect(address).await.unwrap() });
    }
    crowd
}

/// Asserts that a gateway which can do nothing uses little CPU: a busy loop would use at least half a
/// core.
async fn assert_no_spin(process: &Process) {
    let before = process.processor_time();
    // The test measures this second; it does not wait for an event.
    sleep(Duration::from_secs(1)).await;
    let spent = process.processor_time() - before;
    assert!(spent < Duration::from_millis(250), "{spent:?} CPU in 1 s");
}

/// Asserts that a new connection is served within a second.
async fn assert_recovered(process: &Process, since: Instant) {
    assert_eq!(process.get(&step("after"), &[]).await.status, 200);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(1), "recovered after {took:?}");
}

async fn start(origin: &Origin) -> Process {
    Launch::new(&origin.url(), LONG_TIMEOUT)
        .max_descriptors(DESCRIPTORS)
        .start()
        .await
}

#[tokio::test]
async fn c45_fd_exhaustion_accepted_connections_are_served() {
    let origin = Origin::start().await;
    let process = start(&origin).await;
    let mut crowd = crowd(&process);
    let has_accepted = async || process.metric("stepgate_connections").await >= 10.0;
    until("as many connections as fit to be accepted", has_accepted).await;
    assert_no_spin(&process).await;
    let live = client::send(process.admin, "GET", "/ready", &[]).await;
    assert_eq!(
        live.unwrap().status,
        200,
        "the admin listener keeps descriptors of its own"
    );

    // Each accepted connection requests another step, so each needs a fetch of its own.
    let accepted = process.metric("stepgate_connections").await;
    let mut clients = Vec::new();
    while (clients.len() as f64) < accepted {
        let connected = within("a connection", crowd.join_next()).await;
        clients.push(RawClient::over(connected.unwrap().unwrap()));
    }
    for (nth, client) in clients.iter_mut().enumerate() {
        let path = step(&format!("step_{nth}"));
        client.send(head("GET", &path, "127.0.0.1", &[])).await;
    }
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }

    let since = Instant::now();
    drop((crowd, clients));
    assert_recovered(&process, since).await;
    process.terminate().await;
    let (status, output) = process.exit().await;
    assert!(status.success(), "{output}");
    let warning = output.lines().find(|l| l.contains("limit of open files"));
    let warning = warning.expect("a warning at the start");
    for word in ["open_files=64", "max_connections=10000", "needed=10344"] {
        assert!(warning.contains(word), "{word}: {warning}");
    }
}

/// One HTTP/2 connection requests more fetches than there are descriptors.
#[tokio::test]
async fn c45_fd_exhaustion_in_fetches_is_503_and_accept_does_not_spin() {
    let origin = Origin::start().await;
    let process = start(&origin).await;
    origin.always(vec![Action::Stall]);
    let mut peer = FrameClient::connect(process.data, 65_535).await;
    let streams = (0..80).map(|nth| 2 * nth + 1);
    for stream in streams {
        let path = step(&format!("step_{stream}"));
        assert!(peer.send(&request_frame("GET", &path, stream)).await);
    }
    // A response to one of the last streams: the earlier ones have taken all descriptors.
    let refused = peer.read_until(|heard| heard.kind == HEADERS && heard.stream > 120);
    within("a 503", refused).await;
    let crowd = crowd(&process);
    let warnings = || process.output().matches("cannot accept").count();
    until("a connection that cannot be accepted", async || {
        warnings() > 0
    })
    .await;
    assert_no_spin(&process).await;
    assert_eq!(warnings(), 1, "the warning is repeated");

    let since = Instant::now();
    origin.always(vec![Action::Respond]);
    drop((peer, crowd));
    assert_recovered(&process, since).await;
    process.terminate().await;
    let (status, output) = process.exit().await;
    assert!(status.success(), "{output}");
    assert!(output.contains("code=\"overloaded\""), "{output}");
}

/// The same over HTTP/1.1.
#[tokio::test]
async fn c45_fd_exhaustion_503_carries_retry_after() {
    let origin = Origin::start().await;
    let process = start(&origin).await;
    origin.always(vec![Action::Stall]);
    let mut client = process.connect().await;
    process.wait_for_connections(1).await;
    let mut peer = FrameClient::connect(process.data, 65_535).await;
    for nth in 0..80 {
        let path = step(&format!("step_{nth}"));
        assert!(peer.send(&request_frame("GET", &path, 2 * nth + 1)).await);
    }
    within("a 503", peer.read_until(|heard| heard.kind == HEADERS)).await;
    client.send(head("GET", STEP, "127.0.0.1", &[])).await;
    let rejected = client.response().await;
    assert_eq!(
        (rejected.status, rejected.code().as_deref()),
        (503, Some("overloaded"))
    );
    assert_eq!(rejected.header("retry-after"), Some("1"));
}
