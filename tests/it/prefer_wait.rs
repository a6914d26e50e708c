//! Long polls, `Prefer: wait=N` (RFC 7240): all requests for a step share one poll loop. Failures during
//! a long poll are in `endings`.

mod endings;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::{Clients, Gateway, Origin, STEP, client::Response, poll_after, step, text};

/// The time within which a poll once a second, with jitter, finds a final body.
const FOUND: Duration = Duration::from_secs(2);

/// Sends a request with this preference; returns the response and how long it took.
async fn wait(gateway: &Gateway, prefer: &str) -> (Response, Duration) {
    let start = Instant::now();
    let response = gateway.get_with(STEP, &[("Prefer", prefer)]).await;
    (response, start.elapsed())
}

fn assert_applied(response: &Response, seconds: u32) {
    let applied = format!("wait={seconds}");
    assert_eq!(response.header("preference-applied"), Some(&*applied));
    assert_eq!(response.header("vary"), Some("Prefer"));
}

#[tokio::test]
async fn a_long_poll_ends_when_the_step_is_final() {
    for status in ["completed", "failed"] {
        let origin = Origin::start().await;
        origin.set_status("in_progress");
        let gateway = Gateway::start(&origin, "").await;
        let end = async {
            sleep(Duration::from_secs(2)).await;
            origin.set_status(status);
        };
        let ((response, took), ()) = tokio::join!(wait(&gateway, "wait=30"), end);
        assert_eq!((response.status, response.text()), (200, text(status)));
        assert_applied(&response, 30);
        let end = Duration::from_secs(2);
        assert!(took >= end && took < end + FOUND, "{status}: {took:?}");
        assert!(
            (3..=5).contains(&origin.count()),
            "{status}: {}",
            origin.count()
        );
        assert_eq!(gateway.outcomes("long_poll").await, 1.0);
        assert!(gateway.get(STEP).await.is_hit(), "{status}");
    }
}

#[tokio::test]
async fn a_long_poll_past_its_time_is_answered_with_the_live_body() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, "").await;
    let (response, took) = wait(&gateway, "wait=1").await;
    assert_eq!(
        (response.status, response.text()),
        (200, text("in_progress"))
    );
    assert_applied(&response, 1);
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let second = Duration::from_secs(1);
    assert!(took >= second * 9 / 10 && took < second * 2, "{took:?}");
    assert!(
        (1..=3).contains(&origin.count()),
        "{} fetches",
        origin.count()
    );
    assert_eq!(gateway.outcomes("long_poll").await, 1.0);
}

#[tokio::test]
async fn a_long_poll_is_answered_with_the_latest_body() {
    let origin = Origin::start().await;
    origin.next(poll_after("300"));
    origin.set_status("queued_again");
    let gateway = Gateway::start(&origin, "").await;
    let (response, _) = wait(&gateway, "wait=2").await;
    assert_eq!(response.text(), text("queued_again"));
}

#[tokio::test]
async fn the_first_valid_wait_preference_is_applied() {
    for (lines, seconds) in [
        (&["wait=5"][..], 5),
        (&["respond-async, wait=5"], 5),
        (&["respond-async", "wait=5"], 5),
        (&["wait=\"5\""], 5),
        (&["Wait = 5"], 5),
        (&["wait=5;a=b, c;d=\"e, wait=8\""], 5),
        (&["a=\"b, wait=8\", wait=5"], 5),
        (&["awaits=8, wait=5"], 5),
        (&["wait=5, wait=8"], 5),
        (&["wait=5", "wait=8"], 5),
        (&["wait=60"], 60),
        (&["wait=61"], 60),
        (&["wait=86400"], 60),
        (&["wait=99999999999999999999999999"], 60),
    ] {
        let origin = Origin::start().await;
        origin.next(poll_after("20"));
        let gateway = Gateway::start(&origin, "").await;
        let prefer: Vec<_> = lines.iter().map(|line| ("Prefer", *line)).collect();
        let response = gateway.get_with(STEP, &prefer).await;
        assert_eq!(response.text(), text("completed"), "{lines:?}");
        assert_applied(&response, seconds);
    }
}

