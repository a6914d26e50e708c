//! Pure decisions: which rule a request matches, what its key is, and whether a response is final.
//!
//! This module owns every judgement about bytes from outside the process. It does no IO, reads no
//! clock and needs no runtime, so that tables and properties can test all of it.

pub mod cache_directives;
pub mod cacheability;
pub mod invalidation;
mod json;
pub mod key;
pub mod query;
pub mod route;
pub mod rule;

pub use cache_directives::{CacheDirectives, matches_if_none_match, wait_preference};
pub use cacheability::{NoStoreReason, check};
pub use invalidation::{ResourcePrefix, invalidated_by};
pub(crate) use key::TERMINATOR;
pub use key::{CacheKey, CoalesceKey, Partition, Predicate, PrimaryKey, PurgeScope};
pub use query::Query;
pub use route::Route;
pub use rule::{Rule, RuleError, RuleSpec, Template};
