//! rustls configurations, built once for each generation of identity material.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::Resumption;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use sidegate_identity::Material;

use crate::provider::provider;
use crate::verifier::SpiffeVerifier;
use crate::verify::TrustStore;

/// What one generation of identity material makes possible.
#[derive(Debug)]
pub struct TlsContext {
    client: ClientConfig,
    server: ServerConfig,
}

/// The server configurations of one port, one of which the ClientHello chooses.
#[derive(Debug, Clone)]
pub struct ServerChoice {
    plain: Arc<ServerConfig>,
    with_alpn: Option<Arc<ServerConfig>>,
}

impl TlsContext {
    /// Builds the configurations for `material`.
    ///
    /// # Errors
    /// rustls's, if the provider lacks what TLS 1.3 needs; that would be a defect of the build.
    pub fn new(material: &Material) -> Result<Self, rustls::Error> {
        let verifier = SpiffeVerifier::new(Arc::new(TrustStore::new(material)));
        let svid = Arc::new(OneSvid(material.svid.certified_key.clone()));
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(svid.clone());
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(svid);
        // The suite that is fastest on this CPU, not the client's taste: all three are good.
        server.ignore_client_order = true;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { client, server })
    }

    /// The client configuration that offers `alpn`.
    #[must_use]
    pub fn client(&self, alpn: &[String]) -> Arc<ClientConfig> {
        let mut config = self.client.clone();
        config.alpn_protocols = bytes(alpn);
        Arc::new(config)
    }

    /// The server configurations of a port that negotiates `alpn`.
    #[must_use]
    pub fn server(&self, alpn: &[String]) -> ServerChoice {
        let with_alpn = (!alpn.is_empty()).then(|| {
            let mut config = self.server.clone();
            config.alpn_protocols = bytes(alpn);
            Arc::new(config)
        });
        ServerChoice { plain: Arc::new(self.server.clone()), with_alpn }
    }
}

impl ServerChoice {
    /// The port's own protocols if the client offers one of them, else no ALPN at all: a client that offers others,
    /// or none, may still be one that the application understands.
    pub(crate) fn choose(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let offered = |config: &&Arc<ServerConfig>| {
            hello.alpn().is_some_and(|mut offers| offers.any(|offer| config.alpn_protocols.iter().any(|own| own == offer)))
        };
        self.with_alpn.as_ref().filter(offered).unwrap_or(&self.plain).clone()
    }
}

fn bytes(alpn: &[String]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
}

/// Presents one SVID, whatever the peer asks for: it is the only one that this side has.
#[derive(Debug)]
pub(crate) struct OneSvid(pub(crate) Arc<CertifiedKey>);

impl ResolvesClientCert for OneSvid {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for OneSvid {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
