//! Who trusts whom in these tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rcgen::KeyPair;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use sidegate_core::{TrustDomain, parse_canonical};
use sidegate_identity::{Bundle, Material, Svid, unix_now};
use sidegate_tls::TrustStore;

use super::{Ca, Name, Spec, key, name_constraints};

/// The ID of the workload that the cases are about.
pub(crate) const ID: &str = "spiffe://prod.example/web";

/// Trust domains: ours, prod.example; a federated one, other.example; and some that are in a bad state.
pub(crate) struct World {
    pub(crate) ours: Ca,
    pub(crate) federated: Ca,
    /// Roots that were replaced, or will be.
    pub(crate) expired: Ca,
    pub(crate) early: Ca,
    /// Roots with name constraints.
    pub(crate) only_uri: Ca,
    pub(crate) only_dns: Ca,
    /// The key of every leaf that needs no other.
    pub(crate) leaf_key: KeyPair,
    pub(crate) bundles: BTreeMap<TrustDomain, Bundle>,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = unix_now();
        let root = |spec: Spec| Ca::root(&spec);
        let mut world = Self {
            ours: root(Spec::ca("root of prod.example")),
            federated: root(Spec::ca("root of other.example")),
            expired: root(Spec::ca("root of expired.example").valid(now - 7200, now - 3600)),
            early: root(Spec::ca("root of early.example").valid(now + 3600, now + 7200)),
            only_uri: root(Spec::ca("root of only-uri.example").with(name_constraints(&[Name::Uri("only-uri.example")], &[]))),
            only_dns: root(Spec::ca("root of only-dns.example").with(name_constraints(&[Name::Dns("only-dns.example")], &[]))),
            leaf_key: key(),
            bundles: BTreeMap::new(),
        };
        let bundles = [
            ("prod.example", vec![world.ours.der.clone()]),
            ("other.example", vec![world.federated.der.clone()]),
            ("expired.example", vec![world.expired.der.clone()]),
            ("early.example", vec![world.early.der.clone()]),
            ("only-uri.example", vec![world.only_uri.der.clone()]),
            ("only-dns.example", vec![world.only_dns.der.clone()]),
            ("legacy.example", vec![fixture("root")]),
            ("empty.example", vec![]),
        ];
        for (name, certificates) in bundles {
            let name = TrustDomain::new(name).unwrap();
            let mut left_out = Vec::new();
            let bundle = Bundle::new(&name, certificates, &mut left_out);
            assert!(left_out.is_empty(), "{left_out:?}");
            world.bundles.insert(name, bundle);
        }
        world
    }

    /// Material of somebody who trusts all those bundles and presents `chain`, whether or not `key` fits it.
    pub(crate) fn presenting(&self, chain: Vec<CertificateDer<'static>>, key: Arc<dyn SigningKey>) -> Material {
        let svid = Svid {
            id: parse_canonical(ID).unwrap(),
            certified_key: Arc::new(CertifiedKey::new(chain, key)),
            not_before: 0,
            not_after: i64::MAX,
            serial: "00".to_owned(),
        };
        Material { svid, bundles: self.bundles.clone(), left_out: Vec::new(), lists: Vec::new() }
    }

    /// Material as it should be, with this ID.
    pub(crate) fn material(&self, id: &str) -> Material {
        self.presenting(vec![Spec::leaf(id).signed_by(&self.ours, &self.leaf_key)], signing_key(&self.leaf_key))
    }

    pub(crate) fn trust(&self) -> TrustStore {
        TrustStore::new(&self.material(ID))
    }
}

/// A key pair as rustls signs with it.
pub(crate) fn signing_key(key: &KeyPair) -> Arc<dyn SigningKey> {
    any_supported_type(&PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap()
}

/// A certificate that openssl made; see `fixtures/make.sh`.
pub(crate) fn fixture(name: &str) -> CertificateDer<'static> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.der"));
    std::fs::read(path).unwrap().into()
}

/// `der` with one bit of the byte at `at`, counted from the end if negative, turned over.
pub(crate) fn mark(der: &CertificateDer<'_>, at: isize) -> CertificateDer<'static> {
    let mut bytes = der.to_vec();
    let at = usize::try_from(at).unwrap_or_else(|_| bytes.len() - at.unsigned_abs());
    bytes[at] ^= 1;
    bytes.into()
}
