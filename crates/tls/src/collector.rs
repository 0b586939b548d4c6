//! TLS towards a telemetry collector: verified by CA certificates and a name, or as a SPIFFE workload.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore, SignatureScheme};
use sidegate_config::file;
use sidegate_config::schema::telemetry::CollectorTls;
use sidegate_core::SpiffeIdPattern;
use sidegate_identity::Material;

use crate::configs::OneSvid;
use crate::provider::provider;
use crate::verify::{Role, TrustStore, verify};

/// Why there is no TLS towards a collector.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// Our SVID or bundles are needed.
    #[error("there is no X.509-SVID yet")]
    NoSvid,
    /// A file is missing.
    #[error("{0} can't be read as PEM: {1}")]
    File(PathBuf, String),
    /// A private key is missing, or is none. The parser's own words may hold a part of the file.
    #[error("{0} holds no PEM private key, or can't be read")]
    Key(PathBuf),
    /// Nobody could vouch for the collector.
    #[error("there is no usable CA certificate in {0}")]
    NoAuthority(String),
    /// The TLS library refuses.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

/// Makes client configurations for one collector; a new one when the SVID, the bundles or a file has changed.
#[derive(Debug)]
pub struct CollectorConfig {
    tls: CollectorTls,
    /// What the audit log says of the client key.
    purpose: String,
    last: Mutex<Option<(Inputs, Arc<ClientConfig>)>>,
}

/// What a configuration was made of.
#[derive(Debug)]
struct Inputs {
    material: Option<Arc<Material>>,
    files: Vec<Option<SystemTime>>,
}

impl Inputs {
    fn is_same(&self, other: &Self) -> bool {
        self.material.as_ref().map(Arc::as_ptr) == other.material.as_ref().map(Arc::as_ptr) && self.files == other.files
    }
}

impl CollectorConfig {
    /// By the configuration `tls`; `server` is what the audit log calls the other end.
    #[must_use]
    pub fn new(tls: CollectorTls, server: &str) -> Self {
        Self { tls, purpose: format!("client key towards {server}"), last: Mutex::default() }
    }

    /// The configuration that holds now. As long as nothing has changed it is the same.
    ///
    /// # Errors
    /// What is missing.
    pub fn current(&self, material: Option<Arc<Material>>) -> Result<Arc<ClientConfig>, CollectorError> {
        let tls = &self.tls;
        let needed = tls.svid || !tls.spiffe_ids.is_empty();
        let material = material.filter(|_| needed);
        if needed && material.is_none() {
            return Err(CollectorError::NoSvid);
        }
        let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let files = [&tls.ca, &tls.certificate, &tls.key].into_iter().flatten().map(modified).collect();
        let inputs = Inputs { material, files };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = last.as_ref().filter(|(old, _)| old.is_same(&inputs)) {
            return Ok(config.clone());
        }
        let config = Arc::new(self.build(inputs.material.as_deref())?);
        *last = Some((inputs, config.clone()));
        Ok(config)
    }

    fn build(&self, material: Option<&Material>) -> Result<ClientConfig, CollectorError> {
        let tls = &self.tls;
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let builder = match material {
            Some(material) if !tls.spiffe_ids.is_empty() => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(SpiffeCollector {
                    trust: TrustStore::new(material),
                    expected: tls.spiffe_ids.iter().map(|id| id.get().clone()).collect(),
                }))
            }
            _ => {
                let roots = Arc::new(roots(tls.ca.as_deref())?);
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|e| CollectorError::NoAuthority(e.to_string()))?;
                builder.with_webpki_verifier(verifier)
            }
        };
        let mut config = match (material, &tls.certificate, &tls.key) {
            (Some(material), _, _) if tls.svid => builder.with_client_cert_resolver(Arc::new(OneSvid(material.svid.certified_key.clone()))),
            (_, Some(certificate), Some(key)) => {
                let pem = sidegate_secrets::open(&self.purpose, key).map_err(|_| CollectorError::Key(key.clone()))?;
                let key_der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| CollectorError::Key(key.clone()))?;
                builder.with_client_auth_cert(certificates(certificate)?, key_der)?
            }
            _ => builder.with_no_client_auth(),
        };
        // A resumed session is not verified again.
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// The certificates in a PEM file.
///
/// # Errors
/// If it can't be read as that.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CollectorError> {
    let failed = |why: String| CollectorError::File(path.to_owned(), why);
    let pem = file::read(path, file::SMALL).map_err(|e| failed(e.to_string()))?;
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|e| failed(e.to_string()))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, CollectorError> {
    let (found, place) = match ca {
        Some(file) => (certificates(file)?, file.display().to_string()),
        None => (rustls_native_certs::load_native_certs().certs, "the system's store".to_owned()),
    };
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found);
    if usable == 0 { Err(CollectorError::NoAuthority(place)) } else { Ok(roots) }
}

/// A collector that is a SPIFFE workload: who it is decides, not what it is called.
#[derive(Debug)]
struct SpiffeCollector {
    trust: TrustStore,
    expected: Vec<SpiffeIdPattern>,
}

impl ServerCertVerifier for SpiffeCollector {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let peer = verify(leaf, intermediates, Role::Server, &self.trust, now)
            .map_err(|failure| Error::General(format!("the collector was not verified: {}: {}", failure.reason, failure.detail)))?;
        if self.expected.iter().any(|pattern| pattern.matches(&peer.id)) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
