//! A step that ends while it is polled.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::WINDOW;
use crate::support::{Action, Gateway, Origin, RawClient, STEP, client::head, within};

/// Polls until the step is final. No answer may be older than its question: a live one comes from
/// a fetch that the origin had not yet seen then.
async fn poll_to_the_end(origin: Arc<Origin>, mut raw: RawClient) {
    let question = head("GET", STEP, "127.0.0.1", &[]);
    loop {
        let (seen, over) = (origin.count(), origin.status() == "completed");
        raw.send(&question).await;
        let answer = raw.response().await;
        if answer.json()["status"] == "completed" {
            return;
        }
        assert!(!over, "a live answer to a question after the end");
        assert!(answer.fetch() > seen, "{} after {seen}", answer.fetch());
        assert!(!answer.is_hit() && !answer.is_stored());
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
        // Apart from each other, so that flights with and without them overlap.
        sleep(WINDOW / 10).await;
        pollers.spawn(poll_to_the_end(
            Arc::clone(&origin),
            gateway.connect().await,
        ));
    }
    origin.wait_for_requests(12).await;
    origin.set_status("completed");
    within("everybody to see the end", pollers.join_all()).await;
    let hit = gateway.get(STEP).await;
    assert!(hit.is_hit() && hit.json()["status"] == "completed");
}
