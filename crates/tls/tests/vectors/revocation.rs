//! Which lists count, and for whom.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use sidegate_config::schema::Unsure;
use sidegate_core::{Reason, RevocationStatus, TrustDomain};
use sidegate_identity::{Bundle, unix_now};
use sidegate_tls::revocation::{Authorities, Content, DomainLists, ListError, NotTaken, ProvenLists, Revocation, Unproven};
use sidegate_tls::{Role, TrustStore, verify_again};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pki::{Ca, Extension, ID, Spec, World, raw, sequence, tlv};
use crate::verdict::judge;

/// A list that can be made as one likes.
struct Wanted<'a> {
    by: &'a Ca,
    revoked: Vec<&'a CertificateDer<'static>>,
    /// When it was made, seconds from now.
    made: i64,
    scope: Option<(&'a str, Option<CrlScope>)>,
}

impl<'a> Wanted<'a> {
    fn by(by: &'a Ca) -> Self {
        Self { by, revoked: Vec::new(), made: -60, scope: None }
    }

    fn der(&self) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.by.subject.as_str());
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = Issuer::new(params, KeyPair::try_from(self.by.key.serialize_der()).unwrap());
        let made = OffsetDateTime::now_utc() + Duration::from_secs(self.made.max(0).unsigned_abs())
            - Duration::from_secs(self.made.min(0).unsigned_abs());
        let revoked = |der: &&CertificateDer<'_>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(X509Certificate::from_der(der).unwrap().1.raw_serial()),
            revocation_time: made,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: made,
            next_update: made + Duration::from_secs(3600),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: self.scope.as_ref().map(|(uri, scope)| CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint { uris: vec![(*uri).to_owned()] },
                scope: *scope,
            }),
            revoked_certs: self.revoked.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&issuer).unwrap().der().to_vec()
    }
}

