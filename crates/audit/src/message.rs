//! What the audit log is started with, and what it is told.

use std::sync::Arc;
use std::time::SystemTime;

use sidegate_config::schema::audit::Audit as Config;
use sidegate_core::ConnectionRecord;
use sidegate_telemetry::{AuditLines, Metrics};

use crate::admitted::Admitted;
use crate::event::NewEvent;
use crate::state::IdentityCell;

/// How the audit log starts.
pub struct AuditOptions<'a> {
    /// What is written where.
    pub config: &'a Config,
    /// Where is counted what was written and lost.
    pub metrics: Arc<Metrics>,
    /// fwmark of our own packets.
    pub mark: Option<u32>,
    /// Where the key that signs checkpoints is found.
    pub identity: IdentityCell,
    /// The way to the collector of log records, if there is one.
    pub otlp: Option<AuditLines>,
}

/// What happened, and when.
pub(crate) struct AuditMessage {
    pub(crate) time: SystemTime,
    pub(crate) what: AuditMessageKind,
}

pub(crate) enum AuditMessageKind {
    Admitted(Box<Admitted>),
    /// With whether it had been admitted.
    Ended(Arc<ConnectionRecord>, bool),
    Event(Box<NewEvent>),
}

impl AuditMessage {
    /// The connection that it says was admitted.
    pub(crate) fn admitted(&self) -> Option<&Admitted> {
        if let AuditMessageKind::Admitted(admitted) = &self.what { Some(admitted) } else { None }
    }

    /// The connection that it says has ended after it was admitted.
    pub(crate) fn ended(&self) -> Option<&Arc<ConnectionRecord>> {
        if let AuditMessageKind::Ended(record, true) = &self.what { Some(record) } else { None }
    }
}
