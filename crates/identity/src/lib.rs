//! Sources of X.509-SVIDs and trust bundles, and the material that is current.
//!
//! Each source runs as a task and publishes its state; [`Identity`] takes the first source, in the configured order,
//! that has a valid SVID. Whoever reads never waits: the state is a `watch` channel.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod files;
mod manager;
mod material;
mod names;
mod source;
mod workload_api;
mod workload_message;

pub use manager::{Identity, IdentityError, IdentityState};
pub use material::{Authority, Bundle, Material, MaterialError, Svid, unix_now};
pub use names::{foreign_signing_name, uri_names};
pub use source::SourceStatus;
