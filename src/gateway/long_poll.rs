//! What a fetch means for requests that wait (`Prefer: wait`), and when to poll again.

use std::time::Duration;

use hyper::StatusCode;

use super::fetched_response::{FetchResult, StreamingResponse};
use crate::coalesce::{JoinResult, PollEvent};

/// How often a loop polls if the upstream does not say.
const INTERVAL: Duration = Duration::from_secs(1);
/// The bounds of what the upstream says: not so often that it is a burden, not so rarely that a request
/// learns of the end too late.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
const MAX_INTERVAL: Duration = Duration::from_secs(30);

/// Returns what a result means for the requests that wait.
pub(super) fn poll_event(result: &JoinResult<FetchResult, StreamingResponse>) -> PollEvent {
    match result {
        JoinResult::Led(FetchResult::Response(response))
        | JoinResult::Joined(FetchResult::Response(response)) => match response.status {
            status if is_transient(status) => PollEvent::Transient,
            StatusCode::OK if response.is_final => PollEvent::Final,
            StatusCode::OK => PollEvent::Live,
            _ => PollEvent::Terminal,
        },
        JoinResult::Led(_) | JoinResult::Joined(_) => PollEvent::Transient,
        JoinResult::TimedOut | JoinResult::Abandoned => PollEvent::Transient,
        JoinResult::Unshareable(response) if is_transient(response.status) => PollEvent::NoUpdate,
        JoinResult::Unshareable(_) | JoinResult::FetchAlone => PollEvent::Unshareable,
    }
}

/// Returns whether a status may pass, so that a request waits on.
fn is_transient(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        )
}

/// Returns the pause until the next poll: what the upstream asked in `poll_after`, within bounds, minus up
/// to a tenth as jitter, so that the loops of many resources spread out. The jitter is a multiplicative hash of `seq`,
/// which is random enough.
pub(super) fn next_interval(poll_after: Option<Duration>, seq: u64) -> Duration {
    let interval = poll_after.unwrap_or(INTERVAL);
    let interval = interval.clamp(MIN_INTERVAL, MAX_INTERVAL);
    let hash = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    interval - interval / 10 * u32::try_from(hash).unwrap_or(0) / 256
}
