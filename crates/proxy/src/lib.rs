//! The data plane: capture, detect, handshake, authorize, dial, relay, close.
//!
//! Each worker is a thread with a runtime and listeners of its own ([`Workers`]). Beside them stands one immutable
//! [`Snapshot`], which a connection loads once; whoever publishes a new one never makes a connection wait.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod attempt;
mod authorize;
mod by_source;
mod capture;
mod clients;
mod copy;
mod course;
mod detect;
mod dial;
mod fetch;
mod handshake;
mod inbound;
mod limits;
mod listener;
mod loads;
mod memory;
mod original_destination;
mod outbound;
mod own_dials;
mod places;
mod poll;
mod prove_capture;
mod publisher;
mod registry;
mod rejudge;
mod relay;
mod resolver;
mod revocation;
mod secure;
mod settings;
mod shared;
#[cfg(test)]
mod sizes;
mod snapshot;
mod socket;
mod strangers;
mod tunnel;
mod workers;

pub use capture::Capture;
pub use course::{Asked, Course, Elsewhere, Meets};
pub use limits::{TooFewDescriptors, check_descriptors, raise_descriptor_limit};
pub use listener::{BindError, Listeners};
pub use loads::{Load, Loads, Refusal, Subject};
pub use prove_capture::prove_capture;
pub use publisher::{PolicyError, PolicySource, Publisher};
pub use registry::{Admission, Live, Registry};
pub use revocation::{RevocationError, RevocationSource};
pub use settings::Settings;
pub use shared::{Phase, Shared};
pub use snapshot::{Readiness, Snapshot};
pub use workers::{Workers, cpu_quota};
