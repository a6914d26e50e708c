//! Pooled connections that the upstream closes on reuse (item 32): the request is sent once more.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Action, Gateway, Latch, Origin, STEP, body};

#[tokio::test]
async fn c32_stale_pooled_connection_is_retried_once_on_a_new_one() {
    for ending in [Action::Close, Action::Reset] {
        let origin = Origin::start().await;
        origin.set_status("in_progress");
        origin.on_reuse(vec![ending.clone()]);
        let gateway = Gateway::start(&origin, "").await;
        let reused = || origin.requests().iter().filter(|r| r.nth > 0).count();
        // hyper returns a connection to its pool at a time of its own, so poll until one was reused.
        for polls in 0.. {
            if reused() == 2 {
                break;
            }
            assert!(polls < 40, "no connection was reused in 40 polls");
            let response = gateway.get(STEP).await;
            assert_eq!((response.status, response.body), (200, body("in_progress")));
        }
        let requests = origin.requests();
        for (i, request) in requests.iter().enumerate().filter(|(_, r)| r.nth > 0) {
            let again = &requests[i + 1];
            assert_eq!(
                again.nth, 0,
                "{ending:?}: the retry was on a reused connection"
            );
            assert_eq!(again.line(), request.line());
        }
    }
}

#[tokio::test]
async fn c32_stale_pooled_connection_is_not_retried_after_any_response_byte() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    origin.on_reuse(vec![Action::Send(b"HTTP/1.1 2".to_vec()), Action::Reset]);
    let gateway = Gateway::start(&origin, "").await;
    for polls in 1.. {
        let response = gateway.get(STEP).await;
        assert_eq!(
            origin.count(),
            polls,
            "the poll was not one upstream request"
        );
        if origin.last().nth > 0 {
            assert_eq!(response.status, 502);
            break;
        }
        assert_eq!(response.status, 200);
        assert!(polls < 40, "no connection was reused in 40 polls");
    }
}

#[tokio::test]
async fn c32_retry_keeps_the_deadline_of_the_first_attempt() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let gateway = Gateway::start(&origin, "[upstream]\ntimeout = \"400ms\"\n").await;
    for polls in 0.. {
        if origin.requests().iter().any(|r| r.nth > 0) {
            break;
        }
        assert!(polls < 40, "no connection was reused in 40 polls");
        assert_eq!(gateway.get(STEP).await.status, 200);
    }
    let gate = Latch::closed();
    origin.on_reuse(vec![Action::Close]);
    origin.always(vec![Action::Wait(gate.clone()), Action::Respond]);
    let start = Instant::now();
    let response = gateway.get(STEP).await;
    assert_eq!(response.status, 504);
    assert!(start.elapsed() < Duration::from_secs(3));
    gate.open();
}
