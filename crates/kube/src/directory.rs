//! The directory: who is expected to answer at each address of the cluster.
//!
//! ```text
//! API server -- watch.rs --> objects.rs --> Cluster (cluster.rs): addresses -> Entry
//!                                              | addresses that have changed
//!                                              v
//! sidecars <-- delta xDS, mutual TLS -- server.rs <-- Subscriptions (subscriptions.rs): who has asked for which address
//! ```
//!
//! It is served as soon as the first list of everything is there, never before: what is not known yet must not look as if it were
//! not there. An API server that is gone changes nothing in what is served.

mod cluster;
mod objects;
mod server;
mod sources;
mod subscriptions;
mod template;
mod watch;

pub use cluster::{Cluster, Kind, Object, Pod, Service, Slice, SliceEndpoint};
pub use objects::{pod, service, slice};
pub use server::{DirectoryError, DirectoryServer};
pub use subscriptions::{Stream, Subscriptions};
pub use template::SpiffeIdTemplate;
pub use watch::watch_cluster;
