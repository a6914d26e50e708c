//! The one reader of the wall clock, for dates that people and upstreams write. Whatever the gateway
//! waits for is measured on tokio's clock.

use std::time::{SystemTime, UNIX_EPOCH};

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// Returns the Unix time, in seconds.
pub(crate) fn unix_seconds() -> f64 {
    now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
