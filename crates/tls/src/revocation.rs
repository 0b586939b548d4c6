//! Who is not to be trusted any more, although its certificate is valid: revocation lists (RFC 5280 §5) and deny lists.
//!
//! A list counts when a CA of the bundle has signed it, or one below them whose certificate is known. That is found out once, before
//! anything but its issuer's name is read: a list may have 16 MiB, and ten times that when its entries can be looked up.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
pub use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{SubjectPublicKeyInfoDer, UnixTime};
use sidegate_config::schema::{Denied, Depth, Unsure};
use sidegate_core::{CertificateFacts, Reason, RevocationStatus, SpiffeId, TrustDomain, printable};
use sidegate_identity::Bundle;
use webpki::{Cert, EndEntityCert, Error, RawPublicKeyEntity, VerifiedPath};
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{OID_X509_EXT_DELTA_CRL_INDICATOR, OID_X509_EXT_ISSUER, OID_X509_EXT_ISSUER_DISTRIBUTION_POINT};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate, X509Name, X509Version};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::work::Signed;

/// How far a list's beginning may lie in the future, since clocks differ.
const LEEWAY: i64 = 300;
/// Lists and certificates in one text.
const MOST_SECTIONS: usize = 1024;
/// Lists of one trust domain: one for each of its CAs, or some where they are divided.
pub const MOST_LISTS: usize = 1024;

/// Everything that is known of revocation at one time.
#[derive(Debug, Default)]
pub struct Revocation {
    /// Lists of the trust domains that have them.
    pub domains: BTreeMap<TrustDomain, DomainLists>,
    /// Entries of the deny lists.
    pub denied: Vec<Denied>,
}

/// The lists of one trust domain.
#[derive(Debug, Clone)]
pub struct DomainLists {
    /// The lists; none if none could be had.
    pub lists: ProvenLists,
    /// How much of a chain is looked up.
    pub depth: Depth,
    /// What becomes of a peer that is on no list.
    pub on_unknown: Unsure,
    /// What becomes of a peer whose list has expired.
    pub on_expired: Unsure,
}

impl DomainLists {
    /// For a trust domain that is not configured, whose lists came with its bundle: nobody has promised one by each CA, nor that there is
    /// always a new one in time. So only who is on a list is refused; what is not sure is on record.
    #[must_use]
    pub fn unconfigured() -> Self {
        let (on_unknown, on_expired) = (Unsure::Allow, Unsure::Allow);
        Self { lists: ProvenLists::default(), depth: Depth::default(), on_unknown, on_expired }
    }
}

/// Lists whose signatures are good, each with the key that made it. Of those by one key for the same certificates the newest counts, and it
/// stays until a newer one comes.
#[derive(Debug, Clone, Default)]
pub struct ProvenLists(Vec<(Arc<List>, Key)>);

/// Why a list is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// By the signer's clock, or this host's, it is not made yet.
    #[error("is of the future; compare this host's clock with the issuer's")]
    Future,
    /// Nobody who may has signed it.
    #[error(
        "is signed by no CA of the trust domain's bundle; if an intermediate CA has signed it, add that one's certificate to a file of \
         `revocation.trustDomains[].files`"
    )]
    NotSigned,
    /// An older list than the one that is known: somebody plays it back, or a mirror lags behind.
    #[error("was made before the one in use")]
    Older,
    /// There are more lists than a trust domain has.
    #[error("is one too many: {MOST_LISTS} are known of the trust domain")]
    TooMany,
    /// It is signed, and can't be used.
    #[error("can't be used: {0}")]
    Unusable(#[from] ListError),
}

