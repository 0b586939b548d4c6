//! rustls configurations, built once for each generation of identity material.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::Resumption;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use sidegate_config::schema::Tls;
use sidegate_identity::Material;

use crate::provider::provider_with;
use crate::revocation::Revocation;
use crate::tickets::{Ticketer, Tickets};
use crate::verifier::SpiffeVerifier;
use crate::verify::TrustStore;

/// The protocol of a tunnel, as ALPN names it.
pub const TUNNEL: &str = "sidegate/1";

/// What one generation of identity material makes possible.
#[derive(Debug)]
pub struct TlsContext {
    client: ClientConfig,
    server: ServerConfig,
    trust: Arc<TrustStore>,
    resumption: bool,
}

/// How to shake hands with one server.
#[derive(Debug, Clone)]
pub struct ClientChoice {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) trust: Arc<TrustStore>,
}

/// The server configurations of one port, one of which the ClientHello chooses.
#[derive(Debug, Clone)]
pub struct ServerChoice {
    plain: Arc<ServerConfig>,
    with_alpn: Option<Arc<ServerConfig>>,
    tunnel: Arc<ServerConfig>,
    pub(crate) trust: Arc<TrustStore>,
}

impl TlsContext {
    /// Builds the configurations for `material`, with all defaults.
    ///
    /// # Errors
    /// rustls's, if the provider lacks what TLS 1.3 needs; that would be a defect of the build.
    pub fn new(material: &Material) -> Result<Self, rustls::Error> {
        Self::with(material, &Tls::default(), Arc::default())
    }

    /// Builds the configurations for `material` as `tls` says, for peers that are not revoked.
    ///
    /// # Errors
    /// As [`TlsContext::new`].
    pub fn with(material: &Material, tls: &Tls, revocation: Arc<Revocation>) -> Result<Self, rustls::Error> {
        let provider = provider_with(&tls.groups);
        let trust = Arc::new(TrustStore::with(material, revocation));
        // New objects for each generation: rustls voids the tickets of others then.
        let verifier = SpiffeVerifier::new(trust.clone());
        let svid = Arc::new(OneSvid(material.svid.certified_key.clone()));
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(svid.clone());
        // The session seals and opens its records itself.
        client.enable_secret_extraction = true;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(svid);
        server.enable_secret_extraction = true;
        // The suite that is fastest on this CPU, not the client's taste: all three are good.
        server.ignore_client_order = true;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        // A key for each generation, so that an old ticket means a full handshake, not a failed one.
        server.ticketer = Ticketer::with_new_keys()?;
        server.send_tls13_tickets = usize::from(tls.resumption);
        Ok(Self { client, server, trust, resumption: tls.resumption })
    }

    /// The anchors that peers are verified by.
    #[must_use]
    pub fn trust(&self) -> &Arc<TrustStore> {
        &self.trust
    }

    /// How to shake hands with one server, offering `alpn`, and before all else a tunnel if `tunnel` says so. It keeps the
    /// tickets of that server: it is for one address, port and set of expected identities.
    #[must_use]
    pub fn client(&self, alpn: &[String], tunnel: bool) -> ClientChoice {
        let mut config = self.client.clone();
        config.alpn_protocols = tunnel.then(|| TUNNEL.as_bytes().to_vec()).into_iter().chain(bytes(alpn)).collect();
        config.resumption = if self.resumption { Resumption::store(Arc::new(Tickets::default())) } else { Resumption::disabled() };
        ClientChoice { config: Arc::new(config), trust: self.trust.clone() }
    }

    /// A server configuration for a service of sidegate's own, which speaks `protocol` over tokio-rustls.
    #[must_use]
    pub fn service(&self, protocol: &[u8]) -> Arc<ServerConfig> {
        let mut config = self.server.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        config.enable_secret_extraction = false;
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// The server configurations of a port that negotiates `alpn`.
    #[must_use]
    pub fn server(&self, alpn: &[String]) -> ServerChoice {
        let with = |alpn_protocols: Vec<Vec<u8>>| {
            let mut config = self.server.clone();
            config.alpn_protocols = alpn_protocols;
            Arc::new(config)
        };
        ServerChoice {
            plain: with(Vec::new()),
            with_alpn: (!alpn.is_empty()).then(|| with(bytes(alpn))),
            tunnel: with(vec![TUNNEL.as_bytes().to_vec()]),
            trust: self.trust.clone(),
        }
    }
}

impl ServerChoice {
    /// A tunnel if the client offers it; else the port's own protocols if it offers one of them; else no ALPN at all: a
    /// client that offers others, or none, may still be one that the application understands.
    pub(crate) fn choose(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let offered = |config: &&Arc<ServerConfig>| {
            hello.alpn().is_some_and(|mut offers| offers.any(|offer| config.alpn_protocols.iter().any(|own| own == offer)))
        };
        let special = std::iter::once(&self.tunnel).chain(&self.with_alpn);
        special.into_iter().find(offered).unwrap_or(&self.plain).clone()
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
