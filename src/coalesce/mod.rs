//! When a fetch starts, which requests share it, and how long the others wait. Knows no HTTP.
//!
//! - [`coalescer`]: one fetch for all requests of a key that come at about the same time.
//! - [`concurrency_limit`]: at most so many fetches in flight.
//! - [`retry_after_gate`]: after a 429, one block for all fetches of a partition.
//! - [`long_polls`]: one poll loop for all requests that wait for a resource to become final.

pub mod coalescer;
pub mod concurrency_limit;
pub mod long_polls;
mod recent_fetches;
pub mod retry_after_gate;

pub use coalescer::{Coalescer, Completion, Fetch, FetchOptions, Fetched, JoinResult};
pub use concurrency_limit::{ConcurrencyLimit, Overloaded, Permit};
pub use long_polls::{LongPolls, PollEvent, PollResult, WaitOptions};
pub use retry_after_gate::{Admission, Probe, RetryAfterGate};
