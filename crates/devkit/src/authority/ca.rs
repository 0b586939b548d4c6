//! X.509: a trust domain's certificate authority, and the SVIDs that it signs.

use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationList, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use sidegate_core::{SpiffeId, TrustDomain};
use time::OffsetDateTime;

use super::error::AuthorityError;
use super::fault::Fault;

/// How far an SVID's beginning lies in the past, so that a peer whose clock lags a little takes it.
const BACKDATE: Duration = Duration::from_secs(10);
/// How long ago an expired SVID ended: beyond the leeway that any verifier grants.
const LONG_PAST: Duration = Duration::from_secs(300);
/// Well beyond the longest TTL, which [`check`](super::check) limits.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// From when to when an SVID is valid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) from: OffsetDateTime,
    pub(crate) until: OffsetDateTime,
}

impl Validity {
    /// The validity of what is issued now, honest or as the fault wants it.
    pub(crate) fn of(ttl: Duration, fault: &Fault) -> Validity {
        let now = OffsetDateTime::now_utc();
        match fault {
            Fault::ClockSkew(ahead) => {
                let from = now + (*ahead).min(CA_LIFETIME);
                Validity { from, until: from + ttl }
            }
            Fault::Expired => Validity { from: now - LONG_PAST - ttl, until: now - LONG_PAST },
            _ => Validity { from: now - BACKDATE, until: now + ttl },
        }
    }
}

/// A certificate authority: a self-signed certificate and its key (X509-SVID.md, section 3.2).
pub(crate) struct Ca {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// An X.509-SVID and its key.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) der: Vec<u8>,
    pub(crate) pem: String,
    pub(crate) key_der: Vec<u8>,
    pub(crate) key_pem: String,
}

impl Ca {
    /// A new key and a certificate for it, as section 3.2 and appendix A of X509-SVID.md want them: the SPIFFE ID
    /// of the trust domain without a path, `CA: true`, and the key usage `keyCertSign`.
    pub(crate) fn new(domain: &TrustDomain, number: u64) -> Result<Ca, AuthorityError> {
        let subject = domain.id_string();
        let make = || -> Result<Ca, rcgen::Error> {
            let now = OffsetDateTime::now_utc();
            let mut params = params(&subject, Validity { from: now - BACKDATE, until: now + CA_LIFETIME })?;
            params.distinguished_name.push(DnType::CommonName, format!("{} CA {number}", domain.as_str()));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let key = KeyPair::generate()?;
            let certificate = params.self_signed(&key)?;
            Ok(Ca { certificate, issuer: Issuer::new(params, key) })
        };
        make().map_err(|source| AuthorityError::Certificate { subject: subject.clone(), source })
    }

    /// Signs an X.509-SVID for a new key (X509-SVID.md, section 4 and appendix A): one URI SAN, no CA, the
    /// critical key usage `digitalSignature` and both extended key usages.
    pub(crate) fn issue(&self, id: &SpiffeId, dns_names: &[String], validity: Validity) -> Result<Leaf, AuthorityError> {
        let subject = id.to_string();
        let make = || -> Result<Leaf, rcgen::Error> {
            let mut params = params(&subject, validity)?;
            for name in dns_names {
                params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
            }
            if let Some(name) = dns_names.first() {
                params.distinguished_name.push(DnType::CommonName, name.as_str());
            }
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok(Leaf { der: certificate.der().to_vec(), pem: certificate.pem(), key_der: key.serialize_der(), key_pem: key.serialize_pem() })
        };
        make().map_err(|source| AuthorityError::Certificate { subject: subject.clone(), source })
    }

    /// A revocation list (RFC 5280, section 5) of certificates by their serial numbers, that holds for `valid`.
    pub(crate) fn revocation_list(&self, serials: &[Vec<u8>], valid: Duration) -> Result<CertificateRevocationList, AuthorityError> {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &Vec<u8>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - BACKDATE,
            next_update: now + valid,
            crl_number: SerialNumber::from(u64::try_from(now.unix_timestamp()).unwrap_or(0)),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let subject = "a revocation list".to_owned();
        list.signed_by(&self.issuer).map_err(|source| AuthorityError::Certificate { subject, source })
    }

    pub(crate) fn der(&self) -> &[u8] {
        self.certificate.der()
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }
}

/// What CA and SVID have in common.
fn params(spiffe_id: &str, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = validity.from;
    params.not_after = validity.until;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, sidegate_core::DEVELOPMENT_ORGANIZATION);
    params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into()?)];
    Ok(params)
}
