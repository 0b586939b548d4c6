//! Who is not to be trusted any more, although its certificate is valid: revocation lists (RFC 5280 §5) and deny lists.

use std::collections::BTreeMap;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use sidegate_config::schema::{Denied, Depth, Unsure};
use sidegate_core::{CertificateFacts, Reason, RevocationStatus, SpiffeId, TrustDomain, printable};
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::work;

/// Everything that is known of revocation at one time.
#[derive(Debug, Default)]
pub struct Revocation {
    /// Lists of the trust domains that have them.
    pub domains: BTreeMap<TrustDomain, DomainLists>,
    /// Entries of the deny lists.
    pub denied: Vec<Denied>,
}

/// The lists of one trust domain.
#[derive(Debug)]
pub struct DomainLists {
    /// The lists, the newest first, for of several by one issuer only the first is asked; none if none could be had.
    pub lists: Vec<List>,
    /// How much of a chain is looked up.
    pub depth: Depth,
    /// What becomes of a peer of whom no list says anything.
    pub on_unknown: Unsure,
    /// What becomes of a peer whose list has expired.
    pub on_expired: Unsure,
}

/// One revocation list. Its signature is checked with each chain that it is asked for.
#[derive(Debug)]
pub struct List {
    list: CertRevocationList<'static>,
    /// When it was made, in seconds since the epoch.
    pub this_update: i64,
    /// When the next one is due.
    pub next_update: i64,
    /// The issuer's name, for people.
    pub issuer: String,
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
}

impl List {
    /// The lists in `text`, PEM or DER.
    ///
    /// # Errors
    /// The first that can't be read.
    pub fn read(text: &[u8]) -> Result<Vec<Self>, ListError> {
        let unreadable = |e: String| ListError::Unreadable(printable(&e));
        if !text.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Ok(vec![Self::parse(text)?]);
        }
        let found: Vec<_> = CertificateRevocationListDer::pem_slice_iter(text)
            .map(|der| Self::parse(&der.map_err(|e| unreadable(e.to_string()))?))
            .collect::<Result<_, _>>()?;
        if found.is_empty() { Err(unreadable("it has other sections only".to_owned())) } else { Ok(found) }
    }

    fn parse(der: &[u8]) -> Result<Self, ListError> {
        let unreadable = |e: String| ListError::Unreadable(printable(&e));
        let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|e| unreadable(e.to_string()))?;
        let issuer = printable(&parsed.issuer().to_string());
        let next_update = parsed.next_update().ok_or_else(|| ListError::Endless(issuer.clone()))?.timestamp();
        let list = OwnedCertRevocationList::from_der(der).map_err(|e| unreadable(e.to_string()))?.into();
        Ok(Self { list, this_update: parsed.last_update().timestamp(), next_update, issuer })
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

    /// When the first list that is needed expires: from then on peers may be judged differently.
    #[must_use]
    pub fn next_expiry(&self, now: i64) -> Option<i64> {
        self.domains.values().flat_map(|domain| &domain.lists).map(|list| list.next_update).filter(|end| *end > now).min()
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

/// What a chain is looked up with, beside what webpki wants in any case.
pub(crate) struct Lookup<'a> {
    pub(crate) cert: &'a EndEntityCert<'a>,
    pub(crate) anchors: &'a [TrustAnchor<'a>],
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    pub(crate) time: UnixTime,
    pub(crate) usage: KeyUsage,
    pub(crate) keeps_rules: &'a dyn Fn(&VerifiedPath<'_>) -> Result<(), Error>,
}

impl Lookup<'_> {
    /// Verifies the path, and of a trust domain that has lists whether it is revoked.
    pub(crate) fn run(&self, lists: Option<&DomainLists>) -> Result<RevocationStatus, Error> {
        let Some(domain) = lists else {
            return self.verify(None).map(|()| RevocationStatus::NotChecked);
        };
        let lists: Vec<&CertRevocationList<'_>> = domain.lists.iter().map(|list| &list.list).collect();
        let Ok(strict) = RevocationOptionsBuilder::new(&lists) else {
            // None could be had.
            self.verify(None)?;
            return match domain.on_unknown {
                Unsure::Reject => Err(Error::UnknownRevocationStatus),
                Unsure::Allow => Ok(RevocationStatus::UnknownAllowed),
            };
        };
        let depth = match domain.depth {
            Depth::Chain => RevocationCheckDepth::Chain,
            Depth::Leaf => RevocationCheckDepth::EndEntity,
        };
        let strict = strict.with_depth(depth).with_expiration_policy(ExpirationPolicy::Enforce);
        let error = match self.verify(Some(strict.build())) {
            Ok(()) => return Ok(RevocationStatus::Good),
            Err(error) => error,
        };
        // Only what is unsure may be overlooked: who is on a list stays refused, also by an expired one.
        let (expired, unknown) = (matches!(error, Error::CrlExpired { .. }), matches!(error, Error::UnknownRevocationStatus));
        if !(expired && domain.on_expired == Unsure::Allow || unknown && domain.on_unknown == Unsure::Allow) {
            return Err(error);
        }
        let Ok(mild) = RevocationOptionsBuilder::new(&lists) else { return Err(error) };
        let mut mild = mild.with_depth(depth);
        if domain.on_unknown == Unsure::Allow {
            mild = mild.with_status_policy(UnknownStatusPolicy::Allow);
        }
        if domain.on_expired == Unsure::Reject {
            mild = mild.with_expiration_policy(ExpirationPolicy::Enforce);
        }
        self.verify(Some(mild.build()))?;
        Ok(if expired { RevocationStatus::ExpiredAllowed } else { RevocationStatus::UnknownAllowed })
    }

    fn verify(&self, revocation: Option<RevocationOptions<'_>>) -> Result<(), Error> {
        self.cert
            .verify_for_usage(
                work::algorithms(),
                self.anchors,
                self.intermediates,
                self.time,
                self.usage,
                revocation,
                Some(self.keeps_rules),
            )
            .map(drop)
    }
}

/// The reason for the record, if the error is one of revocation.
pub(crate) fn reason(error: &Error) -> Option<Reason> {
    match error {
        Error::CertRevoked => Some(Reason::CertificateRevoked),
        Error::CrlExpired { .. } => Some(Reason::RevocationListExpired),
        Error::UnknownRevocationStatus
        | Error::InvalidCrlSignatureForPublicKey
        | Error::IssuerNotCrlSigner
        | Error::UnsupportedCrlSignatureAlgorithmContext(_)
        | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => Some(Reason::RevocationUnknown),
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
