//! Memory exhaustion by more entries than `max_bytes` holds (item 38).

use crate::hazards::load_test;
use crate::support::process::Launch;
use crate::support::{Action, Origin, RawClient, STEP, client::head, respond, step};

const MIB: u64 = 1024 * 1024;

/// Stores `steps` bodies of `body_bytes` each, and asserts that the cache and RSS stay bounded and that
/// the newest entries are stored. Small bodies test the overhead of an entry, large ones whether the
/// allocator returns freed memory.
async fn assert_bounded_by_bytes(max_mib: u64, body_bytes: usize, steps: usize) {
    let _alone = load_test().await;
    let max_bytes = max_mib * MIB;
    let toml = format!("[cache]\nmax_bytes = {max_bytes}\n[log]\naccess = \"off\"\n");
    let origin = Origin::start().await;
    let process = Launch::new(&origin.url(), &toml)
        .env(&[("TOKIO_WORKER_THREADS", "4")])
        .start()
        .await;
    process.get(STEP, &[]).await;
    let idle = process.memory("VmRSS:");
    let mut client = RawClient::connect(process.data).await;
    let padding = "x".repeat(body_bytes);
    let json = |id: &str| {
        format!(
            r#"{{"id":"{id}","run_id":"run_1","thread_id":"thread_1","object":"thread.run.step","status":"completed","x":"{padding}"}}"#
        )
    };
    let mut ask = async |id: &str| {
        client.send(head("GET", &step(id), "127.0.0.1", &[])).await;
        client.response().await
    };
    for nth in 0..steps {
        let id = format!("full_{nth}");
        origin.next(vec![Action::Send(respond("200 OK", &[], json(&id)))]);
        assert!(ask(&id).await.is_stored(), "entry {nth}");
    }

    let total = (steps * body_bytes) as u64;
    assert!(
        total >= 2 * max_bytes,
        "the bodies fit into the cache: {total} bytes"
    );
    let grown = process.memory("VmHWM:").saturating_sub(idle);
    assert!(
        grown <= max_bytes * 3 / 2,
        "RSS grew by {} KiB",
        grown / 1024
    );
    let cached = process.metric("stepgate_cache_bytes").await;
    assert!(cached <= max_bytes as f64, "{cached} bytes cached");
    assert!(
        cached >= max_bytes as f64 / 2.0,
        "only {cached} bytes cached"
    );
    // The newest entries are stored, the oldest was evicted.
    let fetches = origin.count();
    for nth in steps - 10..steps {
        assert!(ask(&format!("full_{nth}")).await.is_hit(), "entry {nth}");
    }
    assert_eq!(origin.count(), fetches);
    origin.next(vec![Action::Send(respond("200 OK", &[], json("full_0")))]);
    assert!(
        ask("full_0").await.is_stored(),
        "the oldest entry was not evicted"
    );
}

#[tokio::test]
async fn c38_memory_exhaustion_by_large_entries_is_bounded_and_new_entries_are_stored() {
    assert_bounded_by_bytes(32, 64 * 1024, 1_100).await;
}

#[tokio::test]
async fn c38_memory_exhaustion_by_the_largest_entries_is_bounded_and_new_entries_are_stored() {
    assert_bounded_by_bytes(32, 1_000_000, 250).await;
}

#[tokio::test]
async fn c38_memory_exhaustion_by_small_entries_is_bounded_and_new_entries_are_stored() {
    assert_bounded_by_bytes(16, 4 * 1024, 8_300).await;
}
