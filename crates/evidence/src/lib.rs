//! Reads audit logs: verifies them and says what they prove.
//!
//! [`Records`] reads a log record by record and decrypts what an auditor's key opens. [`verify()`] follows its chain and names every
//! change, removal, insertion and reordering; its [`Report`] says which records are proved, and by what. [`read_connections()`] reads
//! the connections of audit and access logs, for who asks what another policy would decide. Nothing here trusts the log
//! or its writer: the cost of reading is bounded, and its text is made printable.
//!
//! ```no_run
//! use sidegate_evidence::{VerifyInputs, verify};
//!
//! let report = verify("/var/log/sidegate".as_ref(), &VerifyInputs::default())?;
//! for finding in &report.findings {
//!     println!("{}:{}: {}", finding.file, finding.line, finding.what);
//! }
//! # Ok::<(), sidegate_evidence::ReadError>(())
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod decryption;
pub mod filter;
mod follow;
mod inputs;
mod join;
mod period;
mod read;
mod recorded;
mod report;
mod sentence;
mod signature;
mod verified;
mod verify;

pub use decryption::{AuditorKeyError, AuditorKeys};
pub use filter::Filter;
pub use follow::each_record;
pub use inputs::{ProofError, ProofFiles};
pub use join::{Join, Joined, join};
pub use period::Period;
pub use read::{ReadError, Record, Records, log_files};
pub use recorded::{ReadCounts, RecordedCertificate, RecordedConnection, RecordedError, RecordedTls, read_connections};
pub use report::{AuditReport, ReportRequest, report};
pub use sentence::line;
pub use signature::{PublicKeyError, Trust};
pub use verified::Verified;
pub use verify::{Anchor, LogFinding, LogVerdict, OpenTail, Report, VerifyInputs, anchors, verify};
