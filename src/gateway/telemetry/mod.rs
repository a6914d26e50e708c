//! What an operator sees of requests and fetches: metrics, log lines, the history for the page.
//!
//! Labels and words are closed sets. No id, secret or text of the upstream's is in a label.

pub(super) mod fetch_timer;
pub(super) mod histogram;
pub(super) mod history;
pub(super) mod metrics;
pub(super) mod outcome;
pub(super) mod request_log;
mod trace_context;
pub(super) mod wall_clock;
