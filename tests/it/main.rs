//! The outside tests, one binary: the promises by name, the catalogue by number.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy's allowance for tests does not reach the fixtures of an integration test"
)]

mod admin;
mod cache_control;
mod cli;
mod clients;
mod conditional;
mod config;
mod credentials;
mod edge;
mod fixtures;
mod found;
mod hold;
mod hostile_upstream;
mod house;
mod inbound_tls;
mod memory;
mod not_stored;
mod passing;
mod paths;
mod promises;
mod requests;
mod reuse;
mod sandbox;
mod schedules;
mod sharing;
mod support;
mod unreachable_upstream;
mod upstream_http2;
mod waiting;
