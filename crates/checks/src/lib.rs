//! Looks at a system from outside: a configuration with all that it names, and a policy before it is in force.
//!
//! ```text
//! sidegate.yaml, policy files, lists, keys, places of this host -> examine -> Examined: the sidecar may start
//!                                                                    |
//!                                                                  check -> findings, notes, a summary
//!
//! policy files -> LoadedPolicy -> findings | explain | test | replay     (replay and suggest read audit logs
//!                                          recorded connections -> suggest             and access logs)
//! ```
//!
//! Each answer is a value with its text and, where tools want it, its JSON; who asks prints it.
//!
//! ```
//! use std::time::SystemTime;
//!
//! use sidegate_checks::{LoadedPolicy, Question};
//! use sidegate_core::SpiffeId;
//!
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("policy.yaml");
//! std::fs::write(&file, "rules: [{ name: web, action: allow, from: { spiffeIds: [\"spiffe://prod.example/web\"] } }]")?;
//! let policy = LoadedPolicy::files(vec![file])?;
//! let stranger = SpiffeId::new("spiffe://prod.example/stranger")?;
//! let answer = policy.explain(&Question {
//!     from: Some(&stranger),
//!     from_address: None,
//!     to: "10.0.0.7:8080".parse()?,
//!     sni: None,
//!     outbound: false,
//!     destination: None,
//!     server: None,
//!     resolved: &[],
//!     time: SystemTime::now(),
//! })?;
//! assert!(answer.is_refused() && answer.text().starts_with("DENIED by"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it guarantees: it changes nothing, opens no listener and talks to no other process; decisions come from the very functions
//! that the data path calls; all problems of a configuration are reported at once.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod check;
mod doubts;
mod examine;
mod policy;
mod unusable;

pub use check::{CheckReport, check};
pub use doubts::{destinations, doubts, in_plaintext, notes, wrong_user};
pub use examine::{Examined, examine};
pub use policy::{
    ChangedDecision, ExplainAnswer, ExplainError, Explained, FailedExpectation, LoadError, LoadedPolicy, Matching, PortAnswer, Question,
    Replay, Suggestion, SuiteError, TestReport, resolved_name, suggest,
};
pub use unusable::Unusable;
