//! An embedded SPIFFE authority that serves the real [Workload API][1], for the demo, development and tests.
//!
//! It is what a SPIRE server and agent are together, in one process and in memory: certificate authorities for some trust domains,
//! entries that say which caller is which identity, and Unix sockets on which workloads fetch their SVIDs. It can also
//! [misbehave on demand](Fault), so that what consumes the API can be tested against everything that may come.
//!
//! ```text
//! AuthorityConfig -> check -> Authority: a CA for each trust domain, entries
//!                                 |
//! caller -> socket -> attest -> entries that match -> SVIDs, bundles, revocation lists -> stream
//!                                 |                                                         ^
//!                                 `-- rotate_now, rotate_ca, set_entries, set_fault --------'
//! ```
//!
//! ```
//! use std::time::Duration;
//!
//! use sidegate_devkit::authority::{Authority, AuthorityConfig, Entry, Fault, TrustDomainConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let mut config = AuthorityConfig::default();
//! config.trust_domains.push(TrustDomainConfig::new("dev.example"));
//! config.sockets.push(folder.path().join("web.sock"));
//! config.entries.push(Entry::new("spiffe://dev.example/web"));
//!
//! let authority = Authority::start(config).await?;
//! // From now on no stream gets an answer; then all of them get the right one.
//! authority.set_fault(Fault::Hang);
//! authority.set_fault(Fault::None);
//! // For a peer that reads files.
//! let bundle = authority.bundle_pem("dev.example").ok_or("there is no such trust domain")?;
//! let web = authority.issue("spiffe://dev.example/web", Duration::from_secs(60))?;
//! assert!(bundle.contains("BEGIN CERTIFICATE") && web.key_pem.contains("BEGIN PRIVATE KEY"));
//! authority.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! What it guarantees: a configuration with a mistake starts nothing, and all mistakes are named; a change shows at once on every open stream;
//! [`Authority::shutdown`] leaves no socket behind.
//!
//! **For development only**: its keys live in plain memory and vanish with it, the process that runs it is the root of all trust, and
//! entries may match every caller.
//!
//! [1]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md

mod answer;
mod attest;
mod ca;
mod check;
mod config;
mod connection;
mod domain;
mod enrolled;
mod error;
mod fault;
mod feed;
mod jwt;
mod server;
mod service;
mod socket;
mod state;
pub mod workload_api;

pub use config::{AuthorityConfig, Entry, TrustDomainConfig};
pub use error::{AuthorityError, AuthorityProblem};
pub use fault::Fault;
pub use server::{Authority, Issued};
