//! The URI names in a certificate's subject alternative name.

use sidegate_core::{TrustDomain, parse_canonical};
use x509_parser::prelude::{GeneralName, X509Certificate};

/// RFC 5280 §4.2.1.6: uniformResourceIdentifier [6].
const URI_TAG: u32 = 6;

/// Every URI SAN, including those that are not text: X509-SVID §2 counts them all.
///
/// # Errors
/// If the extension can't be parsed.
pub fn uri_names(cert: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let san = cert.subject_alternative_name().map_err(|e| format!("its subject alternative name can't be parsed: {e}"))?;
    let names = san.iter().flat_map(|san| &san.value.general_names);
    Ok(names
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            GeneralName::Invalid(tag, bytes) if tag.0 == URI_TAG => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        })
        .collect())
}

/// The first SPIFFE name that a CA of `domain` may not carry: X509-SVID §4.1 allows the ID of its own trust domain
/// without a path. The scheme matches in any case, so that an odd spelling does not bypass the check.
///
/// # Errors
/// If the names can't be parsed.
pub fn foreign_signing_name(cert: &X509Certificate<'_>, domain: &TrustDomain) -> Result<Option<String>, String> {
    let is_spiffe = |uri: &String| uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"));
    let is_own = |uri: &String| parse_canonical(uri).is_ok_and(|id| id.trust_domain() == domain && id.path().is_empty());
    Ok(uri_names(cert)?.into_iter().find(|uri| is_spiffe(uri) && !is_own(uri)))
}
