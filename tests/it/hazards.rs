//! The catalogue of hazards: a test `c12_…` covers its item 12, and bears the standard name of the
//! attack or fault. `architecture.rs` fails if an item has no test. A test without a number stands
//! beside the items whose fixtures it shares.

mod credentials;
mod lifecycle;
mod requests;
mod sharing;
mod upstream;
