//! Stopped and continued, killed and started again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::client::head;
use crate::support::process::Launch;
use crate::support::{Action, Latch, Origin, Process, STEP, body, client, step};

/// Stands for the ten seconds of the catalogue: longer than every limit of [`IMPATIENT`].
const STOPPED: Duration = Duration::from_secs(2);

const IMPATIENT: &str = "[server]\nheader_timeout = \"1s\"\nidle_timeout = \"1s\"\n";

async fn assert_healthy(process: &Process, since: Instant) {
    let ready = client::send(process.admin, "GET", "/ready", &[]).await;
    assert_eq!(ready.unwrap().status, 200);
    let answer = process.get(&step("afterwards"), &[]).await;
    assert_eq!(answer.status, 200);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(1), "healthy after {took:?}");
}

/// What came in time is not late because the process was stopped.
#[tokio::test]
async fn c50_after_a_stop_it_is_healthy_at_once_and_has_lost_nothing() {
    let origin = Origin::start().await;
    let process = Process::start(&origin, IMPATIENT, "info").await;
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let mut flying = process.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    let mut open = process.connect().await;
    process.wait_for_connections(2).await;

    process.signal("STOP").await;
    // Sent while it is stopped: on an open connection, on a new one, and by the upstream.
    open.send(head("GET", &step("open"), "127.0.0.1", &[]))
        .await;
    let mut new = process.send_get(&step("new"), &[]).await;
    gate.open();
    sleep(STOPPED).await;
    let since = Instant::now();
    process.signal("CONT").await;

    assert_healthy(&process, since).await;
    assert_eq!(flying.response().await.body, body("completed"));
    assert_eq!(open.response().await.status, 200);
    assert_eq!(new.response().await.status, 200);
}

#[tokio::test]
async fn c50_killed_and_started_at_the_same_address_it_is_healthy_at_once() {
    let origin = Origin::start().await;
    let killed = Process::start(&origin, "", "info").await;
    let listen = killed.data.to_string();
    // Connections that are open when it dies keep the port in use, for those who do not know how.
    let mut open = killed.send_get(STEP, &[]).await;
    assert_eq!(open.response().await.status, 200);
    origin.always(vec![Action::Stall]);
    let mut flying = killed.send_get(&step("flying"), &[]).await;
    origin.wait_for_requests(2).await;
    killed.signal("KILL").await;
    let (status, _) = killed.exit().await;
    assert_eq!(status.code(), None, "it ended by itself");
    assert!(flying.try_response("GET").await.is_err());

    origin.always(vec![Action::Respond]);
    let since = Instant::now();
    let process = Launch::new(&origin.url(), "").listen(&listen).start().await;
    assert_eq!(process.data.to_string(), listen);
    assert_healthy(&process, since).await;
}
