//! The shared fixtures, and those that only these tests need.

#[expect(
    dead_code,
    reason = "the fault injection and the benches use the rest of it"
)]
#[path = "../../fixtures/mod.rs"]
mod fixtures;

pub(crate) mod clients;
pub(crate) mod frames;
pub(crate) mod hyper_server;
pub(crate) mod latency;
pub(crate) mod redis_cluster;
pub(crate) mod redis_proxy;

pub(crate) use clients::{Clients, TimedResponse};
pub(crate) use fixtures::*;
