//! Everything besides sidegate itself that development, tests, benchmarks and the demo need. A production build has none of it.
//!
//! A mesh needs three things that a developer's machine does not have. Each is a module, and none needs another; `demo` and
//! `harness` join them:
//!
//! ```text
//! authority         who is who: issues SVIDs and bundles over the SPIFFE Workload API
//! pods              where workloads run: network namespaces, joined by a switch
//! fake_collector    where telemetry goes: takes OTLP, and can hang, refuse, or be slow
//! demo              all three, with sidegate's own program as the sidecars: `sidegate demo`
//! harness           the same for end-to-end tests and benchmarks
//! ```
//!
//! ```
//! use std::time::Duration;
//!
//! use sidegate_devkit::authority::{Authority, AuthorityConfig, Entry, TrustDomainConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let mut config = AuthorityConfig::default();
//! config.trust_domains.push(TrustDomainConfig::new("dev.example"));
//! config.sockets.push(folder.path().join("web.sock"));
//! config.entries.push(Entry::new("spiffe://dev.example/web"));
//!
//! let runtime = tokio::runtime::Runtime::new()?;
//! let authority = runtime.block_on(Authority::start(config))?;
//! // A workload fetches its SVID from the socket. For one that reads files:
//! let svid = authority.issue("spiffe://dev.example/web", Duration::from_secs(60))?;
//! assert!(svid.chain_pem.starts_with("-----BEGIN CERTIFICATE-----"));
//! runtime.block_on(authority.shutdown());
//! # Ok(())
//! # }
//! ```
//!
//! What it guarantees: nothing stays behind, for namespaces, processes and sockets end with the value that owns them, and with the process;
//! what it speaks is the real protocol (Workload API, OTLP, kernel rules), so sidegate has no code path of its own for it; it uses none of
//! the crates that it is used to test, except `config` and `core`. It does not keep secrets: keys are in plain memory.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod authority;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "fake-collector")]
pub mod fake_collector;
#[cfg(feature = "harness")]
pub mod harness;
pub mod pods;