impl ProvenLists {
    /// Takes in a list if one of `authorities` has signed it; only then its entries are read. Whether that changes what is known.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn take_in(&mut self, list: &Unproven, authorities: &Authorities, now: i64) -> Result<bool, NotTaken> {
        if self.0.iter().any(|(known, _)| known.sha256 == list.sha256) {
            return Ok(false);
        }
        let Some(signer) = list.signer(authorities) else { return Err(NotTaken::NotSigned) };
        if list.is_of_the_future(now) {
            return Err(NotTaken::Future);
        }
        let list = List::parse(&list.der)?;
        match self.0.iter_mut().find(|(known, by)| by == signer && known.has_scope_of(&list)) {
            Some((known, _)) if known.this_update > list.this_update => return Err(NotTaken::Older),
            Some((known, _)) => *known = Arc::new(list),
            None => {
                if self.0.len() >= MOST_LISTS {
                    // Of a CA that has long been replaced.
                    let oldest = self.0.iter().enumerate().filter(|(_, (known, _))| known.next_update <= now);
                    let Some((at, _)) = oldest.min_by_key(|(_, (known, _))| known.next_update) else { return Err(NotTaken::TooMany) };
                    self.0.swap_remove(at);
                }
                self.0.push((Arc::new(list), signer.clone()));
            }
        }
        Ok(true)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// When the first of them expires that has not.
    fn next_expiry(&self, now: i64) -> Option<i64> {
        self.0.iter().map(|(list, _)| list.next_update).filter(|end| *end > now).min()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A list of which is not known yet who has signed it: its bytes, and what is read to find that out.
#[derive(Debug)]
pub struct Unproven {
    der: Vec<u8>,
    sha256: [u8; 32],
    /// The contents of the issuer's name.
    issuer_name: Vec<u8>,
    /// The issuer's name, human-readable.
    pub issuer: String,
    /// When it says that it was made, in seconds since the epoch.
    pub this_update: i64,
    /// When it says that the next one is due.
    pub next_update: i64,
}

impl Unproven {
    /// A list in DER.
    ///
    /// # Errors
    /// Why it is none.
    pub fn read(der: Vec<u8>) -> Result<Self, ListError> {
        let head = Head::read(&der).ok_or_else(|| ListError::Unreadable("it is no CertificateList of RFC 5280 §5.1".to_owned()))?;
        let issuer = X509Name::from_der(head.issuer).map_err(|e| ListError::Unreadable(printable(&e.to_string())))?.1;
        let issuer = printable(&issuer.to_string());
        let next_update = head.next_update.ok_or_else(|| ListError::Endless(issuer.clone()))?;
        let (issuer_name, this_update) = (contents(head.issuer).to_vec(), head.this_update);
        Ok(Self { sha256: sha256(&der), issuer_name, issuer, this_update, next_update, der })
    }

    /// Whether all of it can be used, if somebody has signed it.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), ListError> {
        List::parse(&self.der).map(drop)
    }

    /// Whether it says that it was made later than `now`, by more than clocks differ.
    #[must_use]
    pub fn is_of_the_future(&self, now: i64) -> bool {
        self.this_update > now.saturating_add(LEEWAY)
    }

    /// The key of the one of `authorities` that has signed it.
    fn signer<'a>(&self, authorities: &'a Authorities) -> Option<&'a Key> {
        let signed = Signed::read(&self.der)?;
        let has_signed = |key: &Key| {
            RawPublicKeyEntity::try_from(&key.der)
                .and_then(|key| signed.is_by(|algorithm, message, signature| key.verify_signature(algorithm, message, signature)))
                .is_ok()
        };
        authorities.0.iter().find(|ca| ca.subject == self.issuer_name && has_signed(&ca.key)).map(|ca| &ca.key)
    }
}

/// What comes first in a list (RFC 5280 §5.1.2); what follows is stepped over.
struct Head<'a> {
    issuer: &'a [u8],
    this_update: i64,
    next_update: Option<i64>,
}

impl<'a> Head<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let sequence = |der: &'a [u8]| Any::from_der(der).ok().filter(|(_, any)| any.tag() == Tag::Sequence);
        let (rest, list) = sequence(der)?;
        let (signature, signed) = sequence(list.data)?;
        // The signature's algorithm and itself.
        let (bits, _) = sequence(signature)?;
        let (end, _) = Any::from_der(bits).ok().filter(|(_, any)| any.tag() == Tag::BitString)?;
        if !rest.is_empty() || !end.is_empty() {
            return None;
        }
        let (rest, first) = Any::from_der(signed.data).ok()?;
        // Without a version, which is not for us to refuse, the algorithm is the first.
        let (issuer, _) = if first.tag() == Tag::Integer { sequence(rest)? } else { (rest, first) };
        let (rest, _) = sequence(issuer)?;
        let (rest, this_update) = ASN1Time::from_der(rest).ok()?;
        let next_update = ASN1Time::from_der(rest).ok().map(|(_, at)| at.timestamp());
        Some(Self { issuer, this_update: this_update.timestamp(), next_update })
    }
}

fn sha256(der: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, der).as_ref().try_into().unwrap_or_default()
}

/// One revocation list.
#[derive(Debug)]
pub struct List {
    sha256: [u8; 32],
    /// The contents of the issuer's name.
    issuer_name: Vec<u8>,
    scope: Scope,
    /// Serial numbers without leading zeros.
    revoked: HashSet<Box<[u8]>>,
    /// When it was made, in seconds since the epoch.
    this_update: i64,
    /// When the next one is due: from then on it has expired.
    next_update: i64,
}

