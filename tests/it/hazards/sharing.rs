//! Coalescing and the cache (items 35 to 41a). A fetch that panics (item 36) is tested in
//! `simulation`, without sockets; the shared tier (items 39 and 40) is tested in `fleet`.

mod batches;
mod cache_stampede;
mod long_polls;
mod memory_exhaustion;
mod stale_reads;

use std::time::Duration;

/// The default of `coalesce_window`.
const WINDOW: Duration = Duration::from_millis(100);

/// A window so wide that requests which a test sends together join one batch.
const WIDE: &str = "[upstream]\ncoalesce_window = \"1s\"\n";
