//! What identifies a certificate.

use schemars::JsonSchema;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::id::{LOWER, UPPER, hex_digits, text};
use crate::printable;

/// Identifies a certificate without its content.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub struct CertificateFacts {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// SHA-256 of its DER, hexadecimal.
    #[schemars(with = "String")]
    pub sha256: [u8; 32],
    // Written as RFC 3339, though kept in seconds since the epoch.
    /// Since when it is valid; null for a time before 1970.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub not_before: i64,
    /// Until when it is valid.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub not_after: i64,
    /// Both as text: a certificate stands in many records.
    #[schemars(skip)]
    validity: [Option<Box<str>>; 2],
}

impl Serialize for CertificateFacts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut facts = serializer.serialize_struct("CertificateFacts", 4)?;
        facts.serialize_field("serial", &self.serial)?;
        facts.serialize_field("sha256", text(&hex_digits::<64>(&self.sha256, LOWER)))?;
        facts.serialize_field("notBefore", &self.not_before())?;
        facts.serialize_field("notAfter", &self.not_after())?;
        facts.end()
    }
}

impl CertificateFacts {
    /// The facts of the certificate `der`.
    #[must_use]
    pub fn new(der: &[u8], serial: String, not_before: i64, not_after: i64) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref());
        let validity = [not_before, not_after].map(|time| printable::rfc3339(time).map(String::into_boxed_str));
        Self { serial, sha256, not_before, not_after, validity }
    }

    /// Since when it is valid as RFC 3339; none for a time that no clock shows.
    #[must_use]
    pub fn not_before(&self) -> Option<&str> {
        self.validity[0].as_deref()
    }

    /// Until when it is valid as RFC 3339; none for a time that no clock shows.
    #[must_use]
    pub fn not_after(&self) -> Option<&str> {
        self.validity[1].as_deref()
    }

    /// The digest in hexadecimal, as everywhere but in OpenTelemetry's attributes.
    #[must_use]
    pub fn sha256(&self) -> String {
        text(&hex_digits::<64>(&self.sha256, LOWER)).to_owned()
    }

    /// The digest in upper-case hexadecimal, as OpenTelemetry's `tls.*.hash.sha256` wants it.
    #[must_use]
    pub fn sha256_upper(&self) -> String {
        text(&hex_digits::<64>(&self.sha256, UPPER)).to_owned()
    }
}
