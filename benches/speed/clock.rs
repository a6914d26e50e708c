//! The real clock: what is measured runs on it, and here no worker is there to be blocked.

use std::time::{Duration, Instant};

#[expect(
    clippy::disallowed_methods,
    reason = "tokio's clock is for what tests pause"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no worker here to block"
)]
pub(crate) fn pause(length: Duration) {
    std::thread::sleep(length);
}
