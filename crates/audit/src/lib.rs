//! The audit log: a tamper-evident record of every security event.
//!
//! A worker offers an event to a bounded queue ([`Audit`]). One thread links the records to a chain, encrypts, signs and writes it:
//!
//! ```text
//! worker -> queue -> chain (prev, mac) -> file of the folder
//!                                      -> copies (file, syslog, OTLP)
//!                    checkpoint, signed -> anchors
//! ```
//!
//! ```
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//!
//! use sidegate_audit::{Audit, AuditOptions, Event, IdentityCell};
//! use sidegate_telemetry::Metrics;
//!
//! // The default configuration has no log: then events are ignored.
//! let config = sidegate_config::Config::default();
//! let metrics = Arc::new(Metrics::new(&config.telemetry.metrics));
//! let options = AuditOptions { config: &config.audit, metrics, mark: None, identity: IdentityCell::default(), otlp: None };
//! let (audit, thread) = Audit::start(&options)?;
//! audit.record(Event::ProcessStopping { why: "SIGTERM".to_owned() });
//! drop(audit);
//! thread.join(Instant::now() + Duration::from_secs(5));
//! # Ok::<(), sidegate_audit::AuditError>(())
//! ```
//!
//! What it guarantees: a worker never waits; a lost record is counted, and the log itself says how many are missing; a record that was
//! changed, removed or reordered before the last exported checkpoint is found by the crate `evidence`, which reads and verifies the log.
//! The format of a line is in [`mod@line`], that of its content in [`Event`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod admitted;
mod backpressure;
mod chain;
pub mod connection;
mod destination;
mod encryption;
mod error;
mod event;
pub mod folder;
pub mod hex;
mod identity;
pub mod key;
pub mod line;
mod log;
mod message;
mod secrets;
mod signing;
mod start;
mod state;
mod syslog;
mod writer;

pub use admitted::Admitted;
pub use connection::ConnectionEntry;
pub use error::AuditError;
pub use event::{AdminAction, CheckpointCause, ConnectionFacts, Event, FileDigest, NAMES, NewEvent, Signer, SvidFacts, VERSION};
pub use folder::FolderError;
pub use identity::follow_identity;
pub use log::{Audit, AuditThread, Unavailable};
pub use message::AuditOptions;
pub use secrets::follow_secrets;
pub use signing::{KeyError, check_key};
pub use state::IdentityCell;
