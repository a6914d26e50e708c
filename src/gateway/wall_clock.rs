//! The one reader of the wall clock: for dates that people and upstreams write. Whatever the gateway
//! itself waits for is measured on tokio's clock.

use std::time::{SystemTime, UNIX_EPOCH};

#[expect(clippy::disallowed_methods, reason = "this is the edge that reads it")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

pub(super) fn seconds_since_1970() -> f64 {
    now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
