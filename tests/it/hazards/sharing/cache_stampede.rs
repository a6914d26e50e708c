//! Cache stampede: what a thousand pollers of one step cost (item 35).
//!
//! The bounds on fetches follow the time that the run took: if the machine is slow to deliver the
//! requests, as many fetches are allowed as windows have passed.

use std::time::Duration;

use super::WINDOW;
use crate::hazards::load_test;
use crate::support::{Action, Clients, Gateway, Origin, STEP, TimedResponse, step, text};

/// Returns the time that the machine may add to a thousand responses: 1.5 s for an unoptimised build on
/// two cores, or three times what a thousand hits take now, if other work keeps the cores busy.
async fn scheduling(gateway: &Gateway, origin: &Origin) -> Duration {
    origin.set_status("completed");
    let path = step("hit");
    assert!(gateway.get(&path).await.is_stored());
    let hits = Clients::connect(gateway, 1000).await.get(&path, &[]).await;
    let slowest = hits.last().unwrap().after;
    Duration::from_millis(1500).max(3 * slowest)
}

/// Returns how many fetches fit in `time`, one a window.
fn fetches_in(time: Duration) -> usize {
    1 + usize::try_from(time.as_millis() / WINDOW.as_millis()).unwrap()
}

/// Sends a thousand requests at once; returns their equal responses, the earliest first.
async fn a_thousand_responses(gateway: &Gateway, step_status: &str) -> Vec<TimedResponse> {
    let clients = Clients::connect(gateway, 1000).await;
    let served = clients.get(STEP, &[]).await;
    assert_eq!(served.len(), 1000);
    for one in &served {
        let (status, body) = (one.response.status, one.response.text());
        assert_eq!((status, body), (200, text(step_status)));
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c35_thundering_herd_1000_pollers_of_a_live_step_cost_three_fetches() {
    let _alone = load_test().await;
    let latency = Duration::from_millis(200);
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    origin.always(vec![Action::Pause(latency), Action::Respond]);
    let gateway = Gateway::start(&origin, "").await;
    let served = a_thousand_responses(&gateway, "in_progress").await;
    let slowest = served.last().unwrap().after;
    // Three, unless this machine was too slow to deliver all requests within a window.
    let allowed = fetches_in(slowest.saturating_sub(latency)).max(3);
    assert!(origin.count() <= allowed, "{} fetches", origin.count());
    let scheduling = scheduling(&gateway, &origin).await;
    let limit = latency + WINDOW + scheduling;
    assert!(slowest < limit, "{slowest:?}, not {limit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c35_cache_stampede_1000_pollers_of_a_final_step_cost_two_fetches() {
    let _alone = load_test().await;
    // The first fetch ends between the start of the second and of the third, and answers everybody.
    let latency = Duration::from_millis(120);
    let origin = Origin::start().await;
    origin.always(vec![Action::Pause(latency), Action::Respond]);
    let gateway = Gateway::start(&origin, "").await;
    let served = a_thousand_responses(&gateway, "completed").await;
    let slowest = served.last().unwrap().after;
    // Two, unless this machine was slow to deliver even the first response.
    let allowed = fetches_in(served[0].after).max(2);
    assert!(origin.count() <= allowed, "{} fetches", origin.count());
    assert!(gateway.get(STEP).await.is_hit());
    let limit = latency + scheduling(&gateway, &origin).await;
    assert!(slowest < limit, "{slowest:?}, not {limit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thundering_herd_1000_polls_a_second_cost_ten_fetches_a_second() {
    let _alone = load_test().await;
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, "").await;
    let clients = Clients::connect(&gateway, 1000).await;
    let ten_seconds = Duration::from_secs(10);
    let (responses, took) = clients.poll_each_second(STEP, ten_seconds).await;
    assert!(
        responses >= 9_000,
        "only {responses} responses: the load was too low"
    );
    let most = fetches_in(took) + 1;
    assert!(origin.count() <= most, "{} in {took:?}", origin.count());
    // A request may reach the origin late, so eleven may be closer together than ten windows.
    for eleven in origin.requests().windows(11) {
        let span = eleven[10].at - eleven[0].at;
        assert!(span > WINDOW * 5, "eleven fetches within {span:?}");
    }
}
