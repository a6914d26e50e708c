//! Fixtures: an origin that can do any harm on command, raw-byte clients, the gateway on port 0.
//!
//! Every wait has a limit that fails the test with a word about what did not come. Tasks live in
//! a `JoinSet` of the fixture that needs them and end with it.

mod answer;
pub(crate) mod bare;
mod bodies;
pub(crate) mod crowd;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod h2;
pub(crate) mod h2_origin;
pub(crate) mod origin;
pub(crate) mod process;
pub(crate) mod pulse;
pub(crate) mod raw;
pub(crate) mod redis;
mod script;
pub(crate) mod tls;

use std::future::Future;
use std::time::Duration;

pub(crate) use answer::{Answer, Broken};
pub(crate) use bodies::{respond, step_json};
pub(crate) use crowd::{Crowd, Served};
pub(crate) use gateway::Gateway;
pub(crate) use origin::Origin;
pub(crate) use process::Process;
pub(crate) use raw::Raw;
pub(crate) use script::{Act, Gate, poll_after};

/// Longer than anything here takes on a busy machine; reached only when something is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// The step that most tests ask for.
pub(crate) const STEP: &str = "/v1/threads/thread_1/runs/run_1/steps/step_1";

/// The list that it is part of.
pub(crate) const LIST: &str = "/v1/threads/thread_1/runs/run_1/steps";

/// The path of another step of the same run.
pub(crate) fn step(id: &str) -> String {
    format!("{LIST}/{id}")
}

/// The body that the origin gives for [`STEP`].
pub(crate) fn body(status: &str) -> Vec<u8> {
    step_json("thread_1", "run_1", "step_1", status)
}

/// The same as text, for comparisons that say what differs.
pub(crate) fn text(status: &str) -> String {
    String::from_utf8_lossy(&body(status)).into_owned()
}

/// What `future` gives, within [`LIMIT`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {LIMIT:?} in vain for {what}"),
    }
}

/// Asks again until `done` says so: for what becomes true without an event to wait for.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    within(what, async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
