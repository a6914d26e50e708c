//! What a step is and when it is final: rules and paths, what a body says, the verdict, the key.
//!
//! Pure: no IO, no clock, no runtime. Everything that must be judged about bytes from outside is
//! judged here, so that it can be tested with tables and properties.

pub mod conditions;
mod json;
pub mod key;
pub mod path;
pub mod query;
pub mod reach;
pub mod rule;
pub mod verdict;

pub use conditions::{Conditions, none_match, wait_preference};
pub(crate) use key::END;
pub use key::{Key, Partition, Predicate, Scope, StepKey};
pub use path::Route;
pub use query::Query;
pub use reach::reach;
pub use rule::{Rule, RuleError, RuleParts, Template};
pub use verdict::{NotStored, judge};
