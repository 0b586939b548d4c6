//! Export by OTLP.

pub(crate) mod connect;
pub(crate) mod export;
pub(crate) mod metrics;
pub(crate) mod traces;
mod transport;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_semantic_conventions::SCHEMA_URL;
use prost::Message;

pub use transport::TlsSource;

use crate::attributes::AttributeBounds;
use crate::logs::{self, LogEntry};
use crate::resource::Resource;
use crate::wire::WireBuffer;

/// Who made the telemetry.
fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "sidegate".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), ..InstrumentationScope::default() }
}

/// Fields of `ExportLogsServiceRequest`, `ResourceLogs` and `ScopeLogs` (OTLP, `logs.proto`).
mod field {
    pub(super) const RESOURCE_LOGS: u32 = 1;
    /// Of `ResourceLogs` the resource, of `ScopeLogs` the scope.
    pub(super) const ORIGIN: u32 = 1;
    /// Of `ResourceLogs` the scopes, of `ScopeLogs` the records.
    pub(super) const PARTS: u32 = 2;
    pub(super) const SCHEMA_URL: u32 = 3;
}

/// `entries` as a request.
pub(crate) fn logs(entries: &[LogEntry], limits: AttributeBounds, resource: &Resource) -> Bytes {
    let mut out = WireBuffer::default();
    out.message(field::RESOURCE_LOGS, |of_resource| {
        of_resource.bytes(field::ORIGIN, &resource.message().encode_to_vec());
        of_resource.message(field::PARTS, |of_scope| {
            of_scope.bytes(field::ORIGIN, &scope().encode_to_vec());
            entries.iter().for_each(|entry| logs::write(entry, limits, field::PARTS, of_scope));
            of_scope.bytes(field::SCHEMA_URL, SCHEMA_URL.as_bytes());
        });
        of_resource.bytes(field::SCHEMA_URL, SCHEMA_URL.as_bytes());
    });
    out.into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::tests::full;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use sidegate_config::schema::telemetry as schema;
    use sidegate_core::{Direction, Reason};
    use std::sync::Arc;

    #[test]
    fn a_request_of_log_records_is_whole() {
        let resource = Resource::new(&schema::Telemetry::default(), |_| None);
        let entries =
            [Reason::Closed, Reason::Expired].map(|reason| LogEntry::Connection(Arc::new(full(Direction::Outbound, reason)), true));
        let request = ExportLogsServiceRequest::decode(logs(&entries, AttributeBounds::default(), &resource)).unwrap();
        let [of_resource] = &request.resource_logs[..] else { panic!("one resource") };
        let [of_scope] = &of_resource.scope_logs[..] else { panic!("one scope") };
        assert_eq!(of_resource.resource, Some(resource.message()));
        assert_eq!((of_scope.scope.clone(), of_scope.log_records.len()), (Some(scope()), 2));
        assert_eq!([&of_resource.schema_url, &of_scope.schema_url], [SCHEMA_URL; 2]);
    }
}
