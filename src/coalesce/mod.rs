//! When a fetch departs, who may ride along, and how long others wait. Knows no HTTP.
//!
//! Think of shuttles: nobody boards one that has left. A question is answered only by a fetch that
//! departed after it was asked, unless what a fetch brought is final, and so true for everybody.
//!
//! - [`concurrency_limit`]: at most so many fetches at once.
//! - [`fetch`]: one fetch for all who ask for a step at about the same time; [`coalescer`] keeps
//!   them, a shuttle is one of them.
//! - [`long_polls`]: one poll loop for all who wait for a step to end.
//! - [`retry_after_gate`]: after "too many requests", one silence for all.

mod batch;
pub mod coalescer;
pub mod concurrency_limit;
pub mod fetch;
pub mod long_polls;
mod recent_fetches;
pub mod retry_after_gate;

pub use coalescer::Coalescer;
pub use concurrency_limit::{ConcurrencyLimit, Overloaded, Permit};
pub use fetch::{BatchOptions, Completion, Fetch, FetchOptions, JoinResult, NumberedCompletion};
pub use long_polls::{LongPolls, PollEvent, PollResult, WaitOptions};
pub use retry_after_gate::{Admission, Probe, RetryAfterGate};
