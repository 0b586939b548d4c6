//! The directory says who is expected to answer at an address of the cluster. The controller makes it, a sidecar asks it; this crate
//! has what they say to each other: an [`Entry`] for each IP address, as a resource of delta xDS.
//!
//! ```text
//! controller: Entry -> encode -> Resource of xDS ---- mutual TLS ----> decode -> Entry : sidecar
//! ```
//!
//! ```
//! use sidegate_core::SpiffeId;
//! use sidegate_directory::Entry;
//!
//! let entry = Entry::Workload { name: "shop/web".into(), id: SpiffeId::new("spiffe://prod.example/ns/shop/sa/web")? };
//! let resource = entry.to_resource([10, 0, 0, 1].into());
//! assert_eq!(resource.name, "10.0.0.1");
//! assert_eq!(Entry::of_resource(&resource)?, entry);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it guarantees: equal entries have equal versions, no matter who encodes them; what a peer sends is an [`Entry`] whose SPIFFE IDs are
//! canonical and whose ports and addresses are real, or an error that says what is wrong.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod codec;
mod entry;

/// The delta variant of xDS, as far as it is used here.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]
pub mod xds {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// What an entry is on the wire.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("sidegate.directory.v1");
}

pub use entry::{Entry, Invalid, ServicePort, TYPE_URL, Unidentified};
