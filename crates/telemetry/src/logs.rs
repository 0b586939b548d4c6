//! Connections and events as log records.

use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry_proto::tonic::logs::v1::SeverityNumber;
use sidegate_core::{ConnectionRecord, event};

use crate::attributes::{self, AttributeBounds, Attributes};
use crate::audit_lines::AuditLine;
use crate::spans::{NOT_SAMPLED, SAMPLED};
use crate::text;
use crate::wire::{WireBuffer, nanos};

/// An event, as it was reported.
#[derive(Debug)]
pub(crate) struct LoggedEvent {
    pub(crate) time: SystemTime,
    pub(crate) level: tracing::Level,
    pub(crate) target: &'static str,
    /// Its name, if it has one.
    pub(crate) name: Option<String>,
    pub(crate) message: String,
    pub(crate) fields: Vec<(&'static str, Field)>,
}

/// The value of an event's field.
#[derive(Debug)]
pub(crate) enum Field {
    Text(String),
    Number(i64),
    Boolean(bool),
}

/// An entry that becomes a log record.
#[derive(Debug)]
pub(crate) enum LogEntry {
    /// A finished connection; whether its trace is exported too.
    Connection(Arc<ConnectionRecord>, bool),
    /// An event.
    Event(Box<LoggedEvent>),
    /// A record of the audit log.
    Audit(AuditLine),
}

/// Fields of `opentelemetry.proto.logs.v1.LogRecord`.
mod field {
    pub(super) const TIME: u32 = 1;
    pub(super) const SEVERITY_NUMBER: u32 = 2;
    pub(super) const SEVERITY_TEXT: u32 = 3;
    pub(super) const BODY: u32 = 5;
    pub(super) const ATTRIBUTES: u32 = 6;
    pub(super) const DROPPED_ATTRIBUTES: u32 = 7;
    pub(super) const FLAGS: u32 = 8;
    pub(super) const TRACE_ID: u32 = 9;
    pub(super) const SPAN_ID: u32 = 10;
    pub(super) const OBSERVED: u32 = 11;
    pub(super) const EVENT_NAME: u32 = 12;
}

/// Writes `entry` as a log record into field `records` of a `ScopeLogs`.
pub(crate) fn write(entry: &LogEntry, limits: AttributeBounds, records: u32, out: &mut WireBuffer) {
    out.message(records, |log| match entry {
        LogEntry::Connection(record, sampled) => connection(record, *sampled, limits, log),
        LogEntry::Event(event) => of_event(event, limits, log),
        LogEntry::Audit(line) => of_audit(line, log),
    });
}

fn head(time: SystemTime, severity: SeverityNumber, severity_text: &str, body: &str, log: &mut WireBuffer) {
    log.fixed64(field::TIME, nanos(time));
    log.fixed64(field::OBSERVED, nanos(SystemTime::now()));
    log.varint(field::SEVERITY_NUMBER, severity as u64);
    log.bytes(field::SEVERITY_TEXT, severity_text.as_bytes());
    log.message(field::BODY, |value| value.bytes(1, body.as_bytes()));
}

fn connection(record: &ConnectionRecord, sampled: bool, limits: AttributeBounds, log: &mut WireBuffer) {
    let (severity, word) = if record.is_success() { (SeverityNumber::Info, "INFO") } else { (SeverityNumber::Warn, "WARN") };
    head(record.time + record.stages.total, severity, word, &text::line(record), log);
    log.bytes(field::EVENT_NAME, event::CONNECTION_ENDED.as_bytes());
    let mut attributes = Attributes::of_log_record(log, field::ATTRIBUTES, limits);
    attributes::connection(record, &mut attributes);
    attributes::stages(record, &mut attributes);
    let dropped = attributes.dropped();
    log.varint(field::DROPPED_ATTRIBUTES, dropped.into());
    log.bytes(field::TRACE_ID, &record.trace().bytes());
    log.bytes(field::SPAN_ID, &record.span_id.0);
    log.fixed32(field::FLAGS, if sampled { SAMPLED } else { NOT_SAMPLED }.into());
}

/// Its body is the record as the audit log has it, so that the collector has the bytes that are verified.
fn of_audit(line: &AuditLine, log: &mut WireBuffer) {
    head(line.time, SeverityNumber::Info, "INFO", &String::from_utf8_lossy(&line.json), log);
    log.bytes(field::EVENT_NAME, event::AUDIT_RECORD.as_bytes());
}

fn of_event(event: &LoggedEvent, limits: AttributeBounds, log: &mut WireBuffer) {
    let (severity, word) = match event.level {
        tracing::Level::ERROR => (SeverityNumber::Error, "ERROR"),
        tracing::Level::WARN => (SeverityNumber::Warn, "WARN"),
        tracing::Level::INFO => (SeverityNumber::Info, "INFO"),
        tracing::Level::DEBUG => (SeverityNumber::Debug, "DEBUG"),
        tracing::Level::TRACE => (SeverityNumber::Trace, "TRACE"),
    };
    head(event.time, severity, word, &event.message, log);
    if let Some(name) = &event.name {
        log.bytes(field::EVENT_NAME, name.as_bytes());
    }
    let mut trace_id = None;
    let mut attributes = Attributes::of_log_record(log, field::ATTRIBUTES, limits);
    attributes.text("sidegate.module", event.target);
    for (key, value) in &event.fields {
        let name = format!("sidegate.{key}");
        match value {
            // The connection that an event is about is its trace.
            Field::Text(text) if *key == "connection_id" => trace_id = hex::decode(text).ok().filter(|id| id.len() == 16),
            Field::Text(text) => attributes.text(name, text),
            Field::Number(number) => attributes.integer(name, *number),
            Field::Boolean(truth) => attributes.boolean(name, *truth),
        }
    }
    let dropped = attributes.dropped();
    log.varint(field::DROPPED_ATTRIBUTES, dropped.into());
    if let Some(trace_id) = trace_id {
        log.bytes(field::TRACE_ID, &trace_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::tests::full;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ScopeLogs};
    use prost::Message;
    use sidegate_core::{Direction, Reason};

    fn log_record(entry: &LogEntry) -> LogRecord {
        let mut out = WireBuffer::default();
        write(entry, AttributeBounds::default(), 2, &mut out);
        ScopeLogs::decode(out.into_bytes().as_slice()).unwrap().log_records.remove(0)
    }

    #[test]
    fn a_connection_is_a_log_record_of_its_trace() {
        let record = Arc::new(full(Direction::Inbound, Reason::Expired));
        let log = log_record(&LogEntry::Connection(record.clone(), true));
        assert_eq!((log.trace_id.as_slice(), log.span_id.as_slice()), (&record.connection_id.bytes()[..], &record.span_id.0[..]));
        assert_eq!((log.severity_text.as_str(), log.flags, log.event_name.as_str()), ("WARN", SAMPLED.into(), event::CONNECTION_ENDED));
        assert_eq!(log.body.unwrap().value.unwrap(), Value::StringValue(text::line(&record)));
        assert_eq!(log.time_unix_nano, nanos(record.time + record.stages.total));
        assert!(log.attributes.len() > 30 && log.observed_time_unix_nano >= log.time_unix_nano - 50_000_000);
    }

    #[test]
    fn an_event_about_a_connection_is_of_its_trace() {
        let id = sidegate_core::ConnectionId::random();
        let fields = vec![("connection_id", Field::Text(id.to_string())), ("count", Field::Number(-3)), ("yes", Field::Boolean(true))];
        let event = LoggedEvent {
            time: SystemTime::now(),
            level: tracing::Level::ERROR,
            target: "sidegate_proxy::inbound",
            name: Some("sidegate.x".to_owned()),
            message: "what".to_owned(),
            fields,
        };
        let log = log_record(&LogEntry::Event(Box::new(event)));
        assert_eq!((log.trace_id, log.event_name.as_str(), log.severity_number), (id.bytes().to_vec(), "sidegate.x", 17));
        let keys: Vec<&str> = log.attributes.iter().map(|a| a.key.as_str()).collect();
        assert_eq!(keys, ["sidegate.module", "sidegate.count", "sidegate.yes"]);
    }
}
