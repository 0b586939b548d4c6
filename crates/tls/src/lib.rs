//! rustls configurations from identity material, verification of peers by the X.509-SVID standard, and the handshake.
//!
//! All TLS input and output sits behind [`Session`]: a handshake goes in, an established session comes out.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod collector;
mod configs;
mod failure;
mod handshake;
mod provider;
mod session;
mod verifier;
pub mod verify;

pub use collector::{CollectorConfig, CollectorError};
pub use configs::{ServerChoice, TlsContext};
pub use failure::{HandshakeFailure, WireError};
pub use handshake::{accept, connect};
pub use session::Session;
pub use verify::{PeerIdentity, Role, TrustStore, VerifyFailure};

pub use rustls::ClientConfig;
pub use rustls::pki_types::ServerName;