/// Which certificates of its issuer a list is about: its issuing distribution point (RFC 5280 §5.2.5).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Scope {
    /// All of the extension, which tells one scope from another.
    der: Option<Vec<u8>>,
    users_only: bool,
    cas_only: bool,
    /// Where it is published: it is about certificates that name one of these.
    places: Vec<String>,
}

/// Why a text is no revocation list.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Neither PEM nor DER.
    #[error("it holds no revocation list in PEM (`BEGIN X509 CRL`) or DER: {0}")]
    Unreadable(String),
    /// A list that says nothing about when it ends can't be relied on (RFC 5280 §5.1.2.5).
    #[error("its list by `{0}` has no nextUpdate")]
    Endless(String),
    /// Something that changes what the list means, and that is not understood.
    #[error("its list by `{0}` can't be used: {1}")]
    Unsupported(String, &'static str),
}

/// What a text holds.
#[derive(Debug, Default)]
pub struct Content {
    /// Its lists.
    pub lists: Vec<Unproven>,
    /// Certificates of CAs that came with them.
    pub authorities: Vec<CertificateDer<'static>>,
}

impl Content {
    /// The lists in `text`, DER or PEM; in PEM also certificates of CAs that have signed lists.
    ///
    /// # Errors
    /// The first part that can't be read.
    pub fn read(text: Vec<u8>) -> Result<Self, ListError> {
        let unreadable = |e: String| ListError::Unreadable(printable(&e));
        if !text.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Ok(Self { lists: vec![Unproven::read(text)?], authorities: Vec::new() });
        }
        let mut found = Self::default();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&text).take(MOST_SECTIONS) {
            match section.map_err(|e| unreadable(e.to_string()))? {
                (SectionKind::Crl, der) => found.lists.push(Unproven::read(der)?),
                (SectionKind::Certificate, der) => found.authorities.push(der.into()),
                _ => {}
            }
        }
        let is_empty = found.lists.is_empty() && found.authorities.is_empty();
        if is_empty { Err(unreadable("it has other sections only".to_owned())) } else { Ok(found) }
    }
}

impl List {
    /// A list in DER.
    ///
    /// # Errors
    /// Why it is none, or can't be used.
    fn parse(der: &[u8]) -> Result<Self, ListError> {
        let unreadable = |e: String| ListError::Unreadable(printable(&e));
        let (rest, parsed) = CertificateRevocationList::from_der(der).map_err(|e| unreadable(e.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable("something follows it".to_owned()));
        }
        let issuer = printable(&parsed.issuer().to_string());
        let unsupported = |why| ListError::Unsupported(issuer.clone(), why);
        if parsed.version() != Some(X509Version(1)) {
            return Err(unsupported("it is not of version 2"));
        }
        let next_update = parsed.next_update().ok_or_else(|| ListError::Endless(issuer.clone()))?.timestamp();
        let mut scope = Scope::default();
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                _ if extension.oid == OID_X509_EXT_DELTA_CRL_INDICATOR => return Err(unsupported("it is a delta list")),
                ParsedExtension::IssuingDistributionPoint(_) if scope.der.is_some() => {
                    return Err(unsupported("it has two issuing distribution points"));
                }
                ParsedExtension::IssuingDistributionPoint(_) => scope = Scope::of(extension).map_err(unsupported)?,
                _ if extension.oid == OID_X509_EXT_ISSUER_DISTRIBUTION_POINT => {
                    return Err(unsupported("its issuing distribution point can't be read"));
                }
                ParsedExtension::AuthorityKeyIdentifier(_) | ParsedExtension::CRLNumber(_) => {}
                _ if extension.critical => return Err(unsupported("it has a critical extension that is not understood")),
                _ => {}
            }
        }
        let mut revoked = HashSet::new();
        for entry in parsed.iter_revoked_certificates() {
            for extension in entry.extensions() {
                let is_known = matches!(extension.parsed_extension(), ParsedExtension::ReasonCode(_) | ParsedExtension::InvalidityDate(_));
                if extension.oid == OID_X509_EXT_ISSUER || extension.critical && !is_known {
                    return Err(unsupported("an entry has a critical extension that is not understood"));
                }
            }
            revoked.insert(number(entry.raw_serial()).into());
        }
        Ok(Self {
            sha256: sha256(der),
            issuer_name: contents(parsed.issuer().as_raw()).to_vec(),
            scope,
            revoked,
            this_update: parsed.last_update().timestamp(),
            next_update,
        })
    }

    /// Whether it is about the same certificates of an issuer of the same name as `other`.
    fn has_scope_of(&self, other: &Self) -> bool {
        self.issuer_name == other.issuer_name && self.scope.der == other.scope.der
    }

    /// Whether a certificate of its issuer that is not on it is good. One that names no place, or others, may be on another part.
    fn covers(&self, certificate: &Cert<'_>, is_leaf: bool) -> bool {
        if self.scope.cas_only && is_leaf || self.scope.users_only && !is_leaf {
            return false;
        }
        self.scope.places.is_empty() || places(certificate).is_some_and(|named| named.iter().any(|place| self.scope.places.contains(place)))
    }
}

