//! Export by OTLP.

pub(crate) mod connect;
pub(crate) mod export;
pub(crate) mod metrics;
mod transport;

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use prost::Message;
use sidegate_core::ConnectionRecord;

pub use transport::TlsSource;

use crate::logs::{self, Entry};
use crate::resource::Resource;
use crate::spans;
use crate::wire::Buffer;

/// Who made the telemetry.
fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "sidegate".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), ..InstrumentationScope::default() }
}

/// Both signals are nested alike: the request's field 1 holds the resource (field 1) and the scope's items (field 2); in
/// these the scope is field 1, and each item a field 2.
const ITEMS: u32 = 2;

/// A request with what `write` puts into it, and what that says.
fn request<T>(resource: &Resource, write: impl FnOnce(&mut Buffer) -> T) -> (Bytes, T) {
    let mut out = Buffer::default();
    let result = out.message(1, |of_resource| {
        of_resource.bytes(1, &resource.message().encode_to_vec());
        of_resource.message(2, |of_scope| {
            of_scope.bytes(1, &scope().encode_to_vec());
            write(of_scope)
        })
    });
    (out.into_bytes().into(), result)
}

/// The traces of `records` as a request, and how many spans it holds.
pub(crate) fn traces(records: &[Arc<ConnectionRecord>], resource: &Resource) -> (Bytes, u64) {
    request(resource, |out| records.iter().map(|record| spans::write(record, ITEMS, out)).sum())
}

/// `entries` as a request, and how many log records it holds.
pub(crate) fn logs(entries: &[Entry], resource: &Resource) -> (Bytes, u64) {
    let (body, ()) = request(resource, |out| entries.iter().for_each(|entry| logs::write(entry, ITEMS, out)));
    (body, entries.len() as u64)
}
