//! Verification of a peer's chain by the X.509-SVID standard.
//!
//! webpki alone decides whether a chain leads to the trust bundle of the peer's own trust domain; what it does not
//! look at (SPIFFE ID, key usage, key strength) is checked here, on the leaf and on every CA of the path.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sidegate_core::{CertificateFacts, Peer, Reason, RevocationStatus, SpiffeId, TrustDomain, parse_canonical, printable};
use sidegate_identity::{Bundle, Material, foreign_signing_name, uri_names};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::path::{self, Anchor};
use crate::revocation::{self, Revocation};
use crate::work::{self, LONGEST_CHAIN};

pub use crate::work::Work;

/// In which role the peer presents its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It accepted our connection.
    Server,
    /// It connected to us.
    Client,
}

/// Trust anchors by trust domain, ready for use. There is no pool of all roots.
#[derive(Debug)]
pub struct TrustStore {
    /// What tells it from every other, so that what one has verified is never taken for another's.
    id: u64,
    domains: BTreeMap<TrustDomain, Vec<Anchor>>,
    revocation: Arc<Revocation>,
}

/// Who a verified peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// The same as text, shared with the record.
    pub text: Arc<str>,
    /// Its certificate.
    pub certificate: Arc<CertificateFacts>,
    /// The chain that it presented, leaf first, for when it has to be verified again.
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
    /// By which trust store it was verified.
    trust: u64,
    /// Whether it was looked up in revocation lists.
    pub revocation: RevocationStatus,
    /// As long as the path that was found is valid: seconds since the epoch, the first and the last.
    valid: (i64, i64),
}

/// Why a chain was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyFailure {
    /// The rule that it breaks.
    pub reason: Reason,
    /// What exactly.
    pub detail: String,
    /// What the certificate claims to be, where it names something. Never to be trusted.
    pub claimed_id: Option<String>,
    /// The certificate, if it could be read at all.
    pub certificate: Option<Arc<CertificateFacts>>,
}

impl TrustStore {
    /// The bundles of `material`, of whose peers nobody is revoked.
    #[must_use]
    pub fn new(material: &Material) -> Self {
        Self::with(material, Arc::default())
    }

    /// The bundles of `material`, and who is revoked all the same.
    #[must_use]
    pub fn with(material: &Material, revocation: Arc<Revocation>) -> Self {
        Self::build(&material.bundles, revocation)
    }

    /// These bundles, of whose peers nobody is revoked.
    #[must_use]
    pub fn of(bundles: &BTreeMap<TrustDomain, Bundle>) -> Self {
        Self::build(bundles, Arc::default())
    }

    fn build(bundles: &BTreeMap<TrustDomain, Bundle>, revocation: Arc<Revocation>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let anchors = |bundle: &Bundle| bundle.authorities.iter().filter_map(Anchor::new).collect();
        let domains = bundles.iter().map(|(trust_domain, bundle)| (trust_domain.clone(), anchors(bundle))).collect();
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), domains, revocation }
    }
}

impl PeerIdentity {
    /// The peer as a record names it, if it was looked up in revocation lists with this result.
    #[must_use]
    pub fn on_record(&self, revocation: RevocationStatus) -> Peer {
        Peer::Spiffe { id: self.text.clone(), certificate: self.certificate.clone(), revocation }
    }

    /// Whether `trust` has verified it, and the path that was found is still valid.
    pub(crate) fn holds(&self, trust: &TrustStore, now: i64) -> bool {
        self.trust == trust.id && (self.valid.0..=self.valid.1).contains(&now)
    }
}

type Check<T = ()> = Result<T, (Reason, String)>;

/// Verifies the chain that a peer presented, at `now` seconds since the epoch.
///
/// # Errors
/// The first rule that it breaks, with what it claims to be.
pub fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: Role,
    trust: &TrustStore,
    now: i64,
) -> Result<PeerIdentity, VerifyFailure> {
    verify_measured(leaf, intermediates, role, trust, now).0
}

/// As [`verify`], and what that took: never more than a chain may cost, whatever it holds.
pub fn verify_measured(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: Role,
    trust: &TrustStore,
    now: i64,
) -> (Result<PeerIdentity, VerifyFailure>, Work) {
    work::bounded(|| verify_chain(leaf, intermediates, role, trust, now))
}

fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: Role,
    trust: &TrustStore,
    now: i64,
) -> Result<PeerIdentity, VerifyFailure> {
    let malformed = |detail: String| VerifyFailure {
        reason: Reason::CertificateMalformed,
        detail: printable(&detail),
        claimed_id: None,
        certificate: None,
    };
    // What is kept of a peer for as long as its session lives; real chains have a fifth of that.
    if leaf.len() + intermediates.iter().map(|certificate| certificate.len()).sum::<usize>() > LONGEST_CHAIN {
        return Err(malformed(format!("its chain is longer than {LONGEST_CHAIN} bytes")));
    }
    if intermediates.len() >= path::LONGEST {
        return Err(malformed(format!("its chain has {} certificates; {} are the most", intermediates.len() + 1, path::LONGEST)));
    }
    let parsed = match X509Certificate::from_der(leaf) {
        Ok(([], parsed)) => parsed,
        Ok(_) => return Err(malformed("the leaf has trailing bytes".to_owned())),
        Err(error) => return Err(malformed(format!("the leaf can't be parsed: {error}"))),
    };
    let uris = uri_names(&parsed).map_err(malformed)?;
    if let Ok(Some(names)) = parsed.subject_alternative_name()
        && names.value.general_names.len() > path::MOST_NAMES
    {
        return Err(malformed(format!("the leaf has {} names; {} are the most", names.value.general_names.len(), path::MOST_NAMES)));
    }
    let validity = parsed.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let serial = printable(&format!("{:x}", parsed.serial));
    let certificate = Arc::new(CertificateFacts::new(leaf, serial, not_before, not_after));
    let checked = spiffe_id(&uris).and_then(|id| {
        leaf_rules(&parsed)?;
        let (path, revocation) = path_rules(leaf, intermediates, role, trust, id.trust_domain(), now)?;
        if let Some(denied) = trust.revocation.denies(&id, &certificate) {
            return Err((Reason::PeerDenied, denied));
        }
        Ok((id, revocation, (path.0.max(not_before), path.1.min(not_after))))
    });
    match checked {
        Ok((id, revocation, valid)) => {
            let chain = std::iter::once(leaf).chain(intermediates).map(|cert| cert.clone().into_owned()).collect();
            Ok(PeerIdentity { text: id.to_string().into(), id, certificate, chain, trust: trust.id, revocation, valid })
        }
        Err((reason, detail)) => {
            let claimed_id = uris.first().map(|uri| printable(uri));
            Err(VerifyFailure { reason, detail: printable(&detail), claimed_id, certificate: Some(certificate) })
        }
    }
}

/// X509-SVID §2: exactly one URI SAN, a SPIFFE ID; §5.2: with a path.
fn spiffe_id(uris: &[String]) -> Check<SpiffeId> {
    let uri = match uris {
        [] => return Err((Reason::NoSpiffeId, "its certificate has no URI SAN".to_owned())),
        [uri] => uri,
        more => return Err((Reason::MultipleUriSans, format!("its certificate has {} URI SANs", more.len()))),
    };
    let id = parse_canonical(uri).map_err(|e| (Reason::SpiffeIdInvalid, format!("its URI SAN is no SPIFFE ID: {e}")))?;
    if id.path().is_empty() {
        return Err((Reason::SpiffeIdWithoutPath, format!("`{id}` names a trust domain, not a workload")));
    }
    Ok(id)
}

/// X509-SVID §4.1, §4.3, §4.4 and §5.2, and the strength of the key.
fn leaf_rules(leaf: &X509Certificate<'_>) -> Check {
    let broken = |e| (Reason::CertificateMalformed, format!("an extension of the leaf can't be parsed: {e}"));
    if leaf.basic_constraints().map_err(broken)?.is_some_and(|b| b.value.ca) {
        return Err((Reason::LeafIsCa, "its leaf has basic constraints CA".to_owned()));
    }
    let usage_says = |why: &str| Err((Reason::LeafKeyUsage, format!("its leaf's key usage {why}")));
    match leaf.key_usage().map_err(broken)? {
        None => return usage_says("is absent"),
        Some(usage) if usage.value.key_cert_sign() => return usage_says("has keyCertSign"),
        Some(usage) if usage.value.crl_sign() => return usage_says("has cRLSign"),
        Some(usage) if !usage.value.digital_signature() => return usage_says("lacks digitalSignature"),
        Some(usage) if !usage.critical => return usage_says("is not critical"),
        Some(_) => {}
    }
    if let Some(extended) = leaf.extended_key_usage().map_err(broken)?
        && !(extended.value.server_auth && extended.value.client_auth)
    {
        let lacks = if extended.value.server_auth { "clientAuth" } else { "serverAuth" };
        return Err((Reason::LeafExtendedKeyUsage, format!("its leaf's extended key usage lacks {lacks}")));
    }
    strong_key(leaf)
}