impl Scope {
    fn of(extension: &X509Extension<'_>) -> Result<Self, &'static str> {
        let ParsedExtension::IssuingDistributionPoint(point) = extension.parsed_extension() else { return Ok(Self::default()) };
        if point.indirect_crl || point.only_contains_attribute_certs {
            return Err("it is about certificates of other issuers, or of attributes");
        }
        if point.only_some_reasons.is_some() {
            return Err("it is about some reasons only");
        }
        let places = match &point.distribution_point {
            None => Vec::new(),
            Some(DistributionPointName::FullName(names)) => uris(names),
            Some(DistributionPointName::NameRelativeToCRLIssuer(_)) => return Err("its distribution point has no full name"),
        };
        if point.distribution_point.is_some() && places.is_empty() {
            return Err("its distribution point is no URI");
        }
        let (users_only, cas_only) = (point.only_contains_user_certs, point.only_contains_ca_certs);
        Ok(Self { der: Some(extension.value.to_vec()), users_only, cas_only, places })
    }
}

fn uris(names: &[GeneralName<'_>]) -> Vec<String> {
    let uri = |name: &GeneralName<'_>| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None };
    names.iter().filter_map(uri).collect()
}

/// Where a certificate says that lists about it are published; none if it says nothing.
fn places(certificate: &Cert<'_>) -> Option<Vec<String>> {
    let der = certificate.der();
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    let points = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::CRLDistributionPoints(points) => Some(points),
        _ => None,
    })?;
    // Points of other issuers, or for some reasons, are not these lists'.
    let ours = points.iter().filter(|point| point.crl_issuer.is_none() && point.reasons.is_none());
    let named = ours.filter_map(|point| match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) => Some(uris(names)),
        _ => None,
    });
    Some(named.flatten().collect())
}

/// Those who may sign lists of a trust domain.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Authorities(Vec<Ca>);

#[derive(Debug, PartialEq, Eq)]
struct Ca {
    /// The contents of its name.
    subject: Vec<u8>,
    key: Key,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    der: SubjectPublicKeyInfoDer<'static>,
    /// Without the tag and length around it, as a trust anchor has it.
    contents: Vec<u8>,
}

impl Authorities {
    /// The CAs of `bundle`, and those of `others` that they, or each other, have signed and that may sign lists.
    #[must_use]
    pub fn of(bundle: &Bundle, others: &[CertificateDer<'_>]) -> Self {
        let mut known = Self(bundle.authorities.iter().filter_map(|authority| Ca::of(&authority.der)).collect());
        let mut left: Vec<&CertificateDer<'_>> = others.iter().filter(|der| may_sign_lists(der)).take(MOST_SECTIONS).collect();
        loop {
            let (signed, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(|der| known.has_signed(der));
            if signed.is_empty() {
                return known;
            }
            known.0.extend(signed.into_iter().filter_map(Ca::of));
            left = rest;
        }
    }

    fn has_signed(&self, der: &CertificateDer<'_>) -> bool {
        let (Ok(certificate), Some(signed)) = (EndEntityCert::try_from(der), Signed::read(der)) else { return false };
        self.0.iter().filter(|ca| ca.subject == certificate.issuer()).any(|ca| {
            RawPublicKeyEntity::try_from(&ca.key.der)
                .and_then(|key| signed.is_by(|algorithm, message, signature| key.verify_signature(algorithm, message, signature)))
                .is_ok()
        })
    }
}

impl Ca {
    fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(der).ok()?;
        let der_key = certificate.subject_public_key_info();
        let key = Key { contents: contents(&der_key).to_vec(), der: der_key };
        Some(Self { subject: certificate.subject().to_vec(), key })
    }
}

/// RFC 5280 §6.3.3(f), for a CA whose certificate nobody has checked yet.
fn may_sign_lists(der: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(der)
        .is_ok_and(|(_, parsed)| parsed.is_ca() && parsed.key_usage().is_ok_and(|usage| usage.is_some_and(|usage| usage.value.crl_sign())))
}

/// Without the tag and length around it.
fn contents(der: &[u8]) -> &[u8] {
    Any::from_der(der).map_or(&[], |(_, any)| any.data)
}

/// A serial number without leading zeros, of which encodings differ.
fn number(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros..]
}

