//! What a log is verified with, from files.

use std::path::{Path, PathBuf};

use sidegate_core::{SpiffeId, TrustDomain};
use sidegate_identity::Bundle;
use sidegate_tls::CollectorError;
use sidegate_tls::verify::TrustStore;

use crate::decryption::{AuditorKeyError, AuditorKeys};
use crate::read::ReadError;
use crate::signature::{PublicKeyError, Trust};
use crate::verify::{Anchor, VerifyInputs, anchors};

/// The files that prove a log.
#[derive(Debug, Default)]
pub struct ProofFiles<'a> {
    /// Trust bundle of the signer's trust domain, PEM; and the workload whose log it is.
    pub bundle: Option<(&'a Path, &'a SpiffeId)>,
    /// The configured signer's public key, PEM.
    pub public_key: Option<&'a Path>,
    /// Checkpoints that were exported.
    pub anchors: &'a [PathBuf],
    /// An auditor's private key.
    pub identity: Option<&'a Path>,
}

/// Why files prove nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The trust bundle can't be read.
    #[error(transparent)]
    File(#[from] CollectorError),
    /// The trust bundle has no certificate that can be used.
    #[error("{file} has no usable CA certificate of {trust_domain}: {}", .left_out.join("; "), file = .file.display())]
    NoAuthority {
        /// Which file.
        file: PathBuf,
        /// Whose certificates are wanted.
        trust_domain: TrustDomain,
        /// What is wrong with those that it has.
        left_out: Vec<String>,
    },
    /// The public key can't be read.
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    /// What was exported can't be read.
    #[error(transparent)]
    Anchors(#[from] ReadError),
    /// There is nothing in what was exported.
    #[error("{0} has no exported record: there is nothing to compare the log with")]
    NoAnchor(PathBuf),
    /// The auditor's key can't be read.
    #[error(transparent)]
    Key(#[from] AuditorKeyError),
}

impl VerifyInputs {
    /// Reads the files that prove a log.
    ///
    /// # Errors
    /// If one can't be read, or holds nothing that proves anything.
    pub fn load(files: &ProofFiles<'_>) -> Result<Self, ProofError> {
        let mut trust = Trust::default();
        if let Some((file, signer)) = files.bundle {
            trust.bundles = Some(bundle(file, signer.trust_domain())?);
            trust.spiffe_id = Some(signer.to_string());
        }
        if let Some(file) = files.public_key {
            trust.public_key = Some(Trust::public_key(file)?);
        }
        let mut exported = Vec::new();
        for file in files.anchors {
            let anchors = anchors(file)?;
            if !anchors.iter().any(Anchor::is_whole) {
                return Err(ProofError::NoAnchor(file.clone()));
            }
            exported.extend(anchors);
        }
        let anchors = (!files.anchors.is_empty()).then_some(exported);
        let keys = files.identity.map_or_else(|| Ok(AuditorKeys::default()), AuditorKeys::load)?;
        Ok(Self { trust, anchors, keys })
    }
}

/// The CA certificates in a PEM file.
fn bundle(file: &Path, trust_domain: &TrustDomain) -> Result<TrustStore, ProofError> {
    let certificates = sidegate_tls::certificates(file)?;
    let mut left_out = Vec::new();
    let bundle = Bundle::new(trust_domain, certificates, &mut left_out);
    if bundle.authorities.is_empty() {
        return Err(ProofError::NoAuthority { file: file.to_owned(), trust_domain: trust_domain.clone(), left_out });
    }
    Ok(TrustStore::of(&[(trust_domain.clone(), bundle)].into()))
}
