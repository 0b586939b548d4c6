//! The control plane of one sidecar: it makes the snapshots that the data plane loads.
//!
//! Identity, policy, revocation and resolved names each change at their own time. [`Publisher`] brings them together into one immutable
//! [`Snapshot`] and stores it in [`Control`]. Nothing here runs on a worker: a connection loads the snapshot once and never waits.
//!
//! ```text
//! identity sources ──┐
//! policy files ──────┤
//! revocation lists ──┼─> Publisher ──> Control { snapshot, renewals, loads } ──> workers
//! DNS names ─────────┘
//! ```
//!
//! A cluster's [`Directory`] is not in the snapshot: it is asked about an address when a connection needs it.
//!
//! What can't be used never replaces what is in force. [`Loads`] says what is in force, since when, and what was refused.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod change;
mod control;
mod directory;
mod directory_client;
mod fetch;
mod loads;
mod policy;
mod publisher;
mod resolver;
mod revocation;
mod settings;
mod snapshot;

pub use control::{Control, Latest};
pub use directory::{Directory, Expected};
pub use loads::{Load, Loads, Refusal, Subject};
pub use policy::{PolicyError, PolicySource};
pub use publisher::Publisher;
pub use resolver::{Addresses, Resolved};
pub use revocation::{RevocationError, RevocationSource};
pub use settings::{AppPreamble, Destination, Port, Preamble, Protocol, Settings};
pub use snapshot::{Snapshot, Tls};
