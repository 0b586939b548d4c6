//! rustls configurations from identity material, verification of peers by the X.509-SVID standard, and the handshake.
//!
//! All TLS input and output sits behind [`Session`]: a handshake goes in, an established session comes out.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod collector;
mod configs;
mod failure;
mod handshake;
mod path;
mod peer_auth;
mod provider;
mod record;
pub mod revocation;
mod session;
mod tickets;
mod verifier;
pub mod verify;
mod verify_cache;
mod work;

pub use collector::{CollectorConfig, CollectorError, certificates};
pub use configs::{ClientChoice, ServerChoice, TUNNEL, TlsContext};
pub use failure::{HandshakeFailure, WireError};
pub use handshake::{accept, connect};
pub use peer_auth::PeerAuth;
pub use session::{Filled, Prefix, SealError, Session};
pub use verify::{PeerIdentity, Role, TrustStore, VerifyFailure};
pub use verify_cache::{verify_again, verify_cached};

pub use rustls::ClientConfig;
pub use rustls::pki_types::ServerName;