impl DomainLists {
    /// The last moment for which what they say of a good peer holds.
    pub(crate) fn hold_until(&self, now: i64) -> i64 {
        self.lists.next_expiry(now).map_or(i64::MAX, |end| end - 1)
    }

    /// What they say of a path whose signatures are verified.
    pub(crate) fn check(&self, path: &VerifiedPath<'_>, now: i64) -> Result<RevocationStatus, Error> {
        let mut status = RevocationStatus::Good;
        let leaf: &Cert<'_> = path.end_entity();
        let cas: Vec<&Cert<'_>> = path.intermediate_certificates().collect();
        for at in 0..=cas.len() {
            let certificate = if at == 0 { leaf } else { cas[at - 1] };
            let key = cas.get(at).map_or_else(
                || path.anchor().subject_public_key_info.to_vec(),
                |issuer| contents(&issuer.subject_public_key_info()).to_vec(),
            );
            match self.check_one(certificate, at == 0, &key, now) {
                Ok(()) => {}
                Err(Error::CrlExpired { .. }) if self.on_expired == Unsure::Allow => status = RevocationStatus::ExpiredAllowed,
                Err(Error::UnknownRevocationStatus) if self.on_unknown == Unsure::Allow => {
                    if status == RevocationStatus::Good {
                        status = RevocationStatus::UnknownAllowed;
                    }
                }
                Err(error) => return Err(error),
            }
            if self.depth == Depth::Leaf {
                break;
            }
        }
        Ok(status)
    }

    /// Of one certificate, signed with `key`. Who is on a list is refused, also if that has expired.
    fn check_one(&self, certificate: &Cert<'_>, is_leaf: bool, key: &[u8], now: i64) -> Result<(), Error> {
        let asked = self.lists.0.iter().filter(|(list, by)| by.contents == key && list.issuer_name == certificate.issuer());
        let mut until = None;
        for (list, _) in asked {
            if list.revoked.contains(number(certificate.serial())) {
                return Err(Error::CertRevoked);
            }
            if !list.covers(certificate, is_leaf) {
                continue;
            }
            until = until.max(Some(list.next_update));
        }
        match until {
            None => Err(Error::UnknownRevocationStatus),
            Some(until) if until <= now => {
                let at = |time: i64| UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time).unwrap_or(0)));
                Err(Error::CrlExpired { time: at(now), next_update: at(until) })
            }
            Some(_) => Ok(()),
        }
    }
}

impl Revocation {
    /// Why a deny list refuses a peer, if one does.
    #[must_use]
    pub fn denies(&self, id: &SpiffeId, certificate: &CertificateFacts) -> Option<String> {
        let found = self.denied.iter().find(|denied| {
            denied.trust_domain.as_ref().is_none_or(|domain| domain.get() == id.trust_domain())
                && denied.spiffe_id.as_ref().is_none_or(|pattern| pattern.get().matches(id))
                && denied.serial_number.as_ref().is_none_or(|serial| same_number(serial, &certificate.serial))
        })?;
        Some(match &found.reason {
            Some(reason) => format!("a deny list names it: {reason}"),
            None => "a deny list names it".to_owned(),
        })
    }

    /// When the first list that is needed expires: from then on peers may be verified differently.
    #[must_use]
    pub fn next_expiry(&self, now: i64) -> Option<i64> {
        self.domains.values().filter_map(|domain| domain.lists.next_expiry(now)).min()
    }
}

/// Whether two hexadecimal numbers are the same: separators and leading zeros do not count.
fn same_number(written: &str, serial: &str) -> bool {
    let digits = |text: &str| {
        let digits: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
        digits.trim_start_matches('0').to_owned()
    };
    digits(written) == digits(serial)
}

/// The reason for the record, if the error is one of revocation.
pub(crate) fn reason(error: &Error) -> Option<Reason> {
    match error {
        Error::CertRevoked => Some(Reason::CertificateRevoked),
        Error::CrlExpired { .. } => Some(Reason::RevocationListExpired),
        Error::UnknownRevocationStatus => Some(Reason::RevocationUnknown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::same_number;

    #[test]
    fn a_serial_number_may_be_written_as_tools_print_it() {
        for written in ["0A:1B", "a1b", "0x0"] {
            assert_eq!(same_number(written, "a1b"), written != "0x0", "{written}");
        }
    }
}
