//! What a fleet of gateways keeps in Redis: under which names, in which form, and sealed how.
//!
//! Nothing that comes from there is believed: a value is an entry only if it decodes, and an entry a
//! body only if it is of this key and final by its own bytes.

pub mod names;
pub mod record;
pub mod seal;
