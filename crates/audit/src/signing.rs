//! Signatures of checkpoints, made with the SVID's key or a configured one.

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use sidegate_identity::Material;

use crate::event::Signer;

/// Every kind of key of an SVID supports one of these.
const SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// What the audit log says of a configured key.
const PURPOSE: &str = "key that signs checkpoints of this log";

/// Why a configured key can't sign.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is missing or malformed. The parser's message may quote a part of the file, so it is left out.
    #[error(
        "{0} holds no PEM private key, or can't be read; make one with `openssl genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-256`"
    )]
    Private(String),
    /// It is of a kind that can't be used.
    #[error("the private key in {0} can't be used: {1}; use ECDSA P-256, P-384, P-521, Ed25519 or RSA")]
    Unusable(String, String),
}

/// Whether the key in the PEM file can sign checkpoints.
///
/// # Errors
/// Why not.
pub fn check_key(path: &Path) -> Result<(), KeyError> {
    SigningKey::load(path).map(drop)
}

/// A signing key and its name.
#[derive(Debug, Clone)]
pub(crate) struct SigningKey {
    key: Arc<dyn rustls::sign::SigningKey>,
    signer: Signer,
}

impl SigningKey {
    /// The key of the SVID; none if it supports none of the schemes.
    pub(crate) fn of_svid(material: &Material) -> Option<Self> {
        let certified = &material.svid.certified_key;
        let scheme = certified.key.choose_scheme(SCHEMES)?.scheme().into();
        let chain = certified.cert.iter().map(|certificate| STANDARD.encode(certificate)).collect();
        let signer = Signer { spiffe_id: Some(material.svid.id.to_string()), chain, public_key: None, scheme };
        Some(Self { key: certified.key.clone(), signer })
    }

    /// A key of its own, from a PEM file.
    pub(crate) fn load(path: &Path) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let pem = sidegate_secrets::open(PURPOSE, path).map_err(|_| KeyError::Private(name.clone()))?;
        let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| KeyError::Private(name.clone()))?;
        let unusable = |why: String| KeyError::Unusable(name.clone(), why);
        let key = any_supported_type(&der).map_err(|e| unusable(e.to_string()))?;
        let scheme = key.choose_scheme(SCHEMES).ok_or_else(|| unusable("it can't sign".to_owned()))?.scheme().into();
        let public = key.public_key().ok_or_else(|| unusable("its public key is not known".to_owned()))?;
        let signer = Signer { spiffe_id: None, chain: Vec::new(), public_key: Some(STANDARD.encode(&public)), scheme };
        Ok(Self { key, signer })
    }

    pub(crate) fn signer(&self) -> &Signer {
        &self.signer
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let chosen = self.key.choose_scheme(&[SignatureScheme::from(self.signer.scheme)]).ok_or("the key can't sign any more")?;
        chosen.sign(message).map_err(|e| e.to_string())
    }
}
