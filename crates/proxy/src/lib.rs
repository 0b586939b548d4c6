//! The data plane: a connection's way from accept to close.
//!
//! ```text
//! inbound:  accept > original destination > (detect) > handshake + verify > authorize > dial app > relay > close
//! outbound: accept > original destination > match destination > dial > handshake + verify > authorize > relay > close
//!           |______________________________ attempt: registers it, may cut it, hands over one record ____________________|
//! ```
//!
//! Each worker is a thread with a runtime and listeners of its own ([`Workers`], [`Listeners`]). A connection loads the immutable
//! [`Snapshot`](sidegate_control::Snapshot) once and is verified and authorized by it; publishing a new one never makes a connection
//! wait. [`Shared`] is what all workers have: the registry of open connections, the limits, the phase of the process. [`reevaluate()`] ends
//! what a change no longer allows, [`prove_capture()`] finds out whether the kernel sends the traffic here.
//!
//! [`ask`] says in advance what becomes of a connection, by the functions that the data path calls:
//!
//! ```
//! use std::time::SystemTime;
//!
//! use sidegate_config::schema::Profile;
//! use sidegate_control::Settings;
//! use sidegate_core::{Direction, SpiffeId};
//! use sidegate_policy::{KnownFacts, Policy, Query};
//! use sidegate_proxy::{Asked, ask};
//!
//! let config = sidegate_config::parse("sidegate.yaml", "inbound: { listen: '[::]:15006' }")?;
//! let rules = "rules: [{ name: web, action: allow, from: { spiffeIds: ['spiffe://a.b/web'] }, to: { ports: [8080] } }]";
//! let policy = Policy::parse(&[("policy.yaml".to_owned(), rules.to_owned())], Profile::Production)?;
//!
//! let web = SpiffeId::new("spiffe://a.b/web")?;
//! let decision = |client, port| {
//!     let (direction, client_address, to) = (Direction::Inbound, [10, 0, 0, 1].into(), ([10, 0, 0, 2], port).into());
//!     let query = Query { client, ..Query::new(KnownFacts { direction, client_address, to, time: SystemTime::now() }) };
//!     let asked = Asked { query, by_listener: false, names: &[] };
//!     ask(&Settings::new(&config), &policy, &asked).ok().and_then(|course| course.decision)
//! };
//! assert!(decision(Some(&web), 8080).is_some_and(|decision| decision.allowed));
//! assert!(decision(Some(&web), 22).is_some_and(|decision| !decision.allowed));
//! // Without an identity nobody passes a strict port.
//! assert!(decision(None, 8080).is_some_and(|decision| !decision.allowed));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it guarantees: on a protected connection no application byte passes before the peer is verified and authorized; each connection leaves exactly one record,
//! also after a panic, which costs only that connection; a socket is reset unless both directions ended in order, so that what was cut
//! never looks like a clean end; connections, handshakes, buffers and the time of every step are bounded; nothing on a worker waits for
//! the control plane, the audit log or an exporter.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod attempt;
mod authorize;
mod by_source;
mod capture;
mod connection;
mod copy;
mod course;
mod destination;
mod detect;
mod dial;
mod failure;
mod handshake;
mod handshake_cache;
mod handshake_permit;
mod idle_permit;
mod inbound;
mod limits;
mod listener;
mod memory;
mod outbound;
mod own_dials;
mod peer_channel;
#[cfg_attr(not(test), expect(dead_code, reason = "for protocols that parse what they carry; so far all is opaque TCP"))]
mod peer_stream;
mod permit_queue;
mod prove_capture;
mod reevaluate;
mod registry;
mod relay;
mod shared;
#[cfg(test)]
mod sizes;
mod spin;
mod tunnel_pool;
mod tunnel_server;
mod unidentified;
mod workers;

pub use capture::Capture;
pub use course::{Asked, Course, Elsewhere, Meets, ask};
pub use limits::{TooFewDescriptors, check_descriptors, raise_descriptor_limit};
pub use listener::{BindError, Listeners};
pub use prove_capture::prove_capture;
pub use reevaluate::reevaluate;
pub use registry::{Admission, ConnectionHandle, Registry};
pub use shared::{Phase, Readiness, Shared};
pub use workers::{Workers, cpu_quota};
