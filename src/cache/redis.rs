//! The shared tier: final bodies in Redis or Valkey, for all gateways of a fleet.
//!
//! The tier is optional at run time: if a command fails or takes too long, the request goes on without
//! it. [`SharedTier`] looks a resource up once when its key becomes active, and queues stored bodies to be
//! written. One background task (`sync`) owns the connection. It applies the purges of other gateways
//! before the tier is used and several times a second from then on, announces the purges of this one, and
//! opens the circuit breaker if Redis fails.
//!
//! `scripts` explains why a purged body cannot come back.

mod breaker;
mod client;
pub mod codec;
mod error;
pub mod keys;
mod lookup_once;
mod metrics;
mod purge_log;
mod purge_queue;
mod scripts;
pub mod seal;
mod sync;
#[cfg(test)]
pub(super) mod test_server;
mod tier;
mod verify;
mod writer;

pub(super) use lookup_once::LookupTurn;
pub use lookup_once::WriteToken;
pub use metrics::SharedMetrics;
pub use tier::SharedTier;
pub use writer::WriteJob;
