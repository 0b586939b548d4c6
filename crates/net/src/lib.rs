//! Sockets of the sidecar itself.
//!
//! The kernel rules tell the sidecar's own packets from the workload's by what [`claim`] sets on a socket. Every socket with
//! which sidegate connects to another host goes through it, and in mark mode its listeners too.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod claim;
mod holder;

pub use claim::claim;
pub use holder::port_holder;
