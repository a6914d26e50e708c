//! Connections that are idle or read slowly (item 44).

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::hazards::load_test;
use crate::support::latency::LatencyProbe;
use crate::support::{Action, Origin, Process, STEP, respond, step, within};

const MIB: u64 = 1024 * 1024;

/// Stores a body that is larger than the socket buffers, and returns its length.
async fn store_large_body(origin: &Origin, process: &Process) -> usize {
    let json = format!(
        r#"{{"id":"large","run_id":"run_1","thread_id":"thread_1","object":"thread.run.step","status":"completed","x":"{}"}}"#,
        "x".repeat(8 << 20)
    );
    origin.next(vec![Action::Send(respond("200 OK", &[], &json))]);
    let stored = process.get(&step("large"), &[]).await;
    assert!(stored.is_stored(), "{}", stored.cache_status());
    json.len()
}

#[tokio::test]
async fn c44_slow_read_attack_is_bounded_and_slows_no_other_client() {
    const READERS: usize = 50;
    let _alone = load_test().await;
    let origin = Origin::start().await;
    let toml = "[cache]\nmax_entry_bytes = \"16MiB\"\n[server]\nidle_timeout = \"2s\"\n";
    let process = Process::start(&origin, toml, "info").await;
    let size = store_large_body(&origin, &process).await as u64;
    let before = process.memory("VmRSS:");
    let mut probe = LatencyProbe::start(process.data, STEP).await;
    let unloaded = Process::start(&origin, "", "info").await;
    let mut control = LatencyProbe::start(unloaded.data, STEP).await;

    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(process.send_get(&step("large"), &[]).await);
    }
    process.wait_for_connections(READERS + 1).await;
    let (busy, calm) = probe.medians_beside(&mut control, 200).await;
    assert!(
        busy < 5 * calm + Duration::from_millis(20),
        "latency of another client: {busy:?}, on an unloaded gateway {calm:?}"
    );
    let grown = process.memory("VmHWM:").saturating_sub(before);
    // One copy for each of the fifty readers would be 400 MiB.
    assert!(grown < 2 * size, "slow readers cost {} MiB", grown / MIB);

    // The idle timeout cuts the slow readers, and not the connection that polls meanwhile.
    within("the slow readers to be cut", async {
        while process.metric("stepgate_connections").await > 1.0 {
            probe.measure().await;
        }
    })
    .await;
}

#[tokio::test]
async fn c44_connection_exhaustion_is_capped_and_slows_no_other_client() {
    let _alone = load_test().await;
    let (descriptors, _) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
    // This process holds one end of each connection, beside the connections of other tests.
    let idle = usize::try_from(descriptors / 2).unwrap().min(10_000);
    let cap = idle - 50;
    let origin = Origin::start().await;
    let toml = format!("[server]\nmax_connections = {cap}\nheader_timeout = \"60s\"\n");
    let process = Process::start(&origin, &toml, "info").await;
    let before = process.memory("VmRSS:");
    let mut probe = LatencyProbe::start(process.data, STEP).await;
    let unloaded = Process::start(&origin, "", "info").await;
    let mut control = LatencyProbe::start(unloaded.data, STEP).await;

    let mut connections = Vec::with_capacity(idle);
    for _ in 0..idle {
        let connection = within("a connection", TcpStream::connect(process.data)).await;
        connections.push(connection.unwrap());
    }
    process.wait_for_connections(cap).await;
    let (busy, calm) = probe.medians_beside(&mut control, 200).await;
    assert!(
        busy < 5 * calm + Duration::from_millis(20),
        "latency of another client: {busy:?}, on an unloaded gateway {calm:?}"
    );
    assert_eq!(process.metric("stepgate_connections").await, cap as f64);
    let each = process.memory("VmHWM:").saturating_sub(before) / cap as u64;
    assert!(each < 16 * 1024, "{each} bytes for each idle connection");

    // The connections that wait in the accept queue are served when the others close.
    let mut late = JoinSet::new();
    for connection in connections.split_off(cap + 10) {
        let mut client = crate::support::RawClient::over(connection);
        late.spawn(async move {
            client
                .send(crate::support::client::head("GET", STEP, "localhost", &[]))
                .await;
            client.response().await.status
        });
    }
    drop(connections);
    let statuses = within("responses for the queued connections", late.join_all()).await;
    assert_eq!(statuses, [200; 40]);
}