fn trusting(world: &World, lists: &[Vec<u8>], authorities: &[CertificateDer<'static>], on_unknown: Unsure) -> TrustStore {
    let trust_domain = TrustDomain::new("prod.example").unwrap();
    let authorities = Authorities::of(&world.bundles[&trust_domain], authorities);
    let mut domain = DomainLists { on_unknown, on_expired: Unsure::Reject, ..DomainLists::unconfigured() };
    for der in lists {
        let _ = domain.lists.take_in(&Unproven::read(der.clone()).unwrap(), &authorities, unix_now());
    }
    let mut revocation = Revocation::default();
    revocation.domains.insert(trust_domain, domain);
    TrustStore::with(&world.material(ID), Arc::new(revocation))
}

fn verdict(chain: &[CertificateDer<'static>], trust: &TrustStore) -> Result<RevocationStatus, Reason> {
    judge(chain, Role::Client, trust, unix_now()).map(|peer| peer.revocation).map_err(|failure| failure.reason)
}

fn leaf(world: &World, by: &Ca) -> CertificateDer<'static> {
    Spec::leaf(ID).signed_by(by, &world.leaf_key)
}

/// Who says that lists about it are at `uri`.
fn named(uri: &str) -> Extension {
    let point = tlv(0xa0, &tlv(0xa0, &tlv(0x86, uri.as_bytes())));
    raw(&[0x55, 0x1d, 0x1f], sequence(&[sequence(&[point])]))
}

fn take_in(known: &mut ProvenLists, der: &[u8], authorities: &Authorities) -> Result<bool, NotTaken> {
    known.take_in(&Unproven::read(der.to_vec()).unwrap(), authorities, unix_now())
}

/// None of these hides the good list, or says anything of a peer, and with `onUnknown: allow` the revoked one stays out.
#[test]
fn a_list_that_no_ca_of_the_bundle_has_signed_counts_for_nothing() {
    let world = World::new();
    let (revoked, good) = (leaf(&world, &world.ours), leaf(&world, &world.ours));
    let genuine = Wanted { revoked: vec![&revoked], ..Wanted::by(&world.ours) }.der();
    let mut flipped = Wanted { made: -1, ..Wanted::by(&world.ours) }.der();
    *flipped.last_mut().unwrap() ^= 1;
    let impostor = Ca::root(&Spec::ca("root of prod.example"));
    for (name, other) in [
        ("a flipped bit", flipped),
        ("another key", Wanted { made: -1, ..Wanted::by(&impostor) }.der()),
        ("another key, which revokes", Wanted { made: -1, revoked: vec![&good], ..Wanted::by(&impostor) }.der()),
        ("another issuer", Wanted { made: -1, ..Wanted::by(&world.federated) }.der()),
        ("of the future", Wanted { made: 900, ..Wanted::by(&world.ours) }.der()),
        ("older", Wanted { made: -120, ..Wanted::by(&world.ours) }.der()),
    ] {
        for lists in [[genuine.clone(), other.clone()], [other.clone(), genuine.clone()]] {
            let trust = trusting(&world, &lists, &[], Unsure::Allow);
            assert_eq!(verdict(std::slice::from_ref(&revoked), &trust), Err(Reason::CertificateRevoked), "{name}");
            assert_eq!(verdict(std::slice::from_ref(&good), &trust), Ok(RevocationStatus::Good), "{name}");
        }
        if name != "older" {
            let trust = trusting(&world, &[other], &[], Unsure::Reject);
            assert_eq!(verdict(std::slice::from_ref(&good), &trust), Err(Reason::RevocationUnknown), "{name}");
        }
    }
}

/// Each of a divided list counts, however new the others are; and those for CAs and for users lie side by side.
#[test]
fn parts_of_a_list_lie_side_by_side() {
    let world = World::new();
    let inner = Ca::under(&world.ours, &Spec::ca("inner"));
    let at = |uri| Spec::leaf(ID).with(named(uri)).signed_by(&world.ours, &world.leaf_key);
    let (one, other, good) = (at("http://a/1"), at("http://a/2"), at("http://a/2"));
    let below = vec![leaf(&world, &inner), inner.der.clone()];
    let shard = |uri, made, revoked| Wanted { made, revoked, scope: Some((uri, None)), ..Wanted::by(&world.ours) }.der();
    let shards = [shard("http://a/1", -600, vec![&one]), shard("http://a/2", -10, vec![&other])];
    let trust = trusting(&world, &shards, &[], Unsure::Reject);
    assert_eq!(verdict(std::slice::from_ref(&one), &trust), Err(Reason::CertificateRevoked));
    assert_eq!(verdict(std::slice::from_ref(&other), &trust), Err(Reason::CertificateRevoked));
    assert_eq!(verdict(std::slice::from_ref(&good), &trust), Ok(RevocationStatus::Good));
    // Who names no part may be on one that is not here, and is refused by one that it is on.
    let (nowhere, elsewhere) = (leaf(&world, &world.ours), at("http://a/3"));
    assert_eq!(verdict(std::slice::from_ref(&nowhere), &trust), Err(Reason::RevocationUnknown));
    assert_eq!(verdict(&[elsewhere], &trust), Err(Reason::RevocationUnknown));
    let trust = trusting(&world, &[shard("http://a/1", -10, vec![&nowhere])], &[], Unsure::Allow);
    assert_eq!(verdict(std::slice::from_ref(&nowhere), &trust), Err(Reason::CertificateRevoked));

    let (other, good) = (at("http://a/u"), at("http://a/u"));
    let users =
        Wanted { made: -10, revoked: vec![&other], scope: Some(("http://a/u", Some(CrlScope::UserCertsOnly))), ..Wanted::by(&world.ours) };
    let cas = Wanted {
        made: -600,
        revoked: vec![&inner.der],
        scope: Some(("http://a/c", Some(CrlScope::CaCertsOnly))),
        ..Wanted::by(&world.ours)
    };
    let trust = trusting(&world, &[users.der(), cas.der()], &[], Unsure::Allow);
    assert_eq!(verdict(&[other], &trust), Err(Reason::CertificateRevoked));
    assert_eq!(verdict(std::slice::from_ref(&good), &trust), Ok(RevocationStatus::Good));
    assert_eq!(verdict(&below, &trust), Err(Reason::CertificateRevoked));
    let trust = trusting(&world, &[cas.der()], &[], Unsure::Reject);
    assert_eq!(verdict(&[good], &trust), Err(Reason::RevocationUnknown), "a list of CAs says nothing of a user");
}

/// A CA goes over to a new key under its old name; each key has its list.
#[test]
fn each_key_of_a_ca_has_its_list() {
    let mut world = World::new();
    let new = Ca::root(&Spec::ca("root of prod.example"));
    let domain = TrustDomain::new("prod.example").unwrap();
    let bundle = Bundle::new(&domain, vec![world.ours.der.clone(), new.der.clone()], &mut Vec::new());
    world.bundles.insert(domain, bundle);
    let (by_old, by_new, revoked) = (leaf(&world, &world.ours), leaf(&world, &new), leaf(&world, &world.ours));
    let of_old = Wanted { made: -600, revoked: vec![&revoked], ..Wanted::by(&world.ours) }.der();
    let of_new = Wanted { made: -10, ..Wanted::by(&new) }.der();
    let trust = trusting(&world, &[of_old.clone(), of_new], &[], Unsure::Reject);
    assert_eq!(verdict(&[by_old], &trust), Ok(RevocationStatus::Good));
    assert_eq!(verdict(std::slice::from_ref(&by_new), &trust), Ok(RevocationStatus::Good));
    assert_eq!(verdict(&[revoked], &trust), Err(Reason::CertificateRevoked));
    let trust = trusting(&world, &[of_old], &[], Unsure::Reject);
    assert_eq!(verdict(&[by_new], &trust), Err(Reason::RevocationUnknown), "the other key's list says nothing of it");
}

/// An intermediate CA's list counts where its certificate is known, and leads to the bundle.
#[test]
fn a_ca_below_the_bundle_may_sign_lists() {
    let world = World::new();
    let inner = Ca::under(&world.ours, &Spec::ca("inner"));
    let forged = Ca::root(&Spec::ca("inner"));
    let (revoked, good) = (vec![leaf(&world, &inner), inner.der.clone()], vec![leaf(&world, &inner), inner.der.clone()]);
    let lists = [Wanted::by(&world.ours).der(), Wanted { revoked: vec![&revoked[0]], ..Wanted::by(&inner) }.der()];
    let trust = trusting(&world, &lists, &[forged.der.clone(), inner.der.clone()], Unsure::Reject);
    assert_eq!(verdict(&revoked, &trust), Err(Reason::CertificateRevoked));
    assert_eq!(verdict(&good, &trust), Ok(RevocationStatus::Good));
    let bundle = &world.bundles[&TrustDomain::new("prod.example").unwrap()];
    let by_forger = Wanted::by(&forged).der();
    let authorities = Authorities::of(bundle, &[forged.der, inner.der]);
    assert!(matches!(take_in(&mut ProvenLists::default(), &by_forger, &authorities), Err(NotTaken::NotSigned)));
}

/// What was signed once counts, whoever else may sign from then on: the intermediate CA's certificate may be gone from where it was.
#[test]
fn a_list_that_was_proven_stays_without_its_signers_certificate() {
    let world = World::new();
    let inner = Ca::under(&world.ours, &Spec::ca("inner"));
    let bundle = &world.bundles[&TrustDomain::new("prod.example").unwrap()];
    let (with, without) = (Authorities::of(bundle, std::slice::from_ref(&inner.der)), Authorities::of(bundle, &[]));
    assert_ne!(with, without);
    let revoked = [leaf(&world, &inner), inner.der.clone()];
    let list = Wanted { revoked: vec![&revoked[0]], ..Wanted::by(&inner) }.der();
    let mut domain = DomainLists::unconfigured();
    assert!(matches!(take_in(&mut domain.lists, &list, &without), Err(NotTaken::NotSigned)));
    assert!(take_in(&mut domain.lists, &list, &with).unwrap());
    assert!(!take_in(&mut domain.lists, &list, &without).unwrap());
    let mut revocation = Revocation::default();
    revocation.domains.insert(TrustDomain::new("prod.example").unwrap(), domain);
    let trust = TrustStore::with(&world.material(ID), Arc::new(revocation));
    assert_eq!(verdict(&revoked, &trust), Err(Reason::CertificateRevoked));
}

/// An expired list that came with the bundle refuses nobody but who is on it: an agent may be away for longer than a list holds.
#[test]
fn an_expired_list_without_configuration_refuses_only_whom_it_names() {
    let world = World::new();
    let (revoked, good) = (leaf(&world, &world.ours), leaf(&world, &world.ours));
    let old = Wanted { made: -7200, revoked: vec![&revoked], ..Wanted::by(&world.ours) }.der();
    let mut domain = DomainLists::unconfigured();
    let authorities = Authorities::of(&world.bundles[&TrustDomain::new("prod.example").unwrap()], &[]);
    take_in(&mut domain.lists, &old, &authorities).unwrap();
    let mut revocation = Revocation::default();
    revocation.domains.insert(TrustDomain::new("prod.example").unwrap(), domain);
    let trust = TrustStore::with(&world.material(ID), Arc::new(revocation));
    assert_eq!(verdict(&[revoked], &trust), Err(Reason::CertificateRevoked));
    assert_eq!(verdict(&[good], &trust), Ok(RevocationStatus::ExpiredAllowed));
}

/// Its entries are not read before its signature is good, however wrong they are.
#[test]
fn nothing_is_read_of_a_list_that_is_not_signed() {
    let world = World::new();
    let authorities = Authorities::of(&world.bundles[&TrustDomain::new("prod.example").unwrap()], &[]);
    let mut list = Wanted { revoked: vec![&world.ours.der], ..Wanted::by(&world.ours) }.der();
    // The last extension of the list, its number, becomes one that is critical and that nobody knows.
    let number = [0x06, 0x03, 0x55, 0x1d, 0x14];
    let at = list.windows(number.len()).rposition(|bytes| bytes == number).unwrap();
    list[at + 4] = 0x1b;
    assert!(matches!(Unproven::read(list.clone()).unwrap().check(), Err(ListError::Unsupported(..))));
    assert!(matches!(take_in(&mut ProvenLists::default(), &list, &authorities), Err(NotTaken::NotSigned)));
}

/// The last second of a list is the one before its next update.
#[test]
fn a_list_has_expired_when_the_next_one_is_due() {
    let world = World::new();
    let good = leaf(&world, &world.ours);
    let der = Wanted::by(&world.ours).der();
    let end = Unproven::read(der.clone()).unwrap().next_update;
    let trust = trusting(&world, &[der], &[], Unsure::Reject);
    let peer = judge(std::slice::from_ref(&good), Role::Client, &trust, end - 1).unwrap();
    let at_end = || judge(std::slice::from_ref(&good), Role::Client, &trust, end).map(drop).unwrap_err().reason;
    assert_eq!(at_end(), Reason::RevocationListExpired);
    assert_eq!(verify_again(&peer, Role::Client, &trust, end).unwrap_err().reason, Reason::RevocationListExpired);
}

#[test]
fn what_is_no_list_is_refused() {
    let world = World::new();
    let der = Wanted { revoked: vec![&world.ours.der], ..Wanted::by(&world.ours) }.der();
    let parsed = |der: &[u8]| Unproven::read(der.to_vec()).and_then(|list| list.check());
    parsed(&der).unwrap();
    for length in 0..der.len() {
        assert!(parsed(&der[..length]).is_err(), "{length} bytes");
    }
    assert!(parsed(&[&der[..], &[0]].concat()).is_err());
    for text in [&b""[..], b"garbage", b"-----BEGIN X509 CRL-----", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
        assert!(Content::read(text.to_vec()).is_err());
    }
    assert_eq!(Content::read(der).unwrap().lists.len(), 1);
}
