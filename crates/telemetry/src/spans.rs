//! A connection as a trace: one span for the whole, a child for each stage at its true time.

use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use sidegate_core::{ConnectionRecord, Direction, Lap, Stage};

use crate::attributes::{self, AttributeBounds, Attributes};

/// The spans: name, kind, meaning.
pub const SPANS: &[(&str, &str, &str)] = &[
    ("inbound", "server", "A connection to the workload, from accept to close; through a tunnel, a child of the client's outbound."),
    ("outbound", "client", "A connection from the workload, from accept to close."),
    ("detect", "internal", "Waiting for the first bytes on a permissive port."),
    ("dial", "internal", "TCP connect to the destination."),
    ("handshake", "internal", "The TLS handshake."),
    ("verify", "internal", "Verification of the peer's chain; a child of handshake, if there is one."),
    ("authorize", "internal", "The decision of policy."),
];

/// The trace flags "sampled" and "random" (W3C Trace Context level 2 §3.2.2.5).
pub(crate) const SAMPLED: u8 = 3;
/// The trace flag "random" alone.
pub(crate) const NOT_SAMPLED: u8 = 2;

/// The stages of `record` that were reached, in the order of their spans.
fn stages(record: &ConnectionRecord) -> [(Stage, Option<Lap>); 5] {
    let s = &record.stages;
    [
        (Stage::Detect, s.detect),
        (Stage::Dial, s.dial),
        (Stage::Handshake, s.handshake),
        (Stage::Verify, s.verify),
        (Stage::Authorize, s.authorize),
    ]
}

/// How many spans [`push`] makes of `record`.
pub(crate) fn count(record: &ConnectionRecord) -> u64 {
    1 + stages(record).iter().filter(|(_, lap)| lap.is_some()).count() as u64
}

/// The name, parent and times of a span.
struct Frame {
    id: [u8; 8],
    /// None for the root of a trace.
    parent: Option<[u8; 8]>,
    parent_is_remote: bool,
    name: &'static str,
    kind: SpanKind,
    start: SystemTime,
    took: Duration,
    failed: bool,
}

/// Adds the spans of `record` to `spans`, the whole first.
pub(crate) fn push(record: &ConnectionRecord, scope: &InstrumentationScope, limits: AttributeBounds, spans: &mut Vec<SpanData>) {
    let root_id = record.span_id.0;
    let at = |instant: Instant| record.time + instant.saturating_duration_since(record.accepted);
    let root = Frame {
        id: root_id,
        parent: record.parent_span.map(|span| span.0),
        parent_is_remote: record.parent_span.is_some(),
        name: record.direction.label(),
        kind: match record.direction {
            Direction::Inbound => SpanKind::Server,
            Direction::Outbound => SpanKind::Client,
        },
        start: record.time,
        took: record.stages.total,
        failed: !record.is_success(),
    };
    let mut all = Vec::with_capacity(attributes::USUAL);
    let mut of_span = Attributes::of_span(&mut all, limits);
    attributes::connection(record, &mut of_span);
    let dropped = of_span.dropped();
    spans.push(span(record, root, all, dropped, scope));
    for (stage, lap) in stages(record) {
        let Some(lap) = lap else { continue };
        let parent =
            if stage == Stage::Verify && record.stages.handshake.is_some() { child_id(root_id, Stage::Handshake) } else { root_id };
        let child = Frame {
            id: child_id(root_id, stage),
            parent: Some(parent),
            parent_is_remote: false,
            name: stage.label(),
            kind: SpanKind::Internal,
            start: at(lap.start),
            took: lap.took,
            failed: is_place_of_failure(record, stage),
        };
        let mut all = Vec::new();
        let mut of_span = Attributes::of_span(&mut all, limits);
        if child.failed {
            of_span.text(attributes::ERROR_TYPE, record.reason.label());
        }
        let dropped = of_span.dropped();
        spans.push(span(record, child, all, dropped, scope));
    }
}

fn span(record: &ConnectionRecord, frame: Frame, attributes: Vec<KeyValue>, dropped: u32, scope: &InstrumentationScope) -> SpanData {
    let (trace, id) = (TraceId::from_bytes(record.trace().bytes()), SpanId::from_bytes(frame.id));
    // Unset without a failure: only an operator sets it to Ok (OpenTelemetry trace API, status).
    let status = if frame.failed {
        let meaning = record.reason.meaning();
        Status::error(record.detail.as_ref().map_or_else(|| meaning.to_owned(), |detail| format!("{meaning} {detail}")))
    } else {
        Status::Unset
    };
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::new(SAMPLED), false, TraceState::NONE),
        parent_span_id: frame.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: frame.parent_is_remote,
        span_kind: frame.kind,
        name: frame.name.into(),
        start_time: frame.start,
        end_time: frame.start + frame.took,
        attributes,
        dropped_attributes_count: dropped,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status,
        instrumentation_scope: scope.clone(),
    }
}

