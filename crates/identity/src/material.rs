//! An SVID with its key, and the trust bundles that verify peers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use sidegate_core::{CertificateFacts, SpiffeId, TrustDomain, parse_canonical, rfc3339};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::names::{foreign_signing_name, uri_names};

/// An X.509-SVID with its private key.
///
/// The key lives inside the TLS library, which erases it when the last user drops it. It can't be printed.
pub struct Svid {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// Chain, leaf first, and key.
    pub certified_key: Arc<CertifiedKey>,
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
    /// The leaf's serial number, hexadecimal.
    pub serial: String,
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Svid({}, serial {})", self.id, self.serial)
    }
}

/// The CA certificates of a trust domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// The certificates that may sign, by the X.509-SVID standard.
    pub authorities: Vec<Authority>,
}

/// One CA certificate of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
}

/// The full state of a source, which is replaced as a whole.
#[derive(Debug)]
pub struct Material {
    /// Our own SVID.
    pub svid: Svid,
    /// Bundles of our own and of federated trust domains.
    pub bundles: BTreeMap<TrustDomain, Bundle>,
    /// CA certificates that were left out of a bundle, and why.
    pub left_out: Vec<String>,
    /// Revocation lists that came with the bundles, each DER, of any trust domain. Their signatures are not verified yet.
    pub lists: Vec<Vec<u8>>,
}

/// Why material can't be used.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// There is no certificate.
    #[error("the SVID has no certificate")]
    NoCertificate,
    /// A certificate can't be parsed.
    #[error("the SVID's certificate can't be parsed: {0}")]
    Malformed(String),
    /// The leaf is no X.509-SVID.
    #[error("the certificate is no X.509-SVID: {0}")]
    NotAnSvid(String),
    /// None of the SVIDs is the configured one.
    #[error("`identity.use` matches none of those offered: {0}")]
    NotOffered(String),
    /// The key can't be used.
    #[error("the SVID's private key can't be used: {0}")]
    Key(String),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate of {0}")]
    KeyMismatch(SpiffeId),
    /// It is not valid now.
    #[error("the SVID {id} {when}; compare this host's clock with the issuer's")]
    NotValidNow {
        /// Whose SVID.
        id: SpiffeId,
        /// `expired at` or `is not valid before`, with the time.
        when: String,
    },
    /// There is no bundle for the SVID's own trust domain.
    #[error("there is no usable trust bundle for the SVID's own trust domain {0}")]
    NoOwnBundle(TrustDomain),
    /// A message or file has too many entries.
    #[error("{what}: {found}, {most} are the most")]
    TooMany {
        /// Entries of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// It comes from the embedded authority.
    #[error("the SVID {0} was issued by sidegate's own development authority, which profile `production` refuses; use a SPIRE agent")]
    DevelopmentAuthority(SpiffeId),
}

/// Certificates of a chain, the leaf's own among them.
const MOST_CHAIN: usize = 16;
/// Trust domains with a bundle.
const MOST_BUNDLES: usize = 1000;
/// CA certificates of all bundles. Each verification of a chain compares the names of all of them.
const MOST_AUTHORITIES: usize = 4000;
/// Reports of CA certificates that were left out.
const MOST_LEFT_OUT: usize = 20;

/// Refuses more than `most` of something.
pub(crate) fn at_most(what: &'static str, found: usize, most: usize) -> Result<(), MaterialError> {
    if found > most { Err(MaterialError::TooMany { what, found, most }) } else { Ok(()) }
}

/// Now, in seconds since the epoch.
#[must_use]
pub fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

