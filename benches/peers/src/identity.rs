//! Who is who: the embedded authority, and the PEM files of those who read files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use sidegate_devkit::authority::{Authority, AuthorityConfig, Entry, TrustDomainConfig};

/// The trust domain of all of them.
pub(crate) const TRUST_DOMAIN: &str = "bench.sidegate";
/// Longer than any run.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The side of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// In front of the load generator.
    Client,
    /// In front of the server.
    Server,
}

impl Side {
    /// Its name, in files and as the path of its SPIFFE ID.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// Who the proxy of this side is.
    pub(crate) fn id(self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/{}", self.name())
    }

    /// The peer that it talks to.
    pub(crate) fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// A certificate, its key and the CA's certificate, as files.
pub(crate) struct Pem {
    /// The certificate.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// Certificate and key in one file.
    pub(crate) both: PathBuf,
    /// The CA's certificate.
    pub(crate) bundle: PathBuf,
}

impl Pem {
    fn write(folder: &Path, name: &str, certificate: &str, key: &str, bundle: &str) -> Result<Self> {
        let put = |what: &str, text: &str| {
            let path = folder.join(format!("{name}.{what}.pem"));
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            anyhow::Ok(path)
        };
        Ok(Self {
            certificate: put("certificate", certificate)?,
            key: put("key", key)?,
            both: put("both", &format!("{certificate}{key}"))?,
            bundle: put("bundle", bundle)?,
        })
    }
}

/// The authority, on a runtime of its own.
pub(crate) struct Identities {
    authority: Authority,
    folder: PathBuf,
    // Dropped last: the authority lives on it.
    _runtime: tokio::runtime::Runtime,
}

impl Identities {
    /// Starts it; its files and sockets are in `folder`.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let entry = |side: Side| Entry { socket: Some(socket(folder, side)), ..Entry::new(side.id()) };
        let config = AuthorityConfig {
            sockets: [Side::Client, Side::Server].map(|side| socket(folder, side)).to_vec(),
            trust_domains: vec![TrustDomainConfig { ttl: sidegate_config::value::Span(LIFETIME), ..TrustDomainConfig::new(TRUST_DOMAIN) }],
            entries: vec![entry(Side::Client), entry(Side::Server)],
            fault: None,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let authority = runtime.block_on(Authority::start(config)).context("the embedded authority can't be started")?;
        Ok(Self { authority, folder: folder.to_owned(), _runtime: runtime })
    }

    /// The Workload API of this side.
    pub(crate) fn socket(&self, side: Side) -> PathBuf {
        socket(&self.folder, side)
    }

    /// A new SVID of this side, and the bundle.
    pub(crate) fn files(&self, side: Side) -> Result<Pem> {
        let issued = self.authority.issue(&side.id(), LIFETIME)?;
        let bundle = self.authority.bundle_pem(TRUST_DOMAIN).context("the authority has no bundle")?;
        Pem::write(&self.folder, side.name(), &issued.chain_pem, &issued.key_pem, &bundle)
    }
}

fn socket(folder: &Path, side: Side) -> PathBuf {
    folder.join(format!("{}.sock", side.name()))
}

/// Certificates with a DNS name besides the SPIFFE ID, for those who check nothing else; of a CA of their own, since the
/// authority issues none without being asked over the Workload API. Client's and server's.
pub(crate) fn named(folder: &Path) -> Result<(Pem, Pem)> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name = DistinguishedName::new();
    ca.distinguished_name.push(rcgen::DnType::OrganizationName, "bench CA");
    ca.subject_alt_names = vec![SanType::URI(format!("spiffe://{TRUST_DOMAIN}").as_str().try_into()?)];
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let bundle = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let issue = |side: Side| {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.distinguished_name.push(rcgen::DnType::OrganizationName, "bench");
        leaf.subject_alt_names = vec![SanType::URI(side.id().as_str().try_into()?), SanType::DnsName(side.name().try_into()?)];
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.use_authority_key_identifier_extension = true;
        let certificate = leaf.signed_by(&key, &issuer)?.pem();
        Pem::write(folder, &format!("{}.named", side.name()), &certificate, &key.serialize_pem(), &bundle)
    };
    Ok((issue(Side::Client)?, issue(Side::Server)?))
}
