//! The authority seen through its Workload API: by its own generated client, and by the `spiffe` crate's client
//! as a foreign judge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attestation;
mod client;
mod config;
mod faults;
mod federation;
mod foreign;
mod jwt;
mod rotation;
mod sockets;
mod svid;
