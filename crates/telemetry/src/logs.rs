//! Connections and events as log records.

use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use sidegate_core::{ConnectionRecord, event};

use crate::attributes::{self, Attributes};
use crate::spans::{SAMPLED, nanos};
use crate::text;

/// An event, as it was reported.
#[derive(Debug)]
pub(crate) struct Event {
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

/// What waits to become a log record.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A finished connection; whether its trace is exported too.
    Connection(Arc<ConnectionRecord>, bool),
    /// An event.
    Event(Box<Event>),
}

/// The log record of `entry`.
pub(crate) fn log_record(entry: &Entry) -> LogRecord {
    match entry {
        Entry::Connection(record, sampled) => connection(record, *sampled),
        Entry::Event(event) => of_event(event),
    }
}

fn connection(record: &ConnectionRecord, sampled: bool) -> LogRecord {
    let (severity_number, severity_text) =
        if record.is_success() { (SeverityNumber::Info, "INFO") } else { (SeverityNumber::Warn, "WARN") };
    LogRecord {
        time_unix_nano: nanos(record.time + record.stages.total),
        observed_time_unix_nano: nanos(SystemTime::now()),
        severity_number: severity_number as i32,
        severity_text: severity_text.to_owned(),
        event_name: event::CONNECTION_ENDED.to_owned(),
        body: body(text::line(record)),
        attributes: attributes::connection(record).0,
        trace_id: record.connection_id.bytes().to_vec(),
        span_id: record.span_id.0.to_vec(),
        flags: if sampled { SAMPLED } else { 0 },
        ..LogRecord::default()
    }
}

fn of_event(event: &Event) -> LogRecord {
    let (severity_number, severity_text) = match event.level {
        tracing::Level::ERROR => (SeverityNumber::Error, "ERROR"),
        tracing::Level::WARN => (SeverityNumber::Warn, "WARN"),
        tracing::Level::INFO => (SeverityNumber::Info, "INFO"),
        tracing::Level::DEBUG => (SeverityNumber::Debug, "DEBUG"),
        tracing::Level::TRACE => (SeverityNumber::Trace, "TRACE"),
    };
    let mut attributes = Attributes::default();
    attributes.text("sidegate.module", event.target);
    let mut trace_id = Vec::new();
    for (key, field) in &event.fields {
        match field {
            // The connection that an event is about is its trace.
            Field::Text(text) if *key == "connection_id" => trace_id = from_hex(text).unwrap_or_default(),
            Field::Text(text) => attributes.text(&format!("sidegate.{key}"), text.as_str()),
            Field::Number(number) => attributes.text(&format!("sidegate.{key}"), number.to_string()),
            Field::Boolean(truth) => attributes.boolean(&format!("sidegate.{key}"), *truth),
        }
    }
    LogRecord {
        time_unix_nano: nanos(event.time),
        observed_time_unix_nano: nanos(SystemTime::now()),
        severity_number: severity_number as i32,
        severity_text: severity_text.to_owned(),
        event_name: event.name.clone().unwrap_or_default(),
        body: body(event.message.clone()),
        attributes: attributes.0,
        trace_id,
        ..LogRecord::default()
    }
}

fn body(text: String) -> Option<AnyValue> {
    Some(AnyValue { value: Some(any_value::Value::StringValue(text)) })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 32 {
        return None;
    }
    (0..16).map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()).collect()
}
