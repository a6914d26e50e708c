//! What a step is and when it is final: rules and paths, what a body says, the verdict, the key.
//!
//! Pure: no IO, no clock, no runtime. Everything that must be judged about bytes from outside is
//! judged here, so that it can be tested with tables and properties.

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
pub use key::{CacheKey, Partition, Predicate, PrimaryKey, PurgeScope};
pub use query::Query;
pub use route::Route;
pub use rule::{Rule, RuleError, RuleSpec, Template};
