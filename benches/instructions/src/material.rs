//! Identity material, as the embedded authority issues it.

use std::collections::BTreeMap;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sidegate_core::TrustDomain;
use sidegate_devkit::authority::{Authority, AuthorityConfig, TrustDomainConfig};
use sidegate_identity::{Bundle, Material, Svid};

pub(crate) const DOMAIN: &str = "bench.sidegate";

/// An SVID with its bundle.
#[must_use]
pub fn material() -> Material {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = AuthorityConfig {
        sockets: vec![folder.path().join("agent.sock")],
        trust_domains: vec![TrustDomainConfig::new(DOMAIN)],
        ..AuthorityConfig::default()
    };
    let authority = runtime.block_on(Authority::start(config)).unwrap();
    let issued = authority.issue(&format!("spiffe://{DOMAIN}/web"), Duration::from_secs(3600)).unwrap();
    let bundle = authority.bundle_pem(DOMAIN).unwrap();
    runtime.block_on(authority.shutdown());
    let chain = issued.chain_der.into_iter().map(CertificateDer::from).collect();
    let svid = Svid::new(chain, &PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.key_der))).unwrap();
    let domain = TrustDomain::new(DOMAIN).unwrap();
    let roots = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect::<Result<_, _>>().unwrap();
    let bundle = Bundle::new(&domain, roots, &mut Vec::new());
    Material::new(svid, BTreeMap::from([(domain, bundle)]), Vec::new(), false).unwrap()
}
