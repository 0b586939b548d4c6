//! The operator's door: HTTP probes and the metrics scrape, and the admin API on a Unix socket.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod api;
mod client;
mod drain;
mod http;
mod negotiate;
mod scrape;
mod socket;

pub use api::Controls;
pub use client::{ClientError, connect};
pub use drain::DrainState;
pub use http::{AdminError, ProbeServer};
pub use socket::{AdminSocket, SocketError};

/// The admin API as generated from `proto/sidegate/admin/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("sidegate.admin.v1");
}
