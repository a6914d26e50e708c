//! The outside tests, one binary: the promises by name, the catalogue by number.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy's allowance for tests does not reach the fixtures of an integration test"
)]

mod admin;
mod cache_control;
mod catalogue;
mod cli;
mod clients;
mod conditional;
mod config;
mod documents;
mod edge;
mod examples;
mod fixtures;
mod fleet;
mod forwarding;
mod found;
mod hold;
mod house;
mod inbound_tls;
mod log;
mod passing;
mod promises;
mod proxy;
mod reload;
mod sandbox;
mod schedules;
mod sharing;
mod supervised;
mod support;
mod waiting;
