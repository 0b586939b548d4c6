//! Passes records of the audit log to the collector, as log records.

use std::sync::Arc;
use std::time::SystemTime;

use sidegate_core::ConnectionRecord;
use tokio::sync::mpsc;

/// Records that may wait for the telemetry thread. The audit log has a queue of its own before this one.
pub(crate) const QUEUE: usize = 256;

/// A record of the audit log.
#[derive(Debug)]
pub struct AuditLine {
    /// When it happened.
    pub time: SystemTime,
    /// The record: a JSON object.
    pub json: Arc<[u8]>,
}

/// Takes records of the audit log for the collector of log records. As long as there is one of these, the telemetry thread
/// goes on.
#[derive(Debug, Clone)]
pub struct AuditLines {
    pub(crate) lines: mpsc::Sender<AuditLine>,
    /// The thread ends with the last sender of these.
    pub(crate) _records: mpsc::Sender<Arc<ConnectionRecord>>,
}

impl AuditLines {
    /// Hands a record on, and waits for room. Not to be called by a task. Whether there is still somebody to take it; what
    /// the exporter loses later is counted there.
    #[must_use]
    pub fn send(&self, line: AuditLine) -> bool {
        self.lines.blocking_send(line).is_ok()
    }
}
