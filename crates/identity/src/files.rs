//! PEM files as a source of identity: read, watched, and read again when they change.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sidegate_config::file::{SMALL, read};
use sidegate_config::schema::Files;
use sidegate_config::{FileWatch, aside};
use sidegate_core::{TrustDomain, event};
use tokio::sync::watch;
use zeroize::{Zeroize, Zeroizing};

use crate::material::{Bundle, Material, MaterialError, Svid};
use crate::source::{Effect, SourceRules, SourceState};

#[derive(Debug, thiserror::Error)]
enum FilesError {
    #[error("{0} can't be read: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("{0} is not PEM: {1}")]
    Pem(PathBuf, String),
    /// The parser's message may quote a part of the file, so it is left out.
    #[error("{0} holds no PEM private key; PKCS#8, PKCS#1 and SEC1 are understood, each line of it on a line of its own")]
    Key(PathBuf),
    #[error("{0} can be read by others (mode {1:04o}); profile `production` refuses that: chmod 0600")]
    Exposed(PathBuf, u32),
    #[error(transparent)]
    Material(#[from] MaterialError),
}

/// Follows the files until the task is dropped.
pub(crate) async fn run(files: Files, rules: SourceRules, sender: watch::Sender<SourceState>) {
    let (mut watch, unwatched) = FileWatch::aside(paths(&files).cloned().collect()).await;
    if let Some(why) = unwatched {
        tracing::warn!(event = event::FILES_UNWATCHED, "{why}");
    }
    loop {
        // Files that did not change are not published again, though they are read every few seconds.
        let read = {
            let (files, rules) = (files.clone(), rules.clone());
            move || contents(&files).and_then(|contents| material(&files, &contents, &rules))
        };
        let late = || SourceState::trouble(&sender, "the files can't be read: the file system does not answer", Effect::Keep);
        let failed = |error| Err(FilesError::Read(files.certificate.clone(), error));
        match aside("identity-files", read, late).await.unwrap_or_else(failed) {
            Ok(material) => SourceState::publish(&sender, Arc::new(material)),
            Err(error @ FilesError::Read(..)) => SourceState::trouble(&sender, &error.to_string(), Effect::Keep),
            Err(error) => SourceState::trouble(&sender, &error.to_string(), Effect::Refuse),
        }
        watch.changed().await;
    }
}

fn paths(files: &Files) -> impl Iterator<Item = &PathBuf> {
    [&files.certificate, &files.key, &files.bundle].into_iter().chain(files.federated_bundles.iter().map(|f| &f.bundle))
}

/// What the audit log says of the key.
const PURPOSE: &str = "private key of our X.509-SVID";

/// What the files hold.
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    bundle: Vec<u8>,
    /// In the order of `federatedBundles`.
    federated: Vec<Vec<u8>>,
}

fn contents(files: &Files) -> Result<Contents, FilesError> {
    let failed = |path: &Path, error| FilesError::Read(path.to_owned(), error);
    let read = |path: &Path| read(path, SMALL).map_err(|error| failed(path, error));
    Ok(Contents {
        certificate: read(&files.certificate)?,
        key: sidegate_secrets::open(PURPOSE, &files.key).map_err(|error| failed(&files.key, error))?,
        bundle: read(&files.bundle)?,
        federated: files.federated_bundles.iter().map(|other| read(&other.bundle)).collect::<Result<_, _>>()?,
    })
}

fn material(files: &Files, contents: &Contents, rules: &SourceRules) -> Result<Material, FilesError> {
    let Contents { certificate, key, bundle, federated } = contents;
    if rules.refuse_development {
        let meta = std::fs::metadata(&files.key).map_err(|e| FilesError::Read(files.key.clone(), e))?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FilesError::Exposed(files.key.clone(), mode));
        }
    }
    let mut key = PrivateKeyDer::from_pem_slice(key).map_err(|_| FilesError::Key(files.key.clone()))?;
    let svid = certificates(&files.certificate, certificate).and_then(|chain| Ok(Svid::new(chain, &key)?));
    key.zeroize();
    let svid = svid?;
    let mut left_out = Vec::new();
    let mut bundles = BTreeMap::new();
    let mut add = |trust_domain: &TrustDomain, path: &Path, pem: &[u8]| {
        let bundle = Bundle::new(trust_domain, certificates(path, pem)?, &mut left_out);
        bundles.insert(trust_domain.clone(), bundle);
        Ok::<_, FilesError>(())
    };
    add(svid.id.trust_domain(), &files.bundle, bundle)?;
    for (other, pem) in files.federated_bundles.iter().zip(federated) {
        add(other.trust_domain.get(), &other.bundle, pem)?;
    }
    Ok(Material::new(svid, bundles, left_out, rules.refuse_development)?)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FilesError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| FilesError::Pem(path.to_owned(), e.to_string()))
}
