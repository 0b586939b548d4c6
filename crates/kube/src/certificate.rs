//! The webhook's own certificate: read from files, and again when they change.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sidegate_config::{FileWatch, aside, file};
use sidegate_core::event;

use crate::config::Webhook;

/// Why a certificate can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("{path}: {why}")]
    File { path: PathBuf, why: String },
    #[error("{0} has no certificate; it has to be PEM")]
    Empty(PathBuf),
    #[error("the key {0} does not belong to the certificate {1}")]
    Mismatch(PathBuf, PathBuf),
}

/// The certificate that is in use.
#[derive(Debug)]
pub(crate) struct Certificate(ArcSwap<CertifiedKey>);

impl Certificate {
    /// Reads it for the first time.
    pub(crate) fn load(webhook: &Webhook) -> Result<Arc<Self>, CertificateError> {
        Ok(Arc::new(Self(ArcSwap::from(read(webhook)?))))
    }

    /// Follows the files, until the task is dropped. What can't be used leaves the last good certificate in use.
    pub(crate) async fn follow(self: Arc<Self>, webhook: Webhook) {
        let (mut watch, why) = FileWatch::aside(vec![webhook.certificate.clone(), webhook.key.clone()]).await;
        if let Some(why) = why {
            tracing::warn!(event = event::FILES_UNWATCHED, "the webhook's certificate: {why}");
        }
        let mut last = None;
        loop {
            watch.changed().await;
            let files = webhook.clone();
            let read = match aside("certificate", move || read(&files), || {}).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!(event = event::WEBHOOK_CERTIFICATE_REFUSED, "the webhook's certificate can't be read again: {error}");
                    continue;
                }
            };
            match read {
                Ok(key) if key.cert == self.0.load().cert => last = None,
                Ok(key) => {
                    self.0.store(key);
                    last = None;
                    tracing::info!(event = event::WEBHOOK_CERTIFICATE, file = %webhook.certificate.display(), "the webhook has a new certificate");
                }
                // Told once.
                Err(error) if last.as_ref() == Some(&error) => {}
                Err(error) => {
                    tracing::error!(
                        event = event::WEBHOOK_CERTIFICATE_REFUSED,
                        "the webhook's certificate can't be used, the last one stays: {error}"
                    );
                    last = Some(error);
                }
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn read(webhook: &Webhook) -> Result<Arc<CertifiedKey>, CertificateError> {
    let Webhook { certificate, key, .. } = webhook;
    let failed = |path: &PathBuf, why: String| CertificateError::File { path: path.clone(), why };
    let pem = file::read(certificate, file::SMALL).map_err(|error| failed(certificate, error.to_string()))?;
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| failed(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(CertificateError::Empty(certificate.clone()));
    }
    let pem = sidegate_secrets::open("key of the webhook", key).map_err(|error| failed(key, error.to_string()))?;
    // What is wrong with a key is not told: the text could quote it.
    let parsed = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| failed(key, "it holds no private key in PEM".to_owned()))?;
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&parsed)
        .map_err(|_| failed(key, "its kind of private key can't be used; take ECDSA, Ed25519 or RSA".to_owned()))?;
    let certified = CertifiedKey::new(chain, signer);
    certified.keys_match().map_err(|_| CertificateError::Mismatch(key.clone(), certificate.clone()))?;
    Ok(Arc::new(certified))
}
