//! Sockets of the sidecar itself, and the addresses at their other ends.
//!
//! The kernel rules tell the sidecar's own packets from the workload's by their user, or by the mark that [`claim`] sets on a socket.
//! Every socket with which sidegate connects to another host goes through it, and so do the data plane's listeners.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod claim;
mod holder;
mod source;

pub use claim::claim;
pub use holder::port_holder;
pub use source::source;
