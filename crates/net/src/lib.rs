//! Sockets of the sidecar: how they are made, what their options are, how bytes move through them and how they end.
//!
//! The kernel rules tell the sidecar's own packets from the workload's by their user, or by the mark that [`claim`] sets on a socket.
//! Every socket with which sidegate connects to another host is made in [`Dialing`], [`dial_host`] or [`dial_blocking`], which claim it.
//!
//! - [`socket`]: options, and how a socket ends: dropping one resets it, unless it has ended in order.
//! - [`transfer`]: reading and writing by the fewest system calls.
//! - [`Buffer`]: buffers of a worker's pool, all counted against one [`budget`].
//! - [`fairness`]: turns, so that no task keeps a worker for long.
//! - [`source`], [`original_destination`], [`port_holder`]: who is at the other end, where a connection was going, who has a port.
//! - [`HttpClient`]: the one HTTP client. [`Backoff`]: waits between tries that fail.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use std::time::Duration;
//! use sidegate_net::dial_host;
//!
//! let collector = dial_host("collector.example", 4318, None, Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod backoff;
pub mod budget;
mod buffer;
mod claim;
mod dial;
pub mod fairness;
mod holder;
mod http;
mod original_destination;
pub mod socket;
mod source;
pub mod transfer;

pub use backoff::Backoff;
pub use buffer::{Buffer, LONGEST_RECORD, RECORDS, SEALED_RECORD, Size};
pub use claim::claim;
pub use dial::{DialError, Dialing, dial_blocking, dial_host};
pub use holder::port_holder;
pub use http::{HttpClient, read_body};
pub use original_destination::{canonical, is_local, original_destination};
pub use source::source;
