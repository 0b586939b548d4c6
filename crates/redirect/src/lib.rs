//! Kernel rules that send the pod's traffic to the sidecar: plan, render, apply, verify, remove.
//!
//! A [`Plan`] says what is captured. Its rules are one nftables table, `inet sidegate`, for IPv4 and IPv6, in the network namespace of
//! the calling thread; no other table is touched.
//!
//! ```text
//! configuration -> Plan -> render -> nft script -> apply, in one transaction
//!                   |                              verify, against what the kernel has
//!                   `-> Proof: addresses by which the sidecar proves, without privilege, that the rules are in place
//! ```
//!
//! ```
//! use sidegate_redirect::{Plan, render};
//!
//! let config = sidegate_config::parse("sidegate.yaml", "outbound: { listen: 127.0.0.1:15001 }")?;
//! let script = render(&Plan::new(&config))?;
//! assert!(script.contains("table inet sidegate"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it guarantees: traffic that should have been redirected and was not is dropped, so that nothing passes in the clear while the
//! sidecar is starting, stopping or dead. Everything uses the `nft` binary; only [`render`] works without privilege (CAP_NET_ADMIN).
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
pub use plan::{Exempt, InboundCapture, OutboundCapture, Plan, UdpHandling};
pub use plan_of_config::exempt_uid;
pub use proof::Proof;
pub use render::render;
pub use verify::verify;