impl Svid {
    /// Builds an SVID from its chain and its private key, and checks that they belong together.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<Self, MaterialError> {
        let signer = || rustls::crypto::aws_lc_rs::sign::any_supported_type(key).map_err(|e| MaterialError::Key(e.to_string()));
        Self::build(chain, signer)
    }

    /// Builds an SVID from its chain and what signs with its private key, wherever that is kept. They are checked to belong together
    /// where the signer knows its public key.
    ///
    /// # Errors
    /// As [`Svid::new`].
    pub fn with_signer(chain: Vec<CertificateDer<'static>>, signer: Arc<dyn SigningKey>) -> Result<Self, MaterialError> {
        Self::build(chain, || Ok(signer))
    }

    fn build(
        chain: Vec<CertificateDer<'static>>,
        signer: impl FnOnce() -> Result<Arc<dyn SigningKey>, MaterialError>,
    ) -> Result<Self, MaterialError> {
        let leaf = chain.first().ok_or(MaterialError::NoCertificate)?;
        at_most("certificates of the SVID's chain", chain.len(), MOST_CHAIN)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|e| MaterialError::Malformed(e.to_string()))?;
        let id = only_spiffe_id(&parsed)?;
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let serial = format!("{:x}", parsed.serial);
        let certified_key = Arc::new(CertifiedKey::new(chain, signer()?));
        match certified_key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(MaterialError::KeyMismatch(id)),
        }
        Ok(Self { id, certified_key, not_before, not_after, serial })
    }

    /// The facts that identify its certificate.
    #[must_use]
    pub fn facts(&self) -> CertificateFacts {
        let leaf = self.certified_key.cert.first().map_or(&[][..], |leaf| leaf);
        CertificateFacts::new(leaf, self.serial.clone(), self.not_before, self.not_after)
    }

    /// Whether it is valid at `now`, seconds since the epoch.
    #[must_use]
    pub fn is_valid_at(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// How long until it expires; zero if it has.
    #[must_use]
    pub fn remaining(&self, now: i64) -> Duration {
        Duration::from_secs(u64::try_from(self.not_after.saturating_sub(now)).unwrap_or(0))
    }
}

fn only_spiffe_id(leaf: &X509Certificate<'_>) -> Result<SpiffeId, MaterialError> {
    let not = |why: String| MaterialError::NotAnSvid(why);
    match uri_names(leaf).map_err(not)?.as_slice() {
        [uri] => {
            let id = parse_canonical(uri).map_err(|e| not(format!("`{uri}` is no SPIFFE ID: {e}")))?;
            if id.path().is_empty() { Err(not(format!("`{uri}` has no path"))) } else { Ok(id) }
        }
        [] => Err(not("it has no URI SAN".to_owned())),
        _ => Err(not("it has more than one URI SAN".to_owned())),
    }
}

impl Bundle {
    /// A bundle of those `certificates` that may sign by X509-SVID §4; the others are added to `left_out`.
    #[must_use]
    pub fn new(trust_domain: &TrustDomain, certificates: Vec<CertificateDer<'static>>, left_out: &mut Vec<String>) -> Self {
        let mut bundle = Self::default();
        for der in certificates {
            match authority(trust_domain, der) {
                Ok(authority) => bundle.authorities.push(authority),
                Err(why) if left_out.len() < MOST_LEFT_OUT => left_out.push(format!("bundle of {trust_domain}: {why}")),
                Err(_) => {}
            }
        }
        bundle
    }
}

fn authority(trust_domain: &TrustDomain, der: CertificateDer<'static>) -> Result<Authority, String> {
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| format!("a certificate can't be parsed: {e}"))?;
    let name = parsed.subject().to_string();
    if !parsed.is_ca() {
        return Err(format!("`{name}` is no CA certificate"));
    }
    match parsed.key_usage() {
        Ok(Some(usage)) if !usage.value.key_cert_sign() => return Err(format!("`{name}` lacks key usage keyCertSign")),
        Err(e) => return Err(format!("`{name}` has a broken key usage: {e}")),
        Ok(_) => {}
    }
    if let Some(foreign) = foreign_signing_name(&parsed, trust_domain).map_err(|e| format!("`{name}`: {e}"))? {
        return Err(format!("`{name}` carries `{foreign}`, which is not the ID of the trust domain"));
    }
    // A certificate that the TLS library can't use as an anchor would silently verify no chain.
    rustls::RootCertStore::empty().add(der.clone()).map_err(|e| format!("`{name}` can't be a trust anchor: {e}"))?;
    let (not_before, not_after) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    Ok(Authority { der, not_before, not_after })
}

