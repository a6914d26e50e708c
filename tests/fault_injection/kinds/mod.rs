//! The kinds of fault, by the place where they strike.

pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod connect;
pub(crate) mod framing;
pub(crate) mod gateway;
pub(crate) mod head;
pub(crate) mod life;
pub(crate) mod secret;
pub(crate) mod status;

use std::time::Duration;

/// Within every deadline.
const SHORT: Duration = Duration::from_millis(60);
/// So slow that a deadline comes first.
const DRIP: Duration = Duration::from_millis(40);
/// Beyond every deadline.
const LONG: Duration = Duration::from_secs(5);
