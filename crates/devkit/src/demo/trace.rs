//! A trace as a tree, as the demo's collector has received it.

use std::time::{Duration, Instant};

use serde_json::Value;
use sidegate_core::duration;

use super::output::Output;
use super::sidecar::Seen;
use super::workload::Workload;
use crate::fake_collector::FakeCollector;
use crate::fake_collector::otlp::common::v1::{AnyValue, KeyValue, any_value};
use crate::fake_collector::otlp::trace::v1::Span;
use crate::fake_collector::otlp::trace::v1::status::StatusCode;

/// What is shown of a connection; the rest is in docs/reference/telemetry.md.
const SHOWN: [&str; 9] = [
    "sidegate.local.spiffe_id",
    "sidegate.peer.spiffe_id",
    "sidegate.peer.claimed_id",
    "tls.protocol.version",
    "tls.curve",
    "tls.cipher",
    "sidegate.decision.rule",
    "sidegate.reason",
    "error.type",
];
/// How long spans may take to the collector.
const ARRIVAL: Duration = Duration::from_secs(5);

/// Prints the trace of one request at api, and the one of the intruder's attempt. Whether both had arrived.
pub(super) fn print(output: Output, collector: &FakeCollector, records: &[Seen]) -> bool {
    let at_api = |reason: &str| {
        // Not the one that stays open all the time.
        let is_short = |r: &Seen| r.record.pointer("/stages/totalMicros").and_then(Value::as_u64).is_some_and(|micros| micros < 1_000_000);
        let fits = |r: &&Seen| r.workload == Workload::Api && r.text("/reason") == reason && !r.text("/peerId").is_empty() && is_short(r);
        records.iter().find(fits).map(|r| r.text("/connectionId").to_owned())
    };
    let mut complete = true;
    for (what, reason) in [("One request, as api's sidecar traced it", "closed"), ("The intruder", "denied_by_default")] {
        output.show(format!("\n{what}"));
        let spans = at_api(reason).map(|id| wait_for(collector, &id)).unwrap_or_default();
        complete &= !spans.is_empty();
        for line in tree(&spans) {
            output.show(format!("  {line}"));
        }
    }
    complete
}

/// The spans of a trace. They come in batches, so not at once.
fn wait_for(collector: &FakeCollector, trace_id: &str) -> Vec<Span> {
    let deadline = Instant::now() + ARRIVAL;
    loop {
        let of_it: Vec<Span> = collector.spans().into_iter().filter(|s| hex(&s.trace_id) == trace_id).collect();
        if !of_it.is_empty() || Instant::now() > deadline {
            return of_it;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lines of a tree: each span with where it lies in the whole, and how long it took.
fn tree(spans: &[Span]) -> Vec<String> {
    let Some(root) = spans.iter().find(|s| s.parent_span_id.is_empty()) else { return Vec::new() };
    let mut lines = vec![format!("trace {}", hex(&root.trace_id))];
    branch(spans, root, root, "", &mut lines);
    lines
}

fn branch(spans: &[Span], root: &Span, span: &Span, indent: &str, lines: &mut Vec<String>) {
    let after = span.start_time_unix_nano.saturating_sub(root.start_time_unix_nano);
    let took = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
    let time = |nanos: u64| duration(Duration::from_nanos(nanos));
    let failed = span
        .status
        .as_ref()
        .filter(|status| status.code() == StatusCode::Error)
        .map_or_else(String::new, |status| format!("  FAILED: {}", status.message));
    // The root begins at 0.
    let name = format!("{indent}{}", span.name);
    lines.push(format!("{name:<16} +{:<8} {:<8}{failed}", time(after), time(took)).trim_end().to_owned());
    if std::ptr::eq(root, span) {
        let said = SHOWN.iter().filter_map(|key| Some(format!("{indent}  | {key} = {}", text(value(&span.attributes, key)?))));
        lines.extend(said);
    }
    let mut children: Vec<&Span> = spans.iter().filter(|s| s.parent_span_id == span.span_id).collect();
    children.sort_by_key(|s| s.start_time_unix_nano);
    for child in children {
        branch(spans, root, child, &format!("{indent}  "), lines);
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a AnyValue> {
    attributes.iter().find(|a| a.key == key)?.value.as_ref()
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        _ => String::new(),
    }
}
