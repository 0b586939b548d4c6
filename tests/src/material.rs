//! SVIDs for peers that a test makes by hand.

use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sidegate_core::TrustDomain;
use sidegate_devkit::harness::{Identities, TRUST_DOMAIN, id};
use sidegate_identity::{Bundle, Material, Svid};

/// An SVID of `name` with the bundle.
pub fn material(identities: &Identities, name: &str) -> Material {
    let issued = identities.authority.issue(&id(name), Duration::from_secs(3600)).unwrap();
    let read = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect::<Vec<_>>();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let domain = TrustDomain::new(TRUST_DOMAIN).unwrap();
    let bundle = Bundle::new(&domain, read(&identities.authority.bundle_pem(TRUST_DOMAIN).unwrap()), &mut Vec::new());
    Material::new(Svid::new(read(&issued.chain_pem), &key).unwrap(), [(domain, bundle)].into(), Vec::new(), false).unwrap()
}
