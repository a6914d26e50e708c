//! A hostile or failing upstream.

mod hostile;
mod http2;
mod memory;
mod not_stored;
mod refusing_http2;
mod reuse;
mod unreachable;