/// A failure of verification is one of the handshake too.
fn is_place_of_failure(record: &ConnectionRecord, stage: Stage) -> bool {
    if record.is_success() {
        return false;
    }
    let at = record.reason.stage();
    // A finished handshake has not failed: a later refusal by the peer belongs to the whole connection.
    let in_handshake = record.tls.is_none() && (at == Stage::Handshake || at == Stage::Verify);
    match stage {
        Stage::Handshake => in_handshake,
        Stage::Verify => in_handshake && at == Stage::Verify,
        other => other == at,
    }
}

/// Different from the root's and from each other's.
fn child_id(root: [u8; 8], stage: Stage) -> [u8; 8] {
    let mut id = root;
    id[0] ^= 1 + stage as u8;
    // A root that differs from this in the first byte only would make it zero, which is no valid span ID.
    if id == [0; 8] { [0xff; 8] } else { id }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::tests::full;
    use sidegate_core::Reason;

    fn spans(record: &ConnectionRecord) -> Vec<SpanData> {
        let mut spans = Vec::new();
        push(record, &InstrumentationScope::default(), AttributeBounds::default(), &mut spans);
        assert_eq!(spans.len() as u64, count(record));
        spans
    }

    #[test]
    fn stages_are_children_at_their_true_times() {
        let mut record = full(Direction::Inbound, Reason::Closed);
        let all = spans(&record);
        let span = |name: &str| all.iter().find(|s| s.name == name).unwrap();
        let root = span("inbound");
        assert_eq!((&root.span_kind, root.span_context.trace_id().to_bytes()), (&SpanKind::Server, record.connection_id.bytes()));
        assert_eq!((root.start_time, root.end_time, &root.status), (record.time, record.time + Duration::from_millis(50), &Status::Unset));
        assert_eq!((root.span_context.trace_flags().to_u8(), root.attributes.len() > 30), (SAMPLED, true));
        assert_eq!((root.parent_span_id, root.parent_span_is_remote), (SpanId::INVALID, false));
        for (name, from, took, parent) in [
            ("detect", 0, 100, "inbound"),
            ("dial", 100, 200, "inbound"),
            ("handshake", 300, 1000, "inbound"),
            ("verify", 800, 150, "handshake"),
            ("authorize", 1300, 5, "inbound"),
        ] {
            let child = span(name);
            assert_eq!(child.start_time, root.start_time + Duration::from_micros(from), "{name}");
            assert_eq!(child.end_time, child.start_time + Duration::from_micros(took), "{name}");
            assert_eq!((child.parent_span_id, child.parent_span_is_remote), (span(parent).span_context.span_id(), false), "{name}");
            assert_eq!(child.span_context.trace_id(), root.span_context.trace_id(), "{name}");
        }
        let ids: std::collections::HashSet<_> = all.iter().map(|s| s.span_context.span_id()).collect();
        assert_eq!(ids.len(), all.len());
        assert_eq!(spans(&full(Direction::Outbound, Reason::Closed))[0].span_kind, SpanKind::Client);
        record.parent_span = Some(sidegate_core::SpanId([7; 8]));
        let of_peer = spans(&record);
        assert_eq!((of_peer[0].parent_span_id, of_peer[0].parent_span_is_remote), (SpanId::from_bytes([7; 8]), true));
        assert!(of_peer[1..].iter().all(|child| !child.parent_span_is_remote));
    }

    #[test]
    fn a_failure_shows_where_it_happened() {
        for (reason, established, places) in [
            (Reason::Expired, false, &["inbound", "handshake", "verify"][..]),
            (Reason::HandshakeTimeout, false, &["inbound", "handshake"]),
            (Reason::DeniedByDefault, true, &["inbound", "authorize"]),
            (Reason::DialRefused, true, &["inbound", "dial"]),
            (Reason::PeerRejectedUs, true, &["inbound"]),
            (Reason::DownstreamReset, true, &[]),
        ] {
            let mut record = full(Direction::Inbound, reason);
            if !established {
                record.tls = None;
            }
            let failed: Vec<_> = spans(&record).into_iter().filter(|s| s.status != Status::Unset).map(|s| s.name).collect();
            assert_eq!(failed, places, "{reason}");
        }
    }

    #[test]
    fn the_reference_lists_every_span() {
        let mut made: std::collections::BTreeSet<String> = std::collections::BTreeSet::new();
        for direction in [Direction::Inbound, Direction::Outbound] {
            made.extend(spans(&full(direction, Reason::Closed)).into_iter().map(|s| s.name.into_owned()));
        }
        assert_eq!(made, SPANS.iter().map(|(name, _, _)| (*name).to_owned()).collect());
    }
}
