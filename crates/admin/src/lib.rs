//! The operator's door: HTTP probes, the metrics scrape and the status page, the admin API on a Unix socket, and what a service manager is told.
//!
//! ```text
//! kubelet, Prometheus -- HTTP --> ProbeServer: /livez /readyz /startupz /metrics /probe/...
//! browser ---------- HTTP --> the same, StatusPage: /status
//! sidegate status ... -- gRPC --> AdminSocket: status, connections, cut, drain, log filter
//! systemd <------- sd_notify --- ServiceManager
//! ```
//!
//! The other side of the socket is here too: [`connect()`], what the API answers as text ([`screen()`], [`connections`]), and waiting
//! for a sidecar that starts ([`AdminAddresses`]) or ends ([`Draining`]).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut client = sidegate_admin::connect("/run/sidegate/admin.sock".as_ref()).await?;
//! let status = client.get_status(sidegate_admin::v1::GetStatusRequest {}).await?.into_inner();
//! println!("{status:?}");
//! # Ok(())
//! # }
//! ```
//!
//! What it guarantees: only configured paths reach the application, over loopback, and only its status comes back; both ends run on the control plane's thread and take nothing from the workers; connections, requests and times
//! are bounded; only the sidecar's user and root may use the socket; every change is recorded with the user and process that made it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod answers;
mod api;
mod app_probe;
mod app_probes;
mod client;
mod controls;
mod drain;
mod http;
mod negotiate;
mod response;
mod service_manager;
mod shared_bodies;
mod socket;
mod status_page;

pub use client::{
    AdminAddresses, ClientError, DrainError, Draining, Keep, NotReadyError, connect, connections, expires, screen, shortened, span,
};
pub use controls::Controls;
pub use drain::{DrainState, drain};
pub use http::{AdminError, ProbeServer};
pub use service_manager::ServiceManager;
pub use socket::{AdminSocket, SocketError};
pub use status_page::StatusPage;

/// The admin API as generated from `proto/sidegate/admin/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("sidegate.admin.v1");
}
