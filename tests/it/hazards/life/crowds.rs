//! Many connections that do nothing, and those that take their answers slowly.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::latency::LatencyProbe;
use crate::support::{Action, Origin, Process, STEP, respond, step, within};

const MIB: u64 = 1024 * 1024;

/// A body that is stored, and larger than what the system takes off our hands.
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
async fn c44_slow_readers_of_a_large_body_cost_little_and_slow_nobody() {
    const READERS: usize = 50;
    let origin = Origin::start().await;
    let toml = "[cache]\nmax_entry_bytes = \"16MiB\"\n[server]\nidle_timeout = \"2s\"\n";
    let process = Process::start(&origin, toml, "info").await;
    let size = store_large_body(&origin, &process).await as u64;
    let before = process.memory("VmRSS:");
    let mut pulse = LatencyProbe::start(process.data, STEP).await;
    let calm = pulse.median_of(50).await;

    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(process.send_get(&step("large"), &[]).await);
    }
    process.wait_for_connections(READERS + 1).await;
    let busy = pulse.median_of(200).await;
    assert!(
        busy < 5 * calm + Duration::from_millis(20),
        "{calm:?}, then {busy:?}"
    );
    let grown = process.memory("VmHWM:").saturating_sub(before);
    // Fifty copies would be 400 MiB.
    assert!(
        grown < 2 * size,
        "{} MiB for readers that do not read",
        grown / MIB
    );

    // Their time is over; who reads meanwhile is not meant.
    within("the slow readers to be cut", async {
        while process.metric("stepgate_connections").await > 1.0 {
            pulse.median_of(5).await;
        }
    })
    .await;
}

#[tokio::test]
async fn c44_ten_thousand_idle_connections_are_capped_and_slow_nobody() {
    let (descriptors, _) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
    // All of one end are here, beside those of the other tests.
    let idle = usize::try_from(descriptors / 2).unwrap().min(10_000);
    let cap = idle - 50;
    let origin = Origin::start().await;
    let toml = format!("[server]\nmax_connections = {cap}\nheader_timeout = \"60s\"\n");
    let process = Process::start(&origin, &toml, "info").await;
    let before = process.memory("VmRSS:");
    let mut pulse = LatencyProbe::start(process.data, STEP).await;
    let calm = pulse.median_of(50).await;

    let mut connections = Vec::with_capacity(idle);
    for _ in 0..idle {
        let connection = within("a connection", TcpStream::connect(process.data)).await;
        connections.push(connection.unwrap());
    }
    process.wait_for_connections(cap).await;
    let busy = pulse.median_of(200).await;
    assert!(
        busy < 5 * calm + Duration::from_millis(20),
        "{calm:?}, then {busy:?}"
    );
    assert_eq!(process.metric("stepgate_connections").await, cap as f64);
    let each = process.memory("VmHWM:").saturating_sub(before) / cap as u64;
    assert!(each < 16 * 1024, "{each} bytes for each idle connection");

    // Who waited for a place gets one when the others go.
    let mut late = JoinSet::new();
    for connection in connections.split_off(cap + 10) {
        let mut raw = crate::support::RawClient::over(connection);
        late.spawn(async move {
            raw.send(crate::support::client::head("GET", STEP, "localhost", &[]))
                .await;
            raw.response().await.status
        });
    }
    drop(connections);
    let statuses = within("answers for the latecomers", late.join_all()).await;
    assert_eq!(statuses, [200; 40]);
}
