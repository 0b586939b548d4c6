//! Who the other end of a connection is.

use std::borrow::Cow;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

use crate::certificate::CertificateFacts;

/// Whether a peer's chain was looked up in revocation lists, and with which result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevocationStatus {
    /// Its trust domain has no lists.
    NotChecked,
    /// No list revokes it.
    Good,
    /// No list covers it, and the configuration allows that.
    UnknownAllowed,
    /// A list that covers it has expired, and the configuration allows that.
    ExpiredAllowed,
}

impl RevocationStatus {
    /// The stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotChecked => "not_checked",
            Self::Good => "good",
            Self::UnknownAllowed => "unknown_allowed",
            Self::ExpiredAllowed => "expired_allowed",
        }
    }
}

/// Who the other end of a connection is, as far as that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Peer {
    /// It has presented nothing: there was no handshake, or it has not come so far.
    #[default]
    Unknown,
    /// A workload that has proved its SPIFFE ID by an X.509-SVID.
    Spiffe {
        /// Its SPIFFE ID, verified.
        id: Arc<str>,
        /// The certificate that it has presented.
        certificate: Arc<CertificateFacts>,
        /// Whether its chain was looked up in revocation lists.
        revocation: RevocationStatus,
    },
    /// A peer that could not be verified.
    Unverified {
        /// What it claimed to be. Never to be trusted.
        claimed_id: Option<String>,
        /// The certificate that it has presented, if it could be read.
        certificate: Option<Arc<CertificateFacts>>,
    },
}

impl Peer {
    /// A peer that could not be verified; [`Peer::Unknown`] if it has presented nothing.
    #[must_use]
    pub fn unverified(claimed_id: Option<String>, certificate: Option<Arc<CertificateFacts>>) -> Self {
        match (&claimed_id, &certificate) {
            (None, None) => Self::Unknown,
            _ => Self::Unverified { claimed_id, certificate },
        }
    }

    /// Its SPIFFE ID, verified.
    #[must_use]
    pub fn id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Spiffe { id, .. } => Some(id),
            Self::Unknown | Self::Unverified { .. } => None,
        }
    }

    /// What a peer that could not be verified claimed to be. Never to be trusted.
    #[must_use]
    pub fn claimed_id(&self) -> Option<&str> {
        match self {
            Self::Unverified { claimed_id, .. } => claimed_id.as_deref(),
            Self::Unknown | Self::Spiffe { .. } => None,
        }
    }

    /// The certificate that it has presented, whether it was accepted or not.
    #[must_use]
    pub fn certificate(&self) -> Option<&Arc<CertificateFacts>> {
        match self {
            Self::Spiffe { certificate, .. } => Some(certificate),
            Self::Unverified { certificate, .. } => certificate.as_ref(),
            Self::Unknown => None,
        }
    }

    /// Whether its chain was looked up in revocation lists.
    #[must_use]
    pub fn revocation(&self) -> Option<RevocationStatus> {
        match self {
            Self::Spiffe { revocation, .. } => Some(*revocation),
            Self::Unknown | Self::Unverified { .. } => None,
        }
    }
}

/// A peer as records write it: a key that does not apply is left out.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    /// The peer's SPIFFE ID, verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_id: Option<&'a str>,
    /// What a peer that could not be verified claimed to be. Never to be trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_id: Option<&'a str>,
    /// The certificate that the peer presented, whether it was accepted or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_certificate: Option<&'a CertificateFacts>,
    /// Whether the peer's chain was looked up in revocation lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation: Option<RevocationStatus>,
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = Fields {
            peer_id: self.id().map(|id| &**id),
            claimed_id: self.claimed_id(),
            peer_certificate: self.certificate().map(|certificate| &**certificate),
            revocation: self.revocation(),
        };
        fields.serialize(serializer)
    }
}

impl JsonSchema for Peer {
    fn schema_name() -> Cow<'static, str> {
        "Peer".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Fields::json_schema(generator)
    }
}
