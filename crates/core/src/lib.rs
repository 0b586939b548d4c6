//! What every room of sidegate shares: SPIFFE names, the [`ConnectionRecord`] that each connection
//! leaves behind, and the closed list of [`Reason`]s why a connection ended.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod address;
pub mod event;
mod id;
mod printable;
mod reason;
mod record;
mod secret;
mod spiffe_id;

pub use address::AddressText;
pub use id::{ConnectionId, SpanId};
pub use printable::{
    counted, duration, innermost, is_control_or_bidi, long, one_line, printable, printable_json, rfc3339, without_controls,
};
pub use reason::{Party, Reason, Stage};
pub use record::{
    CertificateFacts, ConnectionRecord, Decision, Direction, Explanation, HandshakeFacts, Lap, NearestRule, Remark, RevocationStatus, Says,
    Stages, Transport, TunnelUse,
};
pub use secret::Secret;
pub use spiffe_id::{PatternError, Segment, SpiffeId, SpiffeIdError, SpiffeIdPattern, TrustDomain, parse_canonical};

/// Organization name in the certificates of the embedded authority, by which a production profile knows and refuses it.
pub const DEVELOPMENT_ORGANIZATION: &str = "sidegate development authority";