#[tokio::test]
async fn a_request_without_a_valid_wait_preference_is_answered_at_once() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, "").await;
    for (polls, prefer) in (1..).zip([
        "wait=x",
        "wait=-1",
        "wait=1.5",
        "wait=5s",
        "wait",
        "wait=",
        "wait=\"\"",
        "waits=5",
        "respond-async",
        "a=\"wait=5\"",
        "a;wait=5",
        "",
    ]) {
        let (response, took) = wait(&gateway, prefer).await;
        assert_eq!(response.text(), text("in_progress"), "{prefer:?}");
        assert_eq!(response.header("preference-applied"), None, "{prefer:?}");
        assert!(took < Duration::from_secs(1), "{prefer:?}: {took:?}");
        assert_eq!(origin.count(), polls, "{prefer:?}");
    }
    assert_eq!(gateway.outcomes("long_poll").await, 0.0);
}

#[tokio::test]
async fn a_stored_step_is_answered_at_once() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    assert!(gateway.get(STEP).await.is_stored());
    let (response, took) = wait(&gateway, "wait=30").await;
    assert!(response.is_hit(), "{}", response.cache_status());
    assert_eq!(response.text(), text("completed"));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_long_polls_share_one_poll_loop() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, "").await;
    let clients = Clients::connect(&gateway, 500).await;
    let end = async {
        sleep(Duration::from_secs(3)).await;
        origin.set_status("completed");
    };
    let (served, ()) = tokio::join!(clients.get(STEP, &[("Prefer", "wait=30")]), end);
    assert_eq!(served.len(), 500);
    for one in &served {
        assert_eq!(
            (one.response.status, one.response.text()),
            (200, text("completed"))
        );
        assert_applied(&one.response, 30);
    }
    let slowest = served.last().unwrap().after;
    assert!(slowest < Duration::from_secs(3) + FOUND, "{slowest:?}");
    // One poll a second, and the fetches for requests that arrived during the first poll.
    assert!(origin.count() <= 8, "{} fetches", origin.count());
    assert_eq!(gateway.outcomes("long_poll").await, 500.0);
    assert_eq!(gateway.metric("stepgate_long_polls").await, 0.0);
}

#[tokio::test]
async fn poll_after_and_retry_after_of_a_live_response_set_the_poll_interval() {
    let origin = Origin::start().await;
    for _ in 0..5 {
        origin.next(poll_after("200"));
    }
    let gateway = Gateway::start(&origin, "").await;
    let (response, took) = wait(&gateway, "wait=30").await;
    assert_eq!(response.text(), text("completed"));
    let (soonest, latest) = (Duration::from_millis(500), Duration::from_millis(2500));
    assert!(
        took > soonest && took < latest,
        "five pauses of 200 ms: {took:?}"
    );

    let origin = Origin::start().await;
    origin.next(poll_after("3000"));
    let gateway = Gateway::start(&origin, "").await;
    let (response, took) = wait(&gateway, "wait=30").await;
    assert_eq!(response.text(), text("completed"));
    let (soonest, latest) = (Duration::from_secs(2), Duration::from_secs(5));
    assert!(
        took > soonest && took < latest,
        "one pause of 3 s: {took:?}"
    );
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn a_long_poll_holds_no_permit_between_its_fetches() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(
        &origin,
        "[upstream]\nmax_in_flight = 1\nqueue_timeout = \"10s\"\n",
    )
    .await;
    let mut long_polls = Vec::new();
    for n in 0..20 {
        let prefer = [("Prefer", "wait=30")];
        long_polls.push(gateway.send_get(&step(&format!("step_{n}")), &prefer).await);
    }
    origin.wait_for_requests(20).await;
    assert_eq!(gateway.metric("stepgate_long_polls").await, 20.0);
    for n in 0..20 {
        assert_eq!(gateway.get(&step(&format!("step_{n}"))).await.status, 200);
    }
    assert_eq!(gateway.get(&step("other")).await.status, 200);
    origin.set_status("completed");
    for long_poll in &mut long_polls {
        assert_eq!(long_poll.response().await.json()["status"], "completed");
    }
}

#[tokio::test]
async fn a_final_body_fetched_for_another_request_ends_a_long_poll() {
    let origin = Origin::start().await;
    origin.next(poll_after("60000"));
    let gateway = Gateway::start(&origin, "").await;
    let mut long_poll = gateway.send_get(STEP, &[("Prefer", "wait=30")]).await;
    origin.wait_for_requests(1).await;
    assert_eq!(gateway.get(STEP).await.text(), text("completed"));
    assert_eq!(long_poll.response().await.text(), text("completed"));
    assert_eq!(origin.count(), 2);
}
