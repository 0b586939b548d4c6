//! A connection as a trace: one span for the whole, a child for each stage at its true time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use sidegate_core::{ConnectionRecord, Direction, Lap, Stage};

use crate::attributes::{self, Attributes};
use crate::wire::Buffer;

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
pub(crate) const SAMPLED: u32 = 3;
/// The trace flag "random" alone.
pub(crate) const NOT_SAMPLED: u32 = 2;

/// Nanoseconds since the epoch.
pub(crate) fn nanos(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

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

/// How many spans [`write`] makes of `record`.
pub(crate) fn count(record: &ConnectionRecord) -> u64 {
    1 + stages(record).iter().filter(|(_, lap)| lap.is_some()).count() as u64
}

/// Fields of `opentelemetry.proto.trace.v1.Span`.
mod field {
    pub(super) const TRACE_ID: u32 = 1;
    pub(super) const SPAN_ID: u32 = 2;
    pub(super) const PARENT_SPAN_ID: u32 = 4;
    pub(super) const NAME: u32 = 5;
    pub(super) const KIND: u32 = 6;
    pub(super) const START: u32 = 7;
    pub(super) const END: u32 = 8;
    pub(super) const ATTRIBUTES: u32 = 9;
    pub(super) const STATUS: u32 = 15;
    pub(super) const FLAGS: u32 = 16;
}

/// What a span is called, where it hangs and when it was.
struct Frame<'a> {
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    name: &'a str,
    kind: SpanKind,
    start: u64,
    took: Duration,
    failed: bool,
}

/// Writes the spans of `record`, the whole first, each into field `spans` of a `ScopeSpans`. How many they are.
pub(crate) fn write(record: &ConnectionRecord, spans: u32, out: &mut Buffer) -> u64 {
    let root_id = record.span_id.0;
    let start = nanos(record.time);
    let at = |instant: Instant| start + u64::try_from(instant.saturating_duration_since(record.accepted).as_nanos()).unwrap_or(0);
    let kind = match record.direction {
        Direction::Inbound => SpanKind::Server,
        Direction::Outbound => SpanKind::Client,
    };
    let failed = !record.is_success();
    let root = Frame {
        id: root_id,
        parent: record.parent_span.map(|span| span.0),
        name: record.direction.label(),
        kind,
        start,
        took: record.stages.total,
        failed,
    };
    out.message(spans, |span| {
        frame(record, &root, span);
        attributes::connection(record, &mut Attributes::new(span, field::ATTRIBUTES));
    });
    let mut count = 1;
    for (stage, lap) in stages(record) {
        let Some(lap) = lap else { continue };
        let parent =
            if stage == Stage::Verify && record.stages.handshake.is_some() { child_id(root_id, Stage::Handshake) } else { root_id };
        let child = Frame {
            id: child_id(root_id, stage),
            parent: Some(parent),
            name: stage.label(),
            kind: SpanKind::Internal,
            start: at(lap.start),
            took: lap.took,
            failed: is_place_of_failure(record, stage),
        };
        out.message(spans, |span| {
            frame(record, &child, span);
            if child.failed {
                Attributes::new(span, field::ATTRIBUTES).text(attributes::ERROR_TYPE, record.reason.label());
            }
        });
        count += 1;
    }
    count
}

fn frame(record: &ConnectionRecord, frame: &Frame<'_>, span: &mut Buffer) {
    span.bytes(field::TRACE_ID, &record.trace().bytes());
    span.bytes(field::SPAN_ID, &frame.id);
    if let Some(parent) = frame.parent {
        span.bytes(field::PARENT_SPAN_ID, &parent);
    }
    span.bytes(field::NAME, frame.name.as_bytes());
    span.varint(field::KIND, frame.kind as u64);
    span.fixed64(field::START, frame.start);
    span.fixed64(field::END, frame.start + u64::try_from(frame.took.as_nanos()).unwrap_or(0));
    // Unset where nothing went wrong, for an operator's judgement stands above ours (OpenTelemetry trace API, status).
    if frame.failed {
        let meaning = record.reason.meaning();
        let message = record.detail.as_ref().map_or_else(|| meaning.to_owned(), |detail| format!("{meaning} {detail}"));
        span.message(field::STATUS, |status| {
            status.bytes(2, message.as_bytes());
            status.varint(3, StatusCode::Error as u64);
        });
    }
    span.fixed32(field::FLAGS, SAMPLED);
}

/// A failure of verification is one of the handshake too.
fn is_place_of_failure(record: &ConnectionRecord, stage: Stage) -> bool {
    if record.is_success() {
        return false;
    }
    let at = record.reason.stage();
    // A handshake that is done has not failed: what the peer said of it afterwards is the whole's.
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
    use opentelemetry_proto::tonic::trace::v1::{ScopeSpans, Span};
    use prost::Message;
    use sidegate_core::Reason;

    fn spans(record: &ConnectionRecord) -> Vec<Span> {
        let mut out = Buffer::default();
        assert_eq!(write(record, 2, &mut out), count(record));
        ScopeSpans::decode(out.into_bytes().as_slice()).unwrap().spans
    }

    #[test]
    fn stages_are_children_at_their_true_times() {
        let record = full(Direction::Inbound, Reason::Closed);
        let all = spans(&record);
        assert_eq!(all.len() as u64, count(&record));
        let span = |name: &str| all.iter().find(|s| s.name == name).unwrap();
        let root = span("inbound");
        assert_eq!((root.kind, root.trace_id.as_slice()), (SpanKind::Server as i32, &record.connection_id.bytes()[..]));
        assert_eq!((root.end_time_unix_nano - root.start_time_unix_nano, root.status.clone()), (50_000_000, None));
        assert_eq!((root.flags, root.attributes.len() > 30), (SAMPLED, true));
        for (name, from, took, parent) in [
            ("detect", 0, 100, "inbound"),
            ("dial", 100, 200, "inbound"),
            ("handshake", 300, 1000, "inbound"),
            ("verify", 800, 150, "handshake"),
            ("authorize", 1300, 5, "inbound"),
        ] {
            let child = span(name);
            assert_eq!(child.start_time_unix_nano - root.start_time_unix_nano, from * 1000, "{name}");
            assert_eq!(child.end_time_unix_nano - child.start_time_unix_nano, took * 1000, "{name}");
            assert_eq!((&child.parent_span_id, &child.trace_id), (&span(parent).span_id, &root.trace_id), "{name}");
        }
        let ids: std::collections::HashSet<_> = all.iter().map(|s| &s.span_id).collect();
        assert_eq!(ids.len(), all.len());
        assert_eq!(spans(&full(Direction::Outbound, Reason::Closed))[0].kind, SpanKind::Client as i32);
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
            let failed: Vec<String> = spans(&record).into_iter().filter(|s| s.status.is_some()).map(|s| s.name).collect();
            assert_eq!(failed, places, "{reason}");
        }
    }

    #[test]
    fn the_reference_lists_every_span() {
        let mut made: std::collections::BTreeSet<String> = std::collections::BTreeSet::new();
        for direction in [Direction::Inbound, Direction::Outbound] {
            made.extend(spans(&full(direction, Reason::Closed)).into_iter().map(|s| s.name));
        }
        assert_eq!(made, SPANS.iter().map(|(name, _, _)| (*name).to_owned()).collect());
    }
}
