//! The catalogue of what can go wrong: a test `c12_…` is of its item 12 (`house.rs` sees to it that
//! none is left out). What has no number stands beside the items whose fixtures it shares.

mod credentials;
mod life;
mod requests;
mod sharing;
mod upstream;
