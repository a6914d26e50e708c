//! Memory stays bounded while large bodies are streamed (item 26).

use crate::hazards::load_test;
use crate::support::client::head;
use crate::support::{Action, Origin, Process, RawClient, STEP, respond};

const MIB: u64 = 1024 * 1024;

/// The size of the streamed body in MiB.
const STREAMED: u64 = 1024;

#[tokio::test]
async fn c26_memory_exhaustion_by_a_1_gib_chunked_body_grows_rss_by_at_most_16_mib() {
    let _alone = load_test().await;
    let origin = Origin::start().await;
    // The default deadline of 60 s would cut the body on a busy machine.
    let process = Process::start(&origin, "[upstream]\ntimeout = \"10m\"\n", "info").await;
    // The first request allocates what the process keeps for good.
    process.get(STEP, &[]).await;
    let before = process.memory("VmRSS:");
    let chunk = [&b"100000\r\n"[..], &[b' '; 0x10_0000], b"\r\n"].concat();
    let coding = [("transfer-encoding", "chunked")];
    origin.next(vec![
        Action::Send(respond("200 OK", &coding, "")),
        Action::Repeat(chunk, usize::try_from(STREAMED).unwrap()),
        Action::Send(b"0\r\n\r\n".to_vec()),
    ]);
    let mut client = RawClient::connect(process.data).await;
    let large = format!("{STEP}_large");
    client.send(head("GET", &large, "127.0.0.1", &[])).await;
    client.discard(STREAMED * MIB).await;
    let grown = process.memory("VmHWM:").saturating_sub(before);
    assert!(
        grown <= 16 * MIB,
        "RSS grew by {} KiB for {STREAMED} MiB",
        grown / 1024
    );
}
