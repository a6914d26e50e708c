//! Stale reads: a step that ends while it is polled (item 37).

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::WINDOW;
use crate::support::{Action, Gateway, Origin, RawClient, STEP, client::head, within};

/// Polls until the step is final, and asserts that each live response comes from a fetch which the
/// origin received after the request was sent.
async fn poll_to_the_end(origin: Arc<Origin>, mut client: RawClient) {
    let request = head("GET", STEP, "127.0.0.1", &[]);
    loop {
        let (seen, over) = (origin.count(), origin.status() == "completed");
        client.send(&request).await;
        let response = client.response().await;
        if response.json()["status"] == "completed" {
            return;
        }
        assert!(!over, "a live response to a request after the end");
        assert!(response.fetch() > seen, "{} after {seen}", response.fetch());
        assert!(!response.is_hit() && !response.is_stored());
    }
}

#[tokio::test]
async fn c37_stale_read_no_response_predates_its_request_while_a_step_ends() {
    let origin = Arc::new(Origin::start().await);
    origin.set_status("in_progress");
    origin.always(vec![
        Action::Pause(Duration::from_millis(250)),
        Action::RespondNumbered,
    ]);
    let gateway = Gateway::start(&origin, "").await;
    let mut pollers = JoinSet::new();
    for _ in 0..50 {
        // A tenth of a window apart, so that fetches in flight and pending batches overlap.
        sleep(WINDOW / 10).await;
        pollers.spawn(poll_to_the_end(
            Arc::clone(&origin),
            gateway.connect().await,
        ));
    }
    origin.wait_for_requests(12).await;
    origin.set_status("completed");
    within("all pollers to see the final body", pollers.join_all()).await;
    let hit = gateway.get(STEP).await;
    assert!(hit.is_hit() && hit.json()["status"] == "completed");
}
