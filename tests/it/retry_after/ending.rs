//! The end of a block: after `min(Retry-After, max_retry_after)`, with a probe first.

use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{blocked, too_many};
use crate::support::client;
use crate::support::{Action, Gateway, Latch, Origin, STEP, step, text, until};

/// The time that a busy machine may add to the end of a block.
const LATE: Duration = Duration::from_millis(900);

/// Polls until the block has ended; returns how long after `at` that was.
async fn blocked_for(gateway: &Gateway, at: Instant) -> Duration {
    let answered = async || match gateway.get(STEP).await.status {
        429 => false,
        200 => true,
        other => panic!("neither rate limited nor fetched: {other}"),
    };
    until("the end of the block", answered).await;
    at.elapsed()
}

/// Returns the IMF-fixdate (RFC 9110 section 5.6.7) that is so many whole seconds from now.
#[expect(
    clippy::disallowed_methods,
    reason = "a date on the wire is the real one"
)]
fn http_date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let then = SystemTime::now() + Duration::from_secs(seconds);
    let days = then
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        / 86_400;
    let text = humantime::format_rfc3339_seconds(then).to_string();
    let month: usize = text[5..7].parse().unwrap();
    let weekday = DAYS[usize::try_from(days % 7).unwrap()];
    let (day, month, year, time) = (&text[8..10], MONTHS[month - 1], &text[..4], &text[11..19]);
    format!("{weekday}, {day} {month} {year} {time} GMT")
}

async fn assert_lasts(header: (&str, &str), soonest: u64, latest: u64) {
    let origin = Origin::start().await;
    let (gateway, at) = blocked(&origin, "", &[header]).await;
    let took = blocked_for(&gateway, at).await;
    assert!(
        took >= Duration::from_millis(soonest),
        "{header:?}: {took:?}"
    );
    assert!(
        took <= Duration::from_millis(latest) + LATE,
        "{header:?}: {took:?}"
    );
    assert_eq!(origin.count(), 2, "{header:?}");
}

#[tokio::test]
async fn the_gate_blocks_for_as_long_as_retry_after_says() {
    assert_lasts(("retry-after", "2"), 2000, 2000).await;
    assert_lasts(("retry-after-ms", "1500"), 1500, 1500).await;
    // A date counts whole seconds, of which the first has begun, and the gateway still has to start.
    assert_lasts(("retry-after", &http_date(3)), 1500, 3000).await;
}

#[tokio::test]
async fn the_gate_never_blocks_longer_than_max_retry_after() {
    let origin = Origin::start().await;
    let toml = "[upstream]\nmax_retry_after = \"1s\"\n";
    let (gateway, at) = blocked(&origin, toml, &[("retry-after", "86400")]).await;
    let took = blocked_for(&gateway, at).await;
    let second = Duration::from_secs(1);
    assert!(took >= second && took <= second + LATE, "{took:?}");
    assert_eq!(origin.count(), 2);
}

/// Starts ten clients, each polling a step of its own until it is no longer rate limited.
fn ten_clients(gateway: &Gateway) -> JoinSet<u16> {
    let address = gateway.address();
    let mut clients = JoinSet::new();
    for n in 0..10 {
        clients.spawn(async move {
            loop {
                let path = step(&format!("step_{n}"));
                let response = client::send(address, "GET", &path, &[]).await.unwrap();
                match response.status {
                    429 => sleep(Duration::from_millis(20)).await,
                    status => return status,
                }
            }
        });
    }
    clients
}

#[tokio::test]
async fn one_probe_is_sent_first_when_the_block_ends() {
    let origin = Origin::start().await;
    let (gateway, _) = blocked(&origin, "", &[("retry-after-ms", "500")]).await;
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), Action::Respond]);
    let clients = ten_clients(&gateway);
    origin.wait_for_requests(2).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(origin.count(), 2, "another fetch started beside the probe");
    gate.open();
    assert_eq!(clients.join_all().await, [200; 10]);
    assert_eq!(origin.count(), 11);
}

#[tokio::test]
async fn a_probe_answered_with_429_blocks_again() {
    let origin = Origin::start().await;
    let (gateway, at) = blocked(&origin, "", &[("retry-after-ms", "500")]).await;
    origin.next(too_many(&[("retry-after-ms", "1500")]));
    let clients = ten_clients(&gateway);
    origin.wait_for_requests(3).await;
    let took = at.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert!(took <= Duration::from_secs(2) + LATE, "{took:?}");
    assert_eq!(clients.join_all().await, [200; 10]);
    assert_eq!(origin.count(), 12);
}

#[tokio::test]
async fn a_probe_that_fails_otherwise_ends_the_block() {
    let origin = Origin::start().await;
    let (gateway, at) = blocked(&origin, "", &[("retry-after-ms", "500")]).await;
    origin.next(vec![
        Action::Send(b"nonsense\r\n\r\n".to_vec()),
        Action::Close,
    ]);
    let probed = async || gateway.get(STEP).await.status == 502;
    until("the probe", probed).await;
    assert!(at.elapsed() >= Duration::from_millis(500));
    let response = gateway.get(STEP).await;
    assert_eq!((response.status, response.text()), (200, text("completed")));
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn a_probe_cancelled_by_its_client_does_not_prolong_the_block() {
    let origin = Origin::start().await;
    let (gateway, at) = blocked(&origin, "", &[("retry-after-ms", "500")]).await;
    origin.next(vec![Action::Stall]);
    let probed = async || {
        let probe = gateway.send_get(STEP, &[]).await;
        sleep(Duration::from_millis(50)).await;
        drop(probe);
        origin.count() == 2
    };
    until("the probe", probed).await;
    origin.wait_for_hangups(1).await;
    blocked_for(&gateway, at).await;
    assert_eq!(origin.count(), 3);
}