fn strong_key(leaf: &X509Certificate<'_>) -> Check {
    let key = leaf.public_key();
    let algorithm = &key.algorithm.algorithm;
    let weak = |what: String| Err((Reason::WeakKey, what));
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return match key.parsed() {
            // `key_size` counts whole bytes: 2047 bits would read as 2048, and no one makes such keys.
            Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= 2048 => Ok(()),
            Ok(PublicKey::RSA(rsa)) => weak(format!("its leaf's RSA key has {} bits; 2048 are the least", rsa.key_size())),
            _ => Err((Reason::CertificateMalformed, "its leaf's RSA key can't be parsed".to_owned())),
        };
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
        let usual = [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521];
        return if curve.as_ref().is_some_and(|c| usual.contains(c)) {
            Ok(())
        } else {
            weak("its leaf's key is on an unusual curve; use P-256, P-384 or P-521".to_owned())
        };
    }
    if *algorithm == OID_SIG_ED25519 { Ok(()) } else { weak(format!("its leaf's key algorithm {algorithm} is not acceptable")) }
}

/// RFC 5280 §6 by webpki, against the bundle of the peer's own trust domain only; then X509-SVID §4 on each CA. Returns how
/// long all CAs of the path, and the lists that were asked, are valid, and what those said.
fn path_rules(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: Role,
    trust: &TrustStore,
    domain: &TrustDomain,
    now: i64,
) -> Check<((i64, i64), RevocationStatus)> {
    let Some(anchors) = trust.domains.get(domain) else {
        return Err((Reason::TrustDomainUnknown, format!("there is no trust bundle for {domain}")));
    };
    // webpki takes anchors as they are; an expired root must not vouch for anybody.
    if !anchors.iter().any(|a| a.is_valid_at(now)) {
        let reason = match anchors.iter().map(|a| a.not_before).min() {
            None => Reason::TrustDomainUnknown,
            Some(first) if first > now => Reason::NotYetValid,
            Some(_) => Reason::Expired,
        };
        return Err((reason, format!("no CA certificate in the bundle of {domain} is valid now")));
    }
    let cert = EndEntityCert::try_from(leaf).map_err(webpki_reason)?;
    let usage = match role {
        Role::Server => KeyUsage::server_auth(),
        Role::Client => KeyUsage::client_auth(),
    };
    let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
    // Of several paths, as through the twins of a CA that is being renewed, one may break our rules and another keep
    // them: webpki looks on when this says no. What the first broke is what is reported.
    let broken = RefCell::new(None);
    let found = Cell::new(None);
    let lists = trust.revocation.domains.get(domain);
    let keeps_rules = |path: &VerifiedPath<'_>| {
        let same = |a: &&Anchor| {
            a.anchor.subject == path.anchor().subject && a.anchor.subject_public_key_info == path.anchor().subject_public_key_info
        };
        // Of twins with one key the one that ends first: then it is looked at again, and the other found.
        let twins = anchors.iter().filter(same).filter(|a| a.is_valid_at(now));
        let narrower = |w: (i64, i64), v: (i64, i64)| (w.0.max(v.0), w.1.min(v.1));
        let anchor = twins.fold((i64::MIN, i64::MAX), |w, a| narrower(w, (a.not_before, a.not_after)));
        let whole = path.intermediate_certificates().try_fold(anchor, |w, ca| Ok(narrower(w, ca_rules(&ca.der(), domain)?)));
        let looked_up = whole.and_then(|window| {
            let status = lists.map_or(Ok(RevocationStatus::NotChecked), |lists| lists.check(path, now)).map_err(webpki_reason)?;
            Ok((window, status))
        });
        looked_up.map(|status| found.set(Some(status))).map_err(|why| {
            broken.borrow_mut().get_or_insert(why);
            webpki::Error::UnknownIssuer
        })
    };
    let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(intermediates).cloned().collect();
    let signers = path::signers(anchors, &chain, now);
    let (paths, wrong) = path::paths(&cert, intermediates, &signers);
    let signers: Vec<TrustAnchor<'_>> = signers.into_iter().map(|signer| signer.anchor.clone()).collect();
    let mut failed = None;
    for path in &paths {
        let algorithms = work::algorithms();
        match cert.verify_for_usage(algorithms, &signers, path, time, usage, None, Some(&keeps_rules)) {
            Ok(_) => {
                let Some(((first, last), status)) = found.get() else { break };
                // What a list says holds until the next one is due.
                let until = lists.filter(|_| status == RevocationStatus::Good).map_or(i64::MAX, |lists| lists.hold_until(now));
                return Ok(((first, last.min(until)), status));
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if let Some(broken) = broken.take() {
        return Err(broken);
    }
    if work::is_used_up() {
        return Err((Reason::PathInvalid, "its chain takes more signature checks than a chain may".to_owned()));
    }
    // What was left out may be why there is no path.
    let failed = failed.unwrap_or(webpki::Error::UnknownIssuer);
    Err(webpki_reason(wrong.filter(|_| failed == webpki::Error::UnknownIssuer).unwrap_or(failed)))
}

/// X509-SVID §4.1 and §4.3 for a CA inside the chain; those of the bundle were checked when it was taken in. Returns its
/// validity.
fn ca_rules(ca: &CertificateDer<'_>, domain: &TrustDomain) -> Check<(i64, i64)> {
    let malformed = |e: String| (Reason::CertificateMalformed, format!("an intermediate can't be parsed: {e}"));
    let (_, parsed) = X509Certificate::from_der(ca).map_err(|e| malformed(e.to_string()))?;
    let name = parsed.subject().to_string();
    match parsed.key_usage().map_err(|e| malformed(e.to_string()))? {
        Some(usage) if usage.value.key_cert_sign() => {}
        _ => return Err((Reason::CaKeyUsage, format!("the intermediate `{name}` lacks key usage keyCertSign"))),
    }
    match foreign_signing_name(&parsed, domain).map_err(malformed)? {
        Some(uri) => Err((Reason::CaSpiffeId, format!("the intermediate `{name}` carries `{uri}`"))),
        None => Ok((parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp())),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn webpki_reason(error: webpki::Error) -> (Reason, String) {
    use webpki::Error as E;
    if let Some(reason) = revocation::reason(&error) {
        return (reason, format!("its chain is not acceptable: {error}"));
    }
    #[allow(deprecated, reason = "older spellings of the same errors may still come")]
    let reason = match &error {
        E::CertExpired { .. } => Reason::Expired,
        E::CertNotValidYet { .. } => Reason::NotYetValid,
        E::UnknownIssuer => Reason::UnknownIssuer,
        E::InvalidSignatureForPublicKey => Reason::BadSignature,
        E::SignatureAlgorithmMismatch
        | E::UnsupportedSignatureAlgorithm
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKey
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Reason::SignatureAlgorithm,
        E::CaUsedAsEndEntity => Reason::LeafIsCa,
        E::EndEntityUsedAsCa | E::PathLenConstraintViolated => Reason::CaBasicConstraints,
        E::UnsupportedCriticalExtension => Reason::UnknownCriticalExtension,
        E::NameConstraintViolation
        | E::MalformedNameConstraint
        | E::UnsupportedNameType
        | E::InvalidNetworkMaskConstraint
        | E::MaximumNameConstraintComparisonsExceeded => Reason::NameConstraints,
        E::RequiredEkuNotFound | E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Reason::LeafExtendedKeyUsage,
        E::BadDer
        | E::BadDerTime
        | E::TrailingData(_)
        | E::ExtensionValueInvalid
        | E::MalformedExtensions
        | E::InvalidCertValidity
        | E::InvalidSerialNumber
        | E::UnsupportedCertVersion => Reason::CertificateMalformed,
        _ => Reason::PathInvalid,
    };
    (reason, format!("its chain is not acceptable: {error}"))
}
