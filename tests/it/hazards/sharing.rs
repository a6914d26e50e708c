//! Sharing and tiers. A flight whose task panics (item 36) is among the `schedules`, which
//! need no sockets.

mod capacity;
mod crowds;
mod live;
mod passengers;
mod waits;

use std::time::Duration;

/// `coalesce_window` where the file does not say.
const WINDOW: Duration = Duration::from_millis(100);

/// Wide enough that whatever is asked at once is asked within it.
const WIDE: &str = "[upstream]\ncoalesce_window = \"1s\"\n";
