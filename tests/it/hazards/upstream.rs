//! A hostile or failing upstream (items 21 to 34).

mod endless_bodies;
mod http2;
mod http2_retries;
mod malformed_responses;
mod stale_connections;
mod unreachable;
mod unstorable_responses;
