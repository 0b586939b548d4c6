//! Who may talk to whom: rules in YAML, checked before they are used, compiled, and decided.
//!
//! Deny by default. Of the rules that match a connection a `deny` wins, then an `allow`; else it is denied. A decision names its
//! rule with file and line, and where no rule allowed the connection the rules that came nearest. The data path, the log and the
//! command line all ask this one engine.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod analyze;
mod compile;
mod cover;
mod decide;
mod environment;
mod explain;
mod files;
mod index;
mod matching;
mod nearest;
mod query;
mod rule;
pub mod schema;
mod suggest;
pub mod suite;
mod when;

pub use analyze::{Doubt, Finding};
pub use compile::Policy;
pub use decide::Verdict;
pub use environment::{VARIABLES, VariableType};
pub use explain::RuleRef;
pub use files::{Unreadable, read};
pub use query::{PeerCertificate, Query, TlsFacts};
pub use suggest::Usage;
