//! The tunnel protocol `sidegate/1`: connections between two sidecars, one after the other, on one TLS session. Specified in
//! docs/reference/tunnel.md.
//!
//! This crate has the codec and the state of one end, and no input or output: the caller hands it the plaintext of a session, as one
//! buffer and the ranges of it that have not been taken, and sends what it encodes. Data is never copied, but to close a gap that
//! costs more than the copy.
//!
//! ```
//! use sidegate_tunnel::{Control, Tunnel};
//!
//! let mut server = Tunnel::new(([10, 0, 0, 1], 8080).into(), 0);
//! server.begin();
//! // Two bytes of data, then the end of the client's direction.
//! let mut bytes = [&sidegate_tunnel::data(2)[..], b"hi", &Control::End.encode()].concat();
//! let mut chunks = Vec::from([0..bytes.len() as u32]);
//! server.receive(Some((&mut bytes, &mut chunks)))?;
//! assert_eq!(&bytes[chunks[0].start as usize..chunks[0].end as usize], b"hi");
//! assert!(server.data == 1 && server.peer_ended);
//! # Ok::<(), sidegate_tunnel::TunnelError>(())
//! ```
//!
//! What it guarantees: any segmentation is the same stream; a control frame is at most 4096 bytes, of which nothing is kept before its
//! length is known; what the protocol forbids is an error, and never a panic.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod frame;
mod state;

/// Payloads of control frames.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/sidegate.tunnel.v1.rs"));
}

pub use frame::{Control, Malformed, data};
pub use state::{Opening, Plaintext, Tunnel, TunnelError};
