//! The types that all crates of sidegate share.
//!
//! - SPIFFE names: [`SpiffeId`], [`TrustDomain`] and [`SpiffeIdPattern`], a set of IDs.
//! - [`ConnectionRecord`]: the one record that every connection leaves behind, with its [`Reason`] from a closed list.
//! - [`event`]: the names of all events. [`Secret`]: a text that is never shown.
//!
//! ```
//! use sidegate_core::{SpiffeId, SpiffeIdPattern};
//!
//! let web = SpiffeIdPattern::parse("spiffe://prod.example/ns/*/sa/web")?;
//! assert!(web.matches(&SpiffeId::new("spiffe://prod.example/ns/shop/sa/web").unwrap()));
//! assert!(!web.matches(&SpiffeId::new("spiffe://other.example/ns/shop/sa/web").unwrap()));
//! # Ok::<(), sidegate_core::PatternError>(())
//! ```
//!
//! What it guarantees: the crate does no input or output; a pattern never matches an ID of another trust domain; a secret is erased
//! when it is dropped.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod address;
mod certificate;
mod endpoint;
pub mod event;
mod fit;
mod id;
mod peer;
mod printable;
mod reason;
mod record;
mod secret;
mod spiffe_id;

pub use address::AddressText;
pub use certificate::CertificateFacts;
pub use endpoint::{ClientAddr, DialAddr, OriginalDst, ReachedAt};
pub use fit::{folded, wrapped};
pub use id::{ConnectionId, SpanId};
pub use peer::{Peer, RevocationStatus};
pub use printable::{
    counted, duration, innermost, is_control_or_bidi, long, one_line, printable, printable_json, rfc3339, without_controls,
};
pub use reason::{Party, Reason, Stage};
pub use record::{
    ConnectionRecord, Decision, Direction, Explanation, HandshakeFacts, Lap, NearestRule, Remark, Says, Stages, Transport, TunnelUse,
};
pub use secret::{REDACTED, Secret};
pub use spiffe_id::{PatternError, Segment, SpiffeId, SpiffeIdError, SpiffeIdPattern, TrustDomain, parse_canonical};

/// Organization name in the certificates of the embedded authority, by which a production profile knows and refuses it.
pub const DEVELOPMENT_ORGANIZATION: &str = "sidegate development authority";
