//! The outside tests, one binary: the promises by name, the catalogue by number.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy's allowance for tests does not reach the fixtures of an integration test"
)]

mod admin;
mod architecture;
mod cache_control;
mod cli;
mod clients;
mod coalescing;
mod conditional;
mod config;
mod documents;
mod examples;
mod fixtures;
mod fleet;
mod forwarding;
mod hazards;
mod header_passthrough;
mod inbound_tls;
mod listeners_and_drain;
mod log;
mod prefer_wait;
mod promises;
mod proxy;
mod regressions;
mod reload;
mod retry_after;
mod sandbox;
mod simulation;
mod support;
mod systemd;