impl Material {
    /// Builds material that may be used now.
    ///
    /// # Errors
    /// Why it may not be used.
    pub fn new(
        svid: Svid,
        mut bundles: BTreeMap<TrustDomain, Bundle>,
        mut left_out: Vec<String>,
        refuse_development: bool,
    ) -> Result<Self, MaterialError> {
        at_most("trust bundles", bundles.len(), MOST_BUNDLES)?;
        at_most("CA certificates of all bundles", bundles.values().map(|bundle| bundle.authorities.len()).sum(), MOST_AUTHORITIES)?;
        let now = unix_now();
        if !svid.is_valid_at(now) {
            // The text has no age in it: it stays the same, so that one refusal is reported once.
            let at = |time| rfc3339(time).unwrap_or_else(|| "a time that no clock shows".to_owned());
            let when = if now < svid.not_before {
                format!("is not valid before {}", at(svid.not_before))
            } else {
                format!("expired at {}", at(svid.not_after))
            };
            return Err(MaterialError::NotValidNow { id: svid.id, when });
        }
        let own = svid.id.trust_domain();
        if bundles.get(own).is_none_or(|b| b.authorities.is_empty()) {
            return Err(MaterialError::NoOwnBundle(own.clone()));
        }
        if refuse_development {
            if svid.certified_key.cert.iter().any(is_of_development_authority) {
                return Err(MaterialError::DevelopmentAuthority(svid.id));
            }
            for (trust_domain, bundle) in &mut bundles {
                let before = bundle.authorities.len();
                bundle.authorities.retain(|authority| !is_of_development_authority(&authority.der));
                if bundle.authorities.len() < before {
                    left_out.push(format!(
                        "bundle of {trust_domain}: sidegate's own development authority, which profile `production` refuses"
                    ));
                }
            }
        }
        Ok(Self { svid, bundles, left_out, lists: Vec::new() })
    }
}

impl Material {
    /// Whether `other` has the same SVID, bundles and revocation lists.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.svid.certified_key.cert == other.svid.certified_key.cert && self.bundles == other.bundles && self.lists == other.lists
    }
}

fn is_of_development_authority(der: &CertificateDer<'static>) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, cert)| {
        cert.issuer().iter_organization().any(|o| o.as_str().is_ok_and(|o| o == sidegate_core::DEVELOPMENT_ORGANIZATION))
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, KeyUsagePurpose, SanType};
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::{SignatureAlgorithm, SignatureScheme, sign::Signer};

    use super::*;

    /// A key that is somewhere else: it signs, and shows nothing of itself, not even its public key.
    #[derive(Debug)]
    struct Remote(Arc<dyn SigningKey>);

    impl SigningKey for Remote {
        fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
            self.0.choose_scheme(offered)
        }

        fn algorithm(&self) -> SignatureAlgorithm {
            self.0.algorithm()
        }
    }

    #[test]
    fn a_key_may_be_somewhere_else() {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://a.b/web".try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let [key, other] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let leaf = params.self_signed(&key).unwrap().der().clone();
        let signer = |key: &KeyPair| {
            let der = PrivatePkcs8KeyDer::from(key.serialize_der());
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&der.into()).unwrap()
        };
        let svid = Svid::with_signer(vec![leaf.clone()], Arc::new(Remote(signer(&key)))).unwrap();
        assert_eq!(svid.id.to_string(), "spiffe://a.b/web");
        assert!(svid.certified_key.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_some());
        assert!(matches!(Svid::with_signer(vec![leaf], signer(&other)), Err(MaterialError::KeyMismatch(_))));
    }
}
