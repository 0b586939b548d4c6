//! TLS between workloads: configurations made of an identity, verification of peers by the X.509-SVID standard, the handshake, and the
//! session that follows it. Also TLS towards collectors.
//!
//! ```text
//! Material (SVID, bundles) -> TlsContext -+-> ServerChoice -> accept(socket)  -+-> Session -> the relay
//! revocation lists ----------^            `-> ClientChoice -> connect(socket) -'   peer, facts; seals and opens records
//!                                                 |
//!                                     verify: leaf, path, budget of work, revocation
//! ```
//!
//! rustls does the handshake and the key schedule. A [`Session`] seals and opens records itself, where they lie, and owns no socket,
//! so that a relay can watch both of its sockets. [`CollectorConfig`] makes ordinary TLS configurations for collectors.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use sidegate_tls::{Role, TrustStore, verify_cached};
//!
//! // Nobody is trusted, and this is no certificate: the leaf's own rules say so before any path is looked for.
//! let trust = TrustStore::of(&BTreeMap::new());
//! let failure = verify_cached(&b"no certificate".to_vec().into(), &[], Role::Client, &trust, 0).unwrap_err();
//! println!("{}: {}", failure.reason, failure.detail);
//! ```
//!
//! A connection goes like this:
//!
//! ```no_run
//! use sidegate_identity::Material;
//! use sidegate_tls::{TlsContext, accept};
//!
//! # async fn example(material: &Material, socket: tokio::net::TcpStream) -> Result<(), Box<dyn std::error::Error>> {
//! let context = TlsContext::new(material)?;
//! match accept(&socket, b"", &context.server(&[])).await {
//!     Ok(session) => println!("{} is at the other end", session.peer.id),
//!     Err(failure) => println!("refused: {failure:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What it guarantees: a [`Session`] exists only with a verified peer, also where it was resumed; it is TLS 1.3; a peer's chain is
//! bounded in length, size and the time that its signatures take; every failure has a [`Reason`](sidegate_core::Reason), and the peer gets
//! the alert that tells it most; no session goes on behind a record that did not open.
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
