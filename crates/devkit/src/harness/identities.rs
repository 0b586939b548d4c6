//! The embedded authority, on a runtime of its own, and the files of peers that read PEM.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::authority::{Authority, AuthorityConfig, Entry, TrustDomainConfig};
use sidegate_config::value::Span;
use tempfile::TempDir;

/// The trust domain of most tests.
pub const TRUST_DOMAIN: &str = "test.sidegate";

/// The SPIFFE ID of a workload of [`TRUST_DOMAIN`].
pub fn id(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{name}")
}

/// A running authority with one socket for each identity.
pub struct Identities {
    /// The authority: faults, rotation, federation.
    pub authority: Authority,
    config: AuthorityConfig,
    runtime: tokio::runtime::Runtime,
    folder: TempDir,
}

impl Identities {
    /// An authority for `names` in [`TRUST_DOMAIN`], whose SVIDs live for `ttl`.
    pub fn start(names: &[&str], ttl: Duration) -> Self {
        let domain = TrustDomainConfig { ttl: Span(ttl), ..TrustDomainConfig::new(TRUST_DOMAIN) };
        Self::start_with(vec![domain], |folder| names.iter().map(|name| (socket(folder, name), id(name))).collect())
    }

    /// An authority for several trust domains; `entries` names sockets in the folder and who they are for.
    pub fn start_with(trust_domains: Vec<TrustDomainConfig>, entries: impl FnOnce(&Path) -> Vec<(PathBuf, String)>) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new().prefix("sidegate-test.").tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let entries = entries(folder.path());
        let config = AuthorityConfig {
            sockets: entries.iter().map(|(socket, _)| socket.clone()).collect(),
            trust_domains,
            entries: entries.into_iter().map(|(socket, id)| Entry { socket: Some(socket), ..Entry::new(id) }).collect(),
            fault: None,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let authority = runtime.block_on(Authority::start(config.clone())).unwrap();
        Self { authority, config, runtime, folder }
    }

    /// The Workload API socket of `name`.
    pub fn socket(&self, name: &str) -> PathBuf {
        socket(self.folder.path(), name)
    }

    /// A folder for the test's files, which every user may read.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes an SVID of `name` and the bundle: certificate, key, bundle.
    pub fn files(&self, name: &str) -> (PathBuf, PathBuf, PathBuf) {
        use std::os::unix::fs::PermissionsExt;
        let issued = self.authority.issue(&id(name), Duration::from_secs(3600)).unwrap();
        let path = |what: &str| self.folder.path().join(format!("{name}.{what}.pem"));
        // Each by renaming, as those who replace certificates in earnest do.
        let put = |path: &Path, text: &str| {
            let new = path.with_extension("new");
            std::fs::write(&new, text).unwrap();
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::fs::rename(&new, path).unwrap();
        };
        put(&path("cert"), &issued.chain_pem);
        put(&path("key"), &issued.key_pem);
        put(&path("bundle"), &self.authority.bundle_pem(TRUST_DOMAIN).unwrap());
        (path("cert"), path("key"), path("bundle"))
    }

    /// Ends the authority, as if its host's agent had crashed; `meanwhile` sees it gone. Then another one comes in its
    /// place, with new keys.
    pub fn replace(&mut self, meanwhile: impl FnOnce()) {
        // Without entries and sockets of anybody, so that nothing answers in between.
        let nobody = AuthorityConfig {
            sockets: vec![self.folder.path().join("nobody.sock")],
            trust_domains: self.config.trust_domains.clone(),
            ..AuthorityConfig::default()
        };
        let nobody = self.runtime.block_on(Authority::start(nobody)).unwrap();
        let gone = std::mem::replace(&mut self.authority, nobody);
        self.runtime.block_on(gone.shutdown());
        meanwhile();
        let back = self.runtime.block_on(Authority::start(self.config.clone())).unwrap();
        let nobody = std::mem::replace(&mut self.authority, back);
        self.runtime.block_on(nobody.shutdown());
    }
}

fn socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.sock"))
}
