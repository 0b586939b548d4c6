//! Authorization: which workload may connect to which.
//!
//! Rules are YAML. They are checked, compiled to an index by client and port, and asked once for each connection:
//!
//! ```text
//! files -> check -> Policy (index: trust domain, ID, port) <- Query (client, server, addresses, facts)
//!                      `-> Verdict: allowed or not, the rule with file and line, remarks, nearest rules
//! ```
//!
//! Of the rules that match a connection a `deny` wins, then an `allow`; without either the connection is denied.
//!
//! ```
//! use std::time::SystemTime;
//!
//! use sidegate_config::schema::Profile;
//! use sidegate_core::{Direction, SpiffeId};
//! use sidegate_policy::{KnownFacts, Policy, Query};
//!
//! let rules = "rules: [{ name: web, action: allow, from: { spiffeIds: ['spiffe://a.b/web'] }, to: { ports: [80] } }]";
//! let policy = Policy::parse(&[("policy.yaml".to_owned(), rules.to_owned())], Profile::Production)?;
//!
//! let web = SpiffeId::new("spiffe://a.b/web").unwrap();
//! let query = |port: u16| {
//!     let (direction, client_address, to) = (Direction::Inbound, [10, 0, 0, 1].into(), ([10, 0, 0, 2], port).into());
//!     Query { client: Some(&web), ..Query::new(KnownFacts { direction, client_address, to, time: SystemTime::now() }) }
//! };
//! assert!(policy.decide(&query(80)).decision.allowed);
//! assert!(!policy.decide(&query(22)).decision.allowed);
//! # Ok::<(), sidegate_config::Problems>(())
//! ```
//!
//! What it guarantees: a rule whose `when` can't be evaluated never allows a connection; a set of files with a mistake is not used at
//! all; the cost of a decision is bounded. The data path, the log and the command line use this one engine.
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
pub use query::{KnownFacts, PeerCertificate, Query, TlsFacts};
pub use suggest::Usage;
