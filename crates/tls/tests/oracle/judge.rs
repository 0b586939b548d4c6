//! The oracle's verdicts, by handshakes in memory: its verifier can't be had apart from its configurations.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, Connection, Error, ServerConfig, ServerConnection};
use sidegate_tls::Role;
use spiffe::X509Source;
use spiffe_rustls::authorizer::Any;
use spiffe_rustls::{mtls_client, mtls_server};

use crate::pki::{TrustsAnybody, World};
use crate::source;

pub(crate) struct Oracle {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    _directory: tempfile::TempDir,
}

impl Oracle {
    pub(crate) async fn new(world: &World) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        source::serve(world, &socket);
        let source = X509Source::builder().endpoint(format!("unix:{}", socket.display())).build().await.unwrap();
        let client = mtls_client(source.clone()).authorize(Any).build().unwrap();
        let server = mtls_server(source).authorize(Any).build().unwrap();
        Self { client: Arc::new(client), server: Arc::new(server), _directory: directory }
    }

    /// What it says of a peer that presents `peer` in `role`.
    pub(crate) fn judge(&self, peer: &Arc<CertifiedKey>, role: Role) -> Result<(), Error> {
        let peer = SingleCertAndKey::from((**peer).clone());
        match role {
            Role::Server => {
                let config = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(&[&TLS13]).unwrap();
                let config = config.with_no_client_auth().with_cert_resolver(Arc::new(peer));
                let judge = ClientConnection::new(self.client.clone(), ServerName::try_from("peer.example").unwrap()).unwrap();
                shake(judge.into(), ServerConnection::new(Arc::new(config)).unwrap().into())
            }
            Role::Client => {
                let config = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(&[&TLS13]).unwrap();
                let config =
                    config.dangerous().with_custom_certificate_verifier(Arc::new(TrustsAnybody)).with_client_cert_resolver(Arc::new(peer));
                let judged = ClientConnection::new(Arc::new(config), ServerName::try_from("peer.example").unwrap()).unwrap();
                shake(ServerConnection::new(self.server.clone()).unwrap().into(), judged.into())
            }
        }
    }
}

/// Until `judge` is done, or says no.
fn shake(mut judge: Connection, mut judged: Connection) -> Result<(), Error> {
    while judge.is_handshaking() {
        assert!(judge.wants_write() || judged.wants_write(), "both wait for each other");
        carry(&mut judge, &mut judged);
        judged.process_new_packets().unwrap();
        carry(&mut judged, &mut judge);
        judge.process_new_packets()?;
    }
    Ok(())
}

fn carry(from: &mut Connection, to: &mut Connection) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut bytes = &bytes[..];
    while !bytes.is_empty() {
        to.read_tls(&mut bytes).unwrap();
        // What is wrong shows at the next look, which is the caller's.
        let _ = to.process_new_packets();
    }
}
