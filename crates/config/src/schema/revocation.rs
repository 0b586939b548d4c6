//! Who is not to be trusted any more, although its certificate is valid.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::path_use::FilePath;
use crate::value::{Domain, IdPattern, Span, Url};

/// Who is not to be trusted any more, although its certificate is valid.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Revocation {
    /// Certificate revocation lists (RFC 5280 §5), for the trust domains that have them. Peers of others are not checked, and
    /// their records say so.
    pub trust_domains: Vec<RevocationLists>,
    /// Files that name denied peers, read again when they change; see `sidegate schema deny-list`.
    #[schemars(with = "Vec<FilePath>")]
    pub deny_lists: Vec<PathBuf>,
}

/// The revocation lists of one trust domain.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevocationLists {
    /// Whose they are.
    pub trust_domain: Domain,
    /// Lists in files, PEM or DER, watched. In PEM also the certificates of intermediate CAs that have signed lists.
    #[serde(default)]
    #[schemars(with = "Vec<FilePath>")]
    pub files: Vec<PathBuf>,
    /// Lists at `http://` or `https://`, PEM or DER, fetched again before they expire. A list is signed, so that plain HTTP
    /// is usual.
    #[serde(default)]
    pub urls: Vec<Url>,
    /// How often URLs are fetched; sooner where a list expires before. Default 1h.
    #[serde(default)]
    pub refresh: Refresh,
    /// How much of a chain is looked up. Default: all of it.
    #[serde(default)]
    pub depth: Depth,
    /// What becomes of a peer of whose certificate no list says anything. Default: reject. A list that no CA of the bundle has signed is
    /// none.
    #[serde(default)]
    pub on_unknown: Unsure,
    /// What becomes of a peer whose list has expired. Default: reject. Who is on the list is rejected in any case.
    #[serde(default)]
    pub on_expired: Unsure,
}

/// How often; default 1 hour.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Refresh(pub Span);

impl Default for Refresh {
    fn default() -> Self {
        Self(Span::seconds(3600))
    }
}

/// How much of a chain is looked up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Every certificate below the trust anchor.
    #[default]
    Chain,
    /// The peer's own only.
    Leaf,
}

/// What becomes of a peer that may be revoked or not, for no list says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unsure {
    /// It is refused.
    #[default]
    Reject,
    /// It is admitted, which its record says and a metric counts.
    Allow,
}

/// A file that names denied peers.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DenyList {
    /// The SPIFFE IDs and certificates to deny, whatever policy says.
    #[schemars(length(max = 100_000))]
    pub denied: Vec<Denied>,
}

/// Who is denied: by `spiffeId`, by `serialNumber`, or where both are the same certificate's.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Denied {
    /// A SPIFFE ID, or a pattern.
    pub spiffe_id: Option<IdPattern>,
    /// The serial number of a peer's certificate, in hexadecimal as `openssl x509 -serial` prints it.
    pub serial_number: Option<String>,
    /// The trust domain whose certificate has that number, since numbers are unique within an issuer only. Default: any.
    pub trust_domain: Option<Domain>,
    /// Why, for the records of those who are refused.
    pub reason: Option<String>,
}
