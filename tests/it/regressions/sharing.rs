//! Results that must not be shared: through long polls, after a 429, and of large bodies.

use std::time::Duration;

use stepgate::coalesce::{Coalescer, Completion, Fetch, FetchOptions, Fetched, JoinResult};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Action, Gateway, Latch, Origin, STEP, body, respond, step, text};

const WAIT: (&str, &str) = ("prefer", "wait=1");
const FRESH: (&str, &str) = ("cache-control", "no-cache");

fn gone() -> Action {
    Action::Send(respond("404 Not Found", &[], "{}"))
}

/// A 404 is not final, so it does not answer requests from after the start of its fetch.
#[tokio::test]
async fn a_long_poll_is_not_answered_with_a_404_from_before_its_request() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let gate = Latch::closed();
    origin.next(vec![Action::Wait(gate.clone()), gone()]);
    let mut early = gateway.send_get(STEP, &[WAIT]).await;
    origin.wait_for_requests(1).await;
    let mut late = gateway.send_get(STEP, &[WAIT]).await;
    gateway.wait_until_read().await;
    gate.open();
    assert_eq!(early.response().await.status, 404);
    assert_eq!(late.response().await.text(), text("completed"));
}

/// `no-cache` on a long poll invalidates like any other `no-cache`.
#[tokio::test]
async fn a_no_cache_long_poll_invalidates_what_is_gone_or_live_again() {
    for act in [gone(), Action::RespondStatus("in_progress")] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(&origin, "").await;
        assert!(gateway.get(STEP).await.is_stored());
        origin.always(vec![act]);
        gateway.get_with(STEP, &[WAIT, FRESH]).await;
        assert!(!gateway.get(STEP).await.is_hit());
    }
}

/// `no-store` on a long poll stores nothing.
#[tokio::test]
async fn a_no_store_long_poll_stores_nothing() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let response = gateway
        .get_with(STEP, &[WAIT, ("cache-control", "no-store")])
        .await;
    assert!(!response.is_stored());
    assert!(!gateway.get(STEP).await.is_hit());
}

/// A poll loop that goes on for an earlier client does not keep a final body from before a purge.
#[tokio::test]
async fn a_long_poll_is_not_answered_with_a_final_body_from_before_a_purge() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let gate = Latch::closed();
    origin.next(vec![
        Action::Wait(gate.clone()),
        Action::RespondStatus("completed"),
    ]);
    let soon = [("openai-poll-after-ms", "200")];
    origin.always(vec![Action::Send(respond(
        "200 OK",
        &soon,
        body("in_progress"),
    ))]);
    let mut first = gateway.send_get(STEP, &[]).await;
    origin.wait_for_requests(1).await;
    let _patient = gateway
        .send_get(STEP, &[FRESH, ("prefer", "wait=20")])
        .await;
    origin.wait_for_requests(2).await;
    gate.open();
    assert_eq!(first.response().await.text(), text("completed"));
    gateway.admin("DELETE", "/cache/run-step").await;
    // By then the fetches from before the purge have ended, and its barrier is gone.
    origin.wait_for_requests(origin.count() + 2).await;
    let response = gateway.get_with(STEP, &[WAIT]).await;
    assert_eq!(response.text(), text("in_progress"));
}

/// A status has its effect whatever the size of the body behind it.
#[tokio::test]
async fn a_large_error_body_blocks_and_invalidates_like_a_small_one() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let large = vec![b' '; 2 << 20];
    assert!(gateway.get(STEP).await.is_stored());
    origin.next(vec![Action::Send(respond("404 Not Found", &[], &large))]);
    assert_eq!(gateway.get_with(STEP, &[FRESH]).await.status, 404);
    assert!(!gateway.get(STEP).await.is_hit());
    let often = respond("429 Often", &[("retry-after", "5")], &large);
    origin.next(vec![Action::Send(often)]);
    assert_eq!(gateway.get(&step("step_2")).await.status, 429);
    assert_eq!(gateway.get(&step("step_3")).await.status, 429);
}

/// One probe is sent first after a block. If its client leaves, one other request becomes the probe.
#[tokio::test]
async fn after_a_cancelled_probe_the_next_one_is_sent_first() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let often = respond("429 Often", &[("retry-after-ms", "300")], "{}");
    origin.next(vec![Action::Send(often)]);
    assert_eq!(gateway.get(STEP).await.status, 429);
    sleep(Duration::from_millis(350)).await;
    origin.always(vec![Action::Stall]);
    let probe = gateway.send_get(STEP, &[]).await;
    origin.wait_for_requests(2).await;
    let mut others = Vec::new();
    for n in 0..10 {
        others.push(gateway.send_get(&step(&format!("other_{n}")), &[]).await);
    }
    gateway.wait_until_read().await;
    assert_eq!(origin.count(), 2);
    drop(probe);
    origin.wait_for_requests(3).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(origin.count(), 3);
}

/// A fetch whose response cannot be shared, and which completes when the test says so.
struct Unshareable(u64, oneshot::Receiver<()>);

impl Fetch for Unshareable {
    type Output = ();
    type Stream = u64;

    async fn admit(&mut self) -> Result<(), ()> {
        Ok(())
    }

    async fn start(self, _: FetchOptions) -> Fetched<Self> {
        self.1.await.unwrap();
        (self.0, Completion::Unshareable(self.0))
    }
}

/// An unshareable response goes to a request that joined before the fetch started, or to none.
#[tokio::test]
async fn an_unshareable_response_is_not_given_to_a_request_that_came_after_the_start() {
    let second = Duration::from_secs(1);
    let coalescer: Coalescer<u8, Unshareable> = Coalescer::new(5 * second);
    let options = |min_seq| FetchOptions {
        deadline: Instant::now() + 30 * second,
        min_seq,
        may_store: true,
        force_fresh: min_seq > 0,
    };
    let ((complete, completed), (_later, never)) = (oneshot::channel(), oneshot::channel());
    let mut first = Box::pin(coalescer.fetch(1, options(0), || Unshareable(1, completed)));
    let in_flight = timeout(second / 50, &mut first).await;
    assert!(in_flight.is_err(), "the first fetch is in flight");
    let mut next = Box::pin(coalescer.fetch(1, options(2), || Unshareable(2, never)));
    let pending = timeout(second / 50, &mut next).await;
    assert!(pending.is_err(), "the second request waits for the window");
    complete.send(()).unwrap();
    drop(first);
    let result = timeout(second, &mut next).await;
    assert!(!matches!(result, Ok(JoinResult::Unshareable(1))));
}
