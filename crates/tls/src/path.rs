//! Which of the certificates that a peer sends webpki gets to see.
//!
//! webpki tries every order of all certificates that might be each other's issuers by their names, and reads each of them again at
//! every step: with some hundred junk certificates that takes seconds. An honest peer sends a path. So a chain has a few
//! certificates at most, and what can't be on a path is left out. Where several have one name, as in a rollover or in nested
//! SPIRE servers, signatures tell which one issued which.

use std::collections::{HashMap, VecDeque};

use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor};
use sidegate_identity::Authority;
use webpki::{EndEntityCert, Error, RawPublicKeyEntity};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate, X509Extension};

use crate::work::Signed;

/// Certificates of a chain, the leaf among them: webpki looks at six intermediates, and some send the root too.
pub(crate) const LONGEST: usize = 8;

/// So many paths are tried where several are possible: two twins of a CA at two levels make four.
const MOST_PATHS: usize = 4;

/// So many steps are taken to find them. With the signatures known there is hardly more than one way.
const MOST_STEPS: usize = 64;

/// Names of a leaf, and name constraints of a CA, of which each is compared with each.
pub(crate) const MOST_NAMES: usize = 100;

/// Intermediates of which each may be the issuer of the one before, the first the leaf's.
pub(crate) type Path<'a> = Vec<CertificateDer<'a>>;

/// A CA certificate of a bundle.
#[derive(Debug)]
pub(crate) struct Anchor {
    /// As webpki wants it.
    pub(crate) anchor: TrustAnchor<'static>,
    key: SubjectPublicKeyInfoDer<'static>,
    /// Its subject key identifier, if it has one.
    key_id: Option<Vec<u8>>,
    /// Seconds since the epoch.
    pub(crate) not_before: i64,
    /// Seconds since the epoch.
    pub(crate) not_after: i64,
}

impl Anchor {
    /// None if nobody can be verified by it.
    pub(crate) fn new(authority: &Authority) -> Option<Self> {
        let anchor = webpki::anchor_from_trusted_cert(&authority.der).ok()?.to_owned();
        let key = EndEntityCert::try_from(&authority.der).ok()?.subject_public_key_info();
        let key_id = key_ids(&authority.der).0;
        Some(Self { anchor, key, key_id, not_before: authority.not_before, not_after: authority.not_after })
    }

    pub(crate) fn is_valid_at(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// Of the anchors that are valid at `now` those that may have signed one of `certificates`, the likeliest first.
pub(crate) fn signers<'a>(anchors: &'a [Anchor], certificates: &[CertificateDer<'_>], now: i64) -> Vec<&'a Anchor> {
    let issuers: Vec<Vec<u8>> = certificates.iter().filter_map(|der| Some(EndEntityCert::try_from(der).ok()?.issuer().to_vec())).collect();
    let is_named = |anchor: &&Anchor| anchor.is_valid_at(now) && issuers.iter().any(|issuer| **issuer == *anchor.anchor.subject);
    let mut signers: Vec<&Anchor> = anchors.iter().filter(is_named).collect();
    if signers.len() > 1 {
        // All servers of a SPIRE deployment may have one name; a certificate says with which key it was signed.
        let wanted: Vec<Vec<u8>> = certificates.iter().filter_map(|der| key_ids(der).1).collect();
        signers.sort_by_key(|anchor| !anchor.key_id.as_ref().is_some_and(|id| wanted.contains(id)));
    }
    signers
}

/// Whether a CA has more name constraints than anybody needs.
fn has_many_constraints(der: &CertificateDer<'_>) -> bool {
    // A constraint has nine bytes at least.
    if der.len() < 9 * MOST_NAMES {
        return false;
    }
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return false };
    let count = |extension: &X509Extension<'_>| match extension.parsed_extension() {
        ParsedExtension::NameConstraints(constraints) => {
            [&constraints.permitted_subtrees, &constraints.excluded_subtrees].into_iter().flatten().map(Vec::len).sum()
        }
        _ => 0,
    };
    parsed.extensions().iter().map(count).sum::<usize>() > MOST_NAMES
}

/// Subject and authority key identifier (RFC 5280 §4.2.1.1, §4.2.1.2).
pub(crate) fn key_ids(der: &CertificateDer<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let (mut subject, mut authority) = (None, None);
    if let Ok((_, parsed)) = X509Certificate::from_der(der) {
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => subject = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => authority = id.key_identifier.as_ref().map(|id| id.0.to_vec()),
                _ => {}
            }
        }
    }
    (subject, authority)
}

