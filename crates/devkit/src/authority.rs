//! An embedded SPIFFE authority that serves the real [Workload API][1], for the demo, development and tests.
//!
//! It is what a SPIRE server and agent are together, in one process and in memory: certificate authorities for
//! some trust domains, entries that say which caller is which identity, and Unix sockets on which workloads
//! fetch their SVIDs. Beyond SPIRE it can [misbehave on demand](Fault), so that what consumes the API can be
//! tested against everything that may come.
//!
//! **For development only**: its keys live in plain memory and vanish with it, the process that runs it is the
//! root of all trust, and entries may match every caller.
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
pub use error::{AuthorityError, Problem};
pub use fault::Fault;
pub use server::{Authority, Issued};
