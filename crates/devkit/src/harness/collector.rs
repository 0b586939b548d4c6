//! The fake collector as tests use it: on loopback, with and without TLS.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use crate::fake_collector::otlp::common::v1::{KeyValue, any_value};
use crate::fake_collector::otlp::trace::v1::Span;
use crate::fake_collector::{FakeCollector, ListenOn};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::echo::free_port;
use super::wait::eventually;

/// Attributes by name, each as text.
pub type Attributes = BTreeMap<String, String>;

/// Attributes as they came.
pub fn attributes(all: &[KeyValue]) -> Attributes {
    let text = |value: &Option<any_value::Value>| match value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        other => panic!("{other:?} is no value of ours"),
    };
    all.iter().map(|a| (a.key.clone(), text(&a.value.clone().unwrap().value))).collect()
}

/// A collector on loopback.
pub struct Collector {
    /// The collector itself.
    pub fake: FakeCollector,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Collector {
    /// Without TLS.
    pub fn start() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())), None)
    }

    /// With TLS: it shows the certificate in these PEM files, and asks for one of a client whose CA is in `clients`.
    pub fn start_tls(certificate: &Path, key: &Path, clients: Option<&Path>) -> Self {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add_parsable_certificates(certificates(file));
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let mut config = builder.with_single_cert(certificates(certificate), key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())), Some(&Arc::new(config)))
    }

    /// At this address, as if it had been there before.
    pub fn at(address: SocketAddr, tls: Option<&Arc<ServerConfig>>) -> Self {
        // A process that is being started may hold the former one's listener until it runs its own program.
        let fake = eventually("the collector's port", || FakeCollector::start(ListenOn::Tcp(address, tls.cloned()), 10_000).ok());
        Self { fake, address }
    }

    /// Configuration that exports everything here, quickly; `more` stands inside `telemetry.otlp`.
    pub fn config(&self, scheme: &str, more: &str) -> String {
        format!(
            "telemetry: {{ otlp: {{ endpoint: \"{scheme}://localhost:{}\"{more} }}, traces: {{ batch: {{ delay: 20ms }} }}, metrics: {{ interval: 100ms }}, logs: {{ batch: {{ delay: 20ms }} }} }}\n",
            self.address.port()
        )
    }

    /// Waits for the trace of a connection, the root first.
    #[track_caller]
    pub fn trace(&self, connection_id: &str) -> Vec<Span> {
        let is_of_it = |span: &Span| hex(&span.trace_id) == connection_id;
        let mut spans = eventually(&format!("the trace {connection_id}"), || {
            let spans: Vec<Span> = self.fake.spans().into_iter().filter(is_of_it).collect();
            (!spans.is_empty()).then_some(spans)
        });
        spans.sort_by_key(|span| !span.parent_span_id.is_empty());
        spans
    }
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