/// The paths that `intermediates` allow for `leaf`, and what is wrong with one that was left out.
///
/// Where all names differ that is one, whose signatures are not checked here.
pub(crate) fn paths<'a>(
    leaf: &EndEntityCert<'_>,
    intermediates: &'a [CertificateDer<'a>],
    anchors: &[&Anchor],
) -> (Vec<Path<'a>>, Option<Error>) {
    let mut wrong = None;
    let mut others: Vec<EndEntityCert<'a>> = Vec::new();
    for (at, certificate) in intermediates.iter().enumerate() {
        match EndEntityCert::try_from(certificate) {
            Ok(_) if intermediates[..at].contains(certificate) => {}
            Ok(_) if has_many_constraints(certificate) => wrong = wrong.or(Some(Error::MaximumNameConstraintComparisonsExceeded)),
            Ok(parsed) => others.push(parsed),
            Err(error) => wrong = wrong.or(Some(error)),
        }
    }
    // By their names alone, from the leaf upwards.
    let mut linked: Vec<EndEntityCert<'a>> = Vec::new();
    let mut is_clear = true;
    let mut issuer = leaf.issuer().to_vec();
    let mut next = 0;
    loop {
        let before = linked.len();
        linked.extend(others.extract_if(.., |other| other.subject() == issuer));
        is_clear &= linked.len() <= before + 1;
        let Some(child) = linked.get(next) else { break };
        issuer = child.issuer().to_vec();
        next += 1;
    }
    if is_clear {
        return (vec![linked.iter().map(|ca| ca.der()).collect()], wrong);
    }
    let found = Search { leaf, linked: &linked, anchors, known: HashMap::new() }.run();
    if found.is_empty() {
        wrong = wrong.or(Some(Error::InvalidSignatureForPublicKey));
    }
    (found, wrong)
}

/// For paths among certificates some of which have one name.
struct Search<'s, 'a> {
    leaf: &'s EndEntityCert<'s>,
    linked: &'s [EndEntityCert<'a>],
    anchors: &'s [&'s Anchor],
    /// Which certificate has signed which, as far as it was asked.
    known: HashMap<(Option<usize>, By), bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum By {
    Linked(usize),
    Anchor(usize),
}

impl<'a> Search<'_, 'a> {
    /// The shortest first.
    fn run(mut self) -> Vec<Path<'a>> {
        let mut found = Vec::new();
        let mut begun: VecDeque<Vec<usize>> = VecDeque::from([Vec::new()]);
        for _ in 0..MOST_STEPS {
            let Some(path) = begun.pop_front() else { break };
            if found.len() == MOST_PATHS {
                break;
            }
            let last = path.last().copied();
            if (0..self.anchors.len()).any(|at| self.is_signed(last, By::Anchor(at))) {
                found.push(path.iter().map(|at| self.linked[*at].der()).collect());
            }
            for at in 0..self.linked.len() {
                if !path.contains(&at) && self.is_signed(last, By::Linked(at)) {
                    begun.push_back([&path[..], &[at]].concat());
                }
            }
        }
        found
    }

    /// Whether the leaf, or one of the linked, is signed by another.
    fn is_signed(&mut self, child: Option<usize>, by: By) -> bool {
        if let Some(known) = self.known.get(&(child, by)) {
            return *known;
        }
        let certificate = child.map_or(self.leaf, |at| &self.linked[at]);
        let name = match by {
            By::Linked(at) => self.linked[at].subject(),
            By::Anchor(at) => &self.anchors[at].anchor.subject,
        };
        let is_signed = certificate.issuer() == name && Signed::read(&certificate.der()).is_some_and(|signed| self.has_signed(&signed, by));
        self.known.insert((child, by), is_signed);
        is_signed
    }

    fn has_signed(&self, signed: &Signed<'_>, by: By) -> bool {
        let checked = match by {
            By::Linked(at) => signed.is_by(|algorithm, message, signature| self.linked[at].verify_signature(algorithm, message, signature)),
            By::Anchor(at) => RawPublicKeyEntity::try_from(&self.anchors[at].key)
                .and_then(|key| signed.is_by(|algorithm, message, signature| key.verify_signature(algorithm, message, signature))),
        };
        checked.is_ok()
    }
}
