//! Kernel rules that send the pod's traffic to the sidecar: render, apply, verify, remove.
//!
//! A [`Plan`] says what is to be captured. Its rules are one nftables table, `inet sidegate`, for IPv4 and IPv6, in
//! the network namespace of the calling thread; no other table is touched. What should have been redirected and was
//! not is dropped, so that nothing passes in the clear while the sidecar is starting, stopping or dead.
//!
//! Everything goes through the `nft` binary. Only [`render`] works without privilege (CAP_NET_ADMIN).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod apply;
mod capture;
mod check;
mod diff;
mod error;
mod nft;
mod plan;
mod plan_of_config;
mod proof;
mod render;
mod set;
mod text;
mod verify;

pub use apply::{apply, counters, is_applied, remove};
pub use diff::Difference;
pub use error::RedirectError;
pub use plan::{Exempt, InboundCapture, OutboundCapture, Plan, PortRange, UdpHandling};
pub use plan_of_config::exempt_uid;
pub use proof::Proof;
pub use render::render;
pub use verify::verify;
