//! Export by OTLP.

pub(crate) mod connect;
pub(crate) mod export;
pub(crate) mod metrics;
mod transport;

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use prost::Message;
use sidegate_core::ConnectionRecord;

pub use transport::TlsSource;

use crate::logs::{Entry, log_record};
use crate::resource::Resource;
use crate::spans::spans;

/// Who made the telemetry.
fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "sidegate".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), ..InstrumentationScope::default() }
}

/// The traces of `records` as a request, and how many spans it holds.
pub(crate) fn traces(records: &[Arc<ConnectionRecord>], resource: &Resource) -> (Bytes, u64) {
    let spans: Vec<_> = records.iter().flat_map(|record| spans(record)).collect();
    let count = spans.len() as u64;
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.message()),
            scope_spans: vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    };
    (request.encode_to_vec().into(), count)
}

/// `entries` as a request, and how many log records it holds.
pub(crate) fn logs(entries: &[Entry], resource: &Resource) -> (Bytes, u64) {
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource.message()),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope()),
                log_records: entries.iter().map(log_record).collect(),
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }],
    };
    (request.encode_to_vec().into(), entries.len() as u64)
}
