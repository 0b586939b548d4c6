//! The options of the audit log, and the messages to its writer.

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
    /// The section `audit` of the configuration.
    pub config: &'a Config,
    /// Counts written and lost records.
    pub metrics: Arc<Metrics>,
    /// fwmark of our own packets.
    pub mark: Option<u32>,
    /// The identity whose key signs checkpoints.
    pub identity: IdentityCell,
    /// The queue to the collector of log records, if there is one.
    pub otlp: Option<AuditLines>,
}

/// What happened, and when.
pub(crate) struct AuditMessage {
    pub(crate) time: SystemTime,
    pub(crate) what: AuditMessageKind,
}

pub(crate) enum AuditMessageKind {
    Admitted(Box<Admitted>),
    /// A connection that has ended, and whether it had been admitted.
    Ended(Arc<ConnectionRecord>, bool),
    Event(Box<NewEvent>),
}

impl AuditMessage {
    /// The connection, if the message says that it was admitted.
    pub(crate) fn admitted(&self) -> Option<&Admitted> {
        if let AuditMessageKind::Admitted(admitted) = &self.what { Some(admitted) } else { None }
    }

    /// The connection, if the message says that it has ended after its admission.
    pub(crate) fn ended(&self) -> Option<&Arc<ConnectionRecord>> {
        if let AuditMessageKind::Ended(record, true) = &self.what { Some(record) } else { None }
    }
}
