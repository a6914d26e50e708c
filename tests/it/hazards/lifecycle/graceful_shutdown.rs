//! Graceful shutdown (item 49).

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::client::head;
use crate::support::frames::{DATA, FrameClient, GOAWAY, HEADERS, request_frame};
use crate::support::{
    Action, ClientError, Latch, Origin, Process, RawClient, STEP, client, step, until, within,
};

/// Polls until the connection ends; returns the number of whole responses, and what arrived of the
/// last one.
async fn poll_to_the_end(mut client: RawClient, path: String) -> (usize, ClientError) {
    let mut responses = 0;
    loop {
        client.send(head("GET", &path, "127.0.0.1", &[])).await;
        match client.try_response("GET").await {
            Ok(response) => assert_eq!(response.status, 200),
            Err(broken) => return (responses, broken),
        }
        responses += 1;
    }
}

async fn is_unready(process: &Process) -> bool {
    let response = client::send(process.admin, "GET", "/ready", &[]).await;
    response.is_ok_and(|response| response.status == 503)
}

async fn is_closed(process: &Process) -> bool {
    TcpStream::connect(process.data).await.is_err()
}

#[tokio::test]
async fn c49_graceful_shutdown_under_load_answers_all_accepted_requests() {
    const TIMEOUT: Duration = Duration::from_secs(8);
    let origin = Origin::start().await;
    let process = Process::start(&origin, "[server]\ndrain_timeout = \"8s\"\n", "info").await;
    process.get(STEP, &[]).await;
    // Five clients poll a stored step as fast as they can, ten wait for a fetch over HTTP/1.1 and one
    // over HTTP/2, and five long-poll a live step.
    let mut pollers = JoinSet::new();
    for _ in 0..5 {
        pollers.spawn(poll_to_the_end(process.connect().await, STEP.to_owned()));
    }
    let gate = Latch::closed();
    origin.always(vec![
        Action::Wait(gate.clone()),
        Action::RespondStatus("completed"),
    ]);
    let mut in_flight = Vec::new();
    for nth in 0..10 {
        in_flight.push(process.send_get(&step(&format!("nth_{nth}")), &[]).await);
    }
    let mut peer = FrameClient::connect(process.data, 65_535).await;
    peer.send(&request_frame("GET", &step("h2"), 1)).await;
    origin.wait_for_requests(12).await;
    origin.always(vec![Action::RespondStatus("in_progress")]);
    let mut long_polls = Vec::new();
    for _ in 0..5 {
        long_polls.push(
            process
                .send_get(&step("live"), &[("Prefer", "wait=60")])
                .await,
        );
    }
    let all_wait = async || process.metric("stepgate_long_polls").await == 5.0;
    until("all long polls to be counted", all_wait).await;
    // A fetch that starts from now on is for all five.
    let answered = "stepgate_upstream_requests_total{rule=\"run-step\",class=\"2xx\"}";
    let so_far = process.metric(answered).await;
    until("two more fetches", async || {
        process.metric(answered).await >= so_far + 2.0
    })
    .await;

    let start = Instant::now();
    process.terminate().await;
    until("readiness to end", async || is_unready(&process).await).await;
    until("the data listener to close", async || {
        is_closed(&process).await
    })
    .await;
    for mut waiter in long_polls {
        let response = waiter.response().await;
        assert_eq!(
            (response.status, response.json()["status"].as_str()),
            (200, Some("in_progress"))
        );
    }
    within("a GOAWAY", peer.read_until(|heard| heard.kind == GOAWAY)).await;
    gate.open();
    for mut client in in_flight {
        let response = client.response().await;
        assert_eq!(
            (response.status, response.header("connection")),
            (200, Some("close"))
        );
        assert!(
            client.rest().await.is_empty(),
            "bytes after the last response"
        );
    }
    within("the end of the HTTP/2 connection", peer.read_to_end()).await;
    assert_eq!(peer.payloads(HEADERS, 1).len(), 1);
    assert!(!peer.payloads(DATA, 1).concat().is_empty());
    for (responses, last) in within("the end of the pollers", pollers.join_all()).await {
        assert!(responses > 0);
        // The last request came too late and got nothing; a truncated response would be a failure.
        assert!(last.status.is_none() && last.body.is_empty(), "{last}");
    }
    let (status, output) = process.exit().await;
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
    assert!(output.contains("all_answered=true"), "{output}");
}

/// The kernel accepts connections for a stopped process: all of these requests precede the signal.
#[tokio::test]
async fn c49_graceful_shutdown_answers_connections_in_the_accept_queue() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, "", "info").await;
    process.get(STEP, &[]).await;
    process.signal("STOP").await;
    let mut queued = Vec::new();
    for _ in 0..100 {
        queued.push(process.send_get(STEP, &[]).await);
    }
    process.terminate().await;
    process.signal("CONT").await;
    for client in &mut queued {
        assert_eq!(client.response().await.status, 200);
    }
    assert!(process.exit().await.0.success());
}

#[tokio::test]
async fn c49_graceful_shutdown_answers_draining_one_second_before_its_end() {
    let origin = Origin::start().await;
    let toml = "[server]\ndrain_timeout = \"2s\"\n";
    let process = Process::start(&origin, toml, "info").await;
    origin.always(vec![Action::Stall]);
    let mut client = process.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    let start = Instant::now();
    process.terminate().await;
    let response = client.response().await;
    let after = start.elapsed();
    assert_eq!(response.status, 503);
    assert_eq!(response.code().as_deref(), Some("draining"));
    assert!(response.header("retry-after").is_some());
    assert!(after >= Duration::from_millis(900), "after {after:?}");
    let (status, output) = process.exit().await;
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn c49_second_signal_ends_the_process_at_once() {
    for name in ["TERM", "INT"] {
        let origin = Origin::start().await;
        let process = Process::start(&origin, "", "info").await;
        origin.always(vec![Action::Stall]);
        let _in_flight = process.send_get(STEP, &[]).await;
        origin.wait_for_requests(1).await;
        process.terminate().await;
        until("the drain to begin", async || is_unready(&process).await).await;
        let start = Instant::now();
        process.signal(name).await;
        let (status, output) = process.exit().await;
        assert_eq!(status.code(), Some(1), "{name}: {output}");
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
    }
}

#[tokio::test]
async fn c49_lame_duck_is_not_ready_and_still_serves() {
    let origin = Origin::start().await;
    let toml = "[server]\nlame_duck = \"5s\"\n";
    let process = Process::start(&origin, toml, "info").await;
    process.terminate().await;
    until("readiness to end", async || is_unready(&process).await).await;
    assert_eq!(process.get(STEP, &[]).await.status, 200);
}
