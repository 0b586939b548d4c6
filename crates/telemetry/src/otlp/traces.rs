//! Requests of spans, made by OpenTelemetry's own exporter.
//!
//! It sends nothing itself: what serves it as HTTP client keeps the request's body, which our delivery sends, by gRPC or
//! HTTP. So spans have the same queue, counts, repetitions and TLS as everything else that is exported.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::{Request, Response};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::trace::SpanExporter as _;
use opentelemetry_semantic_conventions::SCHEMA_URL;
use sidegate_core::ConnectionRecord;

use crate::attributes::AttributeBounds;
use crate::resource::Resource;
use crate::spans;

/// Makes requests of connections.
pub(crate) struct SpanEncoder {
    exporter: SpanExporter,
    client: BodyKeeper,
    resource: Arc<Resource>,
    /// What the exporter has of the resource.
    pairs: Vec<(String, String)>,
    scope: InstrumentationScope,
    limits: AttributeBounds,
}

/// The exporter's HTTP client: keeps the body and says that all is well. What else the request says, such as headers of
/// the environment, is of no account.
#[derive(Debug, Clone, Default)]
struct BodyKeeper(Arc<Mutex<Option<Bytes>>>);

impl BodyKeeper {
    fn slot(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl HttpClient for BodyKeeper {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        *self.slot() = Some(request.into_body());
        Ok(Response::new(Bytes::new()))
    }
}

impl SpanEncoder {
    /// For spans of `resource`, with attributes within `limits`.
    ///
    /// # Errors
    /// If the exporter can't be built.
    pub(crate) fn new(resource: Arc<Resource>, limits: AttributeBounds) -> Result<Self, ExporterBuildError> {
        let client = BodyKeeper::default();
        // All that the environment could say otherwise is said here.
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client.clone())
            .with_endpoint("http://collector.invalid/v1/traces")
            .with_protocol(Protocol::HttpBinary)
            .with_retry_policy(RetryPolicy::default().with_max_retries(0))
            .build()?;
        let scope = InstrumentationScope::builder("sidegate").with_version(env!("CARGO_PKG_VERSION")).with_schema_url(SCHEMA_URL).build();
        Ok(Self { exporter, client, resource, pairs: Vec::new(), scope, limits })
    }

    /// The traces of `records` as a request, and how many spans it holds.
    ///
    /// # Errors
    /// Why the exporter makes none.
    pub(crate) fn encode(&mut self, records: &[Arc<ConnectionRecord>]) -> Result<Bytes, String> {
        self.follow_resource();
        let mut spans = Vec::with_capacity(records.len() * 4);
        records.iter().for_each(|record| spans::push(record, &self.scope, self.limits, &mut spans));
        let export = pin!(self.exporter.export(spans));
        // With a client that never waits it is done at once.
        match export.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => self.client.slot().take().ok_or_else(|| "it sent nothing".to_owned()),
            Poll::Ready(Err(error)) => Err(error.to_string()),
            Poll::Pending => Err("it waits for something".to_owned()),
        }
    }

    /// Our identity becomes known after the start, and may change.
    fn follow_resource(&mut self) {
        let pairs = self.resource.pairs();
        if pairs != self.pairs {
            let attributes = pairs.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
            let resource = opentelemetry_sdk::Resource::builder_empty().with_schema_url(attributes, SCHEMA_URL).build();
            self.exporter.set_resource(&resource);
            self.pairs = pairs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::tests::full;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::SpanFlags;
    use prost::Message;
    use sidegate_config::schema::telemetry as schema;
    use sidegate_core::{Direction, Reason, SpanId};

    #[test]
    fn a_request_is_whole_and_follows_the_resource() {
        let resource = Arc::new(Resource::new(&schema::Telemetry::default(), |_| None));
        let mut encoder = SpanEncoder::new(resource.clone(), AttributeBounds::default()).unwrap();
        let mut record = full(Direction::Inbound, Reason::Expired);
        record.parent_span = Some(SpanId([7; 8]));
        let mut encode = || ExportTraceServiceRequest::decode(encoder.encode(&[Arc::new(record.clone())]).unwrap()).unwrap().resource_spans;
        let before = encode();
        resource.identify("spiffe://a.b/web".into());
        let after = encode();
        let names = |all: &[opentelemetry_proto::tonic::trace::v1::ResourceSpans]| {
            let attributes = all[0].resource.clone().unwrap().attributes;
            attributes.into_iter().filter(|kv| kv.key == "sidegate.local.spiffe_id").count()
        };
        assert_eq!((before.len(), names(&before), names(&after)), (1, 0, 1));
        let (of_resource, of_scope) = (&after[0], &after[0].scope_spans[0]);
        assert_eq!((of_resource.schema_url.as_str(), of_scope.schema_url.as_str()), (SCHEMA_URL, SCHEMA_URL));
        assert_eq!((of_resource.scope_spans.len(), of_scope.scope.as_ref().unwrap().name.as_str()), (1, "sidegate"));
        assert_eq!(of_scope.spans.len() as u64, spans::count(&record));
        let known = SpanFlags::ContextHasIsRemoteMask as u32 | u32::from(spans::SAMPLED);
        assert_eq!(of_scope.spans[0].flags, known | SpanFlags::ContextIsRemoteMask as u32);
        assert!(of_scope.spans[1..].iter().all(|span| span.flags == known));
    }
}
