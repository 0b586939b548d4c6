//! Why the audit log can't be started.

use crate::folder::FolderError;
use crate::signing::KeyError;

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
