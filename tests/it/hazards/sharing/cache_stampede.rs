//! What a thousand pollers of one step cost.
//!
//! Bounds are held against the clock of the run: a machine that is slow to bring the questions
//! through gets the departures that its time allows, and no more.

use std::time::Duration;

use super::WINDOW;
use crate::support::{Action, Clients, Gateway, Origin, STEP, TimedResponse, text};

/// What an unoptimised build on two busy cores may add to a thousand answers.
const SCHEDULING: Duration = Duration::from_millis(1500);

/// Departures that fit in `time` where they are a window apart.
fn departures_in(time: Duration) -> usize {
    1 + usize::try_from(time.as_millis() / WINDOW.as_millis()).unwrap()
}

/// All are told the same. The first one's answer comes first.
async fn a_thousand_hear(gateway: &Gateway, step_status: &str) -> Vec<TimedResponse> {
    let crowd = Clients::connect(gateway, 1000).await;
    let served = crowd.get(STEP, &[]).await;
    assert_eq!(served.len(), 1000);
    for one in &served {
        let (status, said) = (one.response.status, one.response.text());
        assert_eq!((status, said), (200, text(step_status)));
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c35_thundering_herd_1000_pollers_of_a_live_step_cost_three_fetches() {
    let latency = Duration::from_millis(200);
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    origin.always(vec![Action::Pause(latency), Action::Respond]);
    let gateway = Gateway::start(&origin, "").await;
    let served = a_thousand_hear(&gateway, "in_progress").await;
    let slowest = served.last().unwrap().after;
    assert!(slowest < latency + WINDOW + SCHEDULING, "{slowest:?}");
    // Three, unless this machine was too slow to get all questions through within a window.
    let departed = departures_in(slowest.saturating_sub(latency)).max(3);
    assert!(origin.count() <= departed, "{} fetches", origin.count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c35_cache_stampede_1000_pollers_of_a_final_step_cost_two_fetches() {
    // It lands between the second departure and the third, and answers everybody.
    let latency = Duration::from_millis(120);
    let origin = Origin::start().await;
    origin.always(vec![Action::Pause(latency), Action::Respond]);
    let gateway = Gateway::start(&origin, "").await;
    let served = a_thousand_hear(&gateway, "completed").await;
    let slowest = served.last().unwrap().after;
    assert!(slowest < latency + SCHEDULING, "{slowest:?}");
    // Two, unless this machine brought even the first answer late.
    let departed = departures_in(served[0].after).max(2);
    assert!(origin.count() <= departed, "{} fetches", origin.count());
    assert!(gateway.get(STEP).await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thundering_herd_1000_polls_a_second_cost_ten_fetches_a_second() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, "").await;
    let crowd = Clients::connect(&gateway, 1000).await;
    let ten_seconds = Duration::from_secs(10);
    let (answers, took) = crowd.poll_each_second(STEP, ten_seconds).await;
    assert!(
        answers >= 9_000,
        "{answers} answers: the load was not there"
    );
    let most = departures_in(took) + 1;
    assert!(origin.count() <= most, "{} in {took:?}", origin.count());
    // A head may be late on its way; ten windows are not half a second for all that.
    for eleven in origin.requests().windows(11) {
        let span = eleven[10].at - eleven[0].at;
        assert!(span > WINDOW * 5, "eleven departures within {span:?}");
    }
}
