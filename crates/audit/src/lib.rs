//! The audit log: a tamper-evident record of every security event, and the reading and verifying of it.
//!
//! What it promises and how, for people: docs/audit.md. A worker offers what happened to a bounded queue ([`Audit`]); one
//! thread makes a chain of it, writes and signs it. Reading needs nothing of that: [`Records`] and [`verify()`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod admitted;
mod backpressure;
mod chain;
pub mod connection;
mod destination;
mod encryption;
mod event;
mod folder;
mod hex;
mod identity;
mod key;
mod line;
mod log;
mod message;
mod read;
mod signing;
mod state;
mod syslog;
mod verify;
mod writer;

pub use admitted::Admitted;
pub use connection::Connection;
pub use encryption::{AuditorKeyError, AuditorKeys};
pub use event::{AdminAction, CheckpointCause, ConnectionFacts, Event, FileDigest, NAMES, NewEvent, Signer, SvidFacts, VERSION};
pub use folder::{FolderError, files};
pub use hex::{hex, sha256_hex};
pub use identity::follow_identity;
pub use log::{Audit, AuditThread, Unavailable};
pub use message::Options;
pub use read::{ReadError, Record, Records, log_files};
pub use signing::{KeyError, Trust, check_key};
pub use state::IdentityCell;
pub use verify::{Anchor, Finding, Given, OpenTail, Report, Verdict, anchors, verify};

/// Why the audit log can't be started.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The key that is to sign checkpoints can't be used.
    #[error("`audit.checkpoint.key`: {0}")]
    Key(#[from] KeyError),
    /// The first key can't be sealed to the auditors.
    #[error("the log's key can't be sealed to `audit.auditors`: {0}")]
    Seal(String),
    /// The system has no randomness.
    #[error("the system gives no random bytes for the log's key")]
    NoRandomness,
    /// The system gives no thread.
    #[error("the system gives no thread for the audit log: {0}")]
    Thread(#[source] std::io::Error),
}
