//! Sources of X.509-SVIDs and trust bundles, and the material that is current.
//!
//! ```text
//! Workload API --\
//! files ----------+-> SourceState of each -> the first with a valid SVID -> IdentityState -> watch channel
//! ```
//!
//! Each source runs as a task and publishes its state. [`Identity`] takes the first source, in the configured order, that has a valid
//! SVID.
//!
//! ```no_run
//! use sidegate_config::schema::{self, Profile};
//! use sidegate_identity::Identity;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let identity = Identity::start(&schema::Identity::default(), Profile::Production)?;
//! let mut state = identity.subscribe();
//! let state = state.wait_for(|state| state.material.is_some()).await?;
//! for material in &state.material {
//!     println!("{}", material.svid.id);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What it guarantees: a reader never waits; a failing source keeps its last good material, until that expires or is withdrawn; a
//! private key can't be printed, and is erased when it is dropped.
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
