//! 64 file descriptors: enough for a few, and no reason to fall for the many.

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

/// Long enough that nothing here ends by itself.
const PATIENT: &str = "[server]\nheader_timeout = \"60s\"\n";

/// So many at the door. The kernel answers for those that fit its queue, and the others go on
/// knocking.
fn crowd(process: &Process) -> JoinSet<TcpStream> {
    let (address, mut crowd) = (process.data, JoinSet::new());
    for _ in 0..CROWD {
        crowd.spawn(async move { TcpStream::connect(address).await.unwrap() });
    }
    crowd
}

/// What it spends on a standstill. Half of it would be a loop that never rests.
async fn assert_no_spin(process: &Process) {
    let before = process.processor_time();
    // Not to wait for something: this standstill is what is looked at.
    sleep(Duration::from_secs(1)).await;
    let spent = process.processor_time() - before;
    assert!(spent < Duration::from_millis(250), "{spent:?} of a second");
}

/// A newcomer is answered within a second.
async fn assert_recovered(process: &Process, since: Instant) {
    assert_eq!(process.get(&step("after"), &[]).await.status, 200);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

async fn start(origin: &Origin) -> Process {
    Launch::new(&origin.url(), PATIENT)
        .max_descriptors(DESCRIPTORS)
        .start()
        .await
}

#[tokio::test]
async fn c45_with_64_descriptors_who_gets_in_is_answered_and_200_do_no_harm() {
    let origin = Origin::start().await;
    let process = start(&origin).await;
    let mut crowd = crowd(&process);
    let has_let_in = async || process.metric("stepgate_connections").await >= 10.0;
    until("as many as fit to be let in", has_let_in).await;
    assert_no_spin(&process).await;
    let live = client::send(process.admin, "GET", "/ready", &[]).await;
    assert_eq!(live.unwrap().status, 200, "the admin listener has its own");

    // All that are in ask at once, each for another step: each needs a fetch of its own.
    let inside = process.metric("stepgate_connections").await;
    let mut askers = Vec::new();
    while (askers.len() as f64) < inside {
        let connected = within("a connection", crowd.join_next()).await;
        askers.push(RawClient::over(connected.unwrap().unwrap()));
    }
    for (nth, asker) in askers.iter_mut().enumerate() {
        let path = step(&format!("step_{nth}"));
        asker.send(head("GET", &path, "127.0.0.1", &[])).await;
    }
    for asker in &mut askers {
        assert_eq!(asker.response().await.status, 200);
    }

    let since = Instant::now();
    drop((crowd, askers));
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

/// One HTTP/2 connection can ask for more fetches than there are descriptors.
#[tokio::test]
async fn c45_a_fetch_without_a_descriptor_is_503_and_accepting_does_not_spin() {
    let origin = Origin::start().await;
    let process = start(&origin).await;
    origin.always(vec![Action::Stall]);
    let mut peer = FrameClient::connect(process.data, 65_535).await;
    let streams = (0..80).map(|nth| 2 * nth + 1);
    for stream in streams {
        let path = step(&format!("step_{stream}"));
        assert!(peer.send(&request_frame("GET", &path, stream)).await);
    }
    // A handful of refusals: the others have taken all there was.
    let refused = peer.read_until(|heard| heard.kind == HEADERS && heard.stream > 120);
    within("a refusal", refused).await;
    let crowd = crowd(&process);
    let told = || process.output().matches("cannot accept").count();
    until("a connection that cannot be accepted", async || told() > 0).await;
    assert_no_spin(&process).await;
    assert_eq!(told(), 1, "it fills the log");

    let since = Instant::now();
    origin.always(vec![Action::Respond]);
    drop((peer, crowd));
    assert_recovered(&process, since).await;
    process.terminate().await;
    let (status, output) = process.exit().await;
    assert!(status.success(), "{output}");
    assert!(output.contains("code=\"overloaded\""), "{output}");
}

/// The same over HTTP/1.1, as a caller reads it.
#[tokio::test]
async fn c45_what_is_shed_for_want_of_descriptors_says_when_to_come_back() {
    let origin = Origin::start().await;
    let process = start(&origin).await;
    origin.always(vec![Action::Stall]);
    let mut asker = process.connect().await;
    process.wait_for_connections(1).await;
    let mut peer = FrameClient::connect(process.data, 65_535).await;
    for nth in 0..80 {
        let path = step(&format!("step_{nth}"));
        assert!(peer.send(&request_frame("GET", &path, 2 * nth + 1)).await);
    }
    within("a refusal", peer.read_until(|heard| heard.kind == HEADERS)).await;
    asker.send(head("GET", STEP, "127.0.0.1", &[])).await;
    let shed = asker.response().await;
    assert_eq!(
        (shed.status, shed.code().as_deref()),
        (503, Some("overloaded"))
    );
    assert_eq!(shed.header("retry-after"), Some("1"));
}
