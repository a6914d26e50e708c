//! SIGSTOP and SIGCONT, kill -9 and restart (item 50).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::client::head;
use crate::support::process::Launch;
use crate::support::{Action, Latch, Origin, Process, STEP, body, client, step};

/// Stands for the ten seconds of the catalogue: it exceeds every timeout of [`SHORT_TIMEOUTS`].
const STOPPED: Duration = Duration::from_secs(2);

const SHORT_TIMEOUTS: &str = "[server]\nheader_timeout = \"1s\"\nidle_timeout = \"1s\"\n";

async fn assert_healthy(process: &Process, since: Instant) {
    let ready = client::send(process.admin, "GET", "/ready", &[]).await;
    assert_eq!(ready.unwrap().status, 200);
    let response = process.get(&step("afterwards"), &[]).await;
    assert_eq!(response.status, 200);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(1), "healthy after {took:?}");
}

/// A request that arrived in time is not late because the process was stopped.
#[tokio::test]
async fn c50_sigstop_then_sigcont_is_healthy_at_once_and_loses_no_request() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, SHORT_TIMEOUTS, "info").await;
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let mut in_flight = process.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    let mut open = process.connect().await;
    process.wait_for_connections(2).await;

    process.signal("STOP").await;
    // Bytes arrive while it is stopped: on an open connection, on a new one, and from the upstream.
    open.send(head("GET", &step("open"), "127.0.0.1", &[]))
        .await;
    let mut new = process.send_get(&step("new"), &[]).await;
    gate.open();
    sleep(STOPPED).await;
    let since = Instant::now();
    process.signal("CONT").await;

    assert_healthy(&process, since).await;
    assert_eq!(in_flight.response().await.body, body("completed"));
    assert_eq!(open.response().await.status, 200);
    assert_eq!(new.response().await.status, 200);
}

#[tokio::test]
async fn c50_kill_9_then_restart_at_the_same_address_is_healthy_at_once() {
    let origin = Origin::start().await;
    let killed = Process::start(&origin, "", "info").await;
    let listen = killed.data.to_string();
    // Open connections of the killed process keep the port in TIME_WAIT; SO_REUSEADDR gets past that.
    let mut open = killed.send_get(STEP, &[]).await;
    assert_eq!(open.response().await.status, 200);
    origin.always(vec![Action::Stall]);
    let mut in_flight = killed.send_get(&step("in_flight"), &[]).await;
    origin.wait_for_requests(2).await;
    killed.signal("KILL").await;
    let (status, _) = killed.exit().await;
    assert_eq!(status.code(), None, "the process exited by itself");
    assert!(in_flight.try_response("GET").await.is_err());

    origin.always(vec![Action::Respond]);
    let since = Instant::now();
    let process = Launch::new(&origin.url(), "").listen(&listen).start().await;
    assert_eq!(process.data.to_string(), listen);
    assert_healthy(&process, since).await;
}
