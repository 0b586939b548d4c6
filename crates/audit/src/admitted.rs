//! An admitted connection: a copy of its record so far, since the connection goes on.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};
use sidegate_core::{
    ClientAddr, ConnectionId, ConnectionRecord, Decision, Direction, HandshakeFacts, OriginalDst, Peer, SpanId, Transport, TunnelUse,
};

/// The facts of a connection when it is admitted. The fields are those of [`ConnectionRecord`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Admitted {
    /// Our own number of the connection: its ID may have been chosen by the peer.
    #[serde(skip)]
    pub(crate) span_id: SpanId,
    connection_id: ConnectionId,
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    direction: Direction,
    downstream: ClientAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_destination: Option<OriginalDst>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<Transport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_id: Option<Arc<str>>,
    #[serde(flatten)]
    peer: Peer,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<Arc<HandshakeFacts>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<TunnelUse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
    generation: u64,
}

impl Admitted {
    /// Copies `record` as it is so far.
    #[must_use]
    pub fn new(record: &ConnectionRecord) -> Self {
        Self {
            span_id: record.span_id,
            connection_id: record.connection_id,
            time: record.time,
            direction: record.direction,
            downstream: record.downstream,
            original_destination: record.original_destination,
            destination: record.destination.clone(),
            transport: record.transport,
            local_id: record.local_id.clone(),
            peer: record.peer.clone(),
            tls: record.tls.clone(),
            tunnel: record.tunnel,
            decision: record.decision.clone(),
            generation: record.generation,
        }
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_micros(*time))
}
