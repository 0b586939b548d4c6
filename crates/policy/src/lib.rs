//! Who may talk to whom: rules in YAML, checked before they are used, compiled, and decided.
//!
//! Deny by default. Of the rules that match a connection a `deny` wins, then an `allow`; else it is denied. A
//! decision names its rule with file and line.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod compile;
mod decide;
pub mod schema;

pub use compile::{Policy, PolicyError};
pub use decide::{Query, Verdict};
