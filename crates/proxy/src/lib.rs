//! The data plane: capture, detect, handshake, authorize, dial, relay, close.
//!
//! Each worker is a thread with a runtime and listeners of its own ([`Workers`]). Beside them stands one immutable
//! [`Snapshot`](sidegate_control::Snapshot), which a connection loads once; to publish a new one never makes a connection wait.
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
