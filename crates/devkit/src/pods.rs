//! Pods made of network namespaces, for the demo, the tests and the benches.
//!
//! A [`Network`] is a switch with a wire to each of its [`Pod`]s.
//!
//! ```text
//! Pod "client"                  switch                  Pod "server"
//! lo, eth0 10.77.0.x -- wire -- (Network) -- wire -- lo, eth0 10.77.0.y
//! fd77::x                          |                          fd77::y
//!                                  `-- Capture: the frames on the wires
//! ```
//!
//! ```no_run
//! let mut network = sidegate_devkit::pods::Network::new()?;
//! let (client, server) = (network.pod("client")?, network.pod("server")?);
//! let address = std::net::SocketAddr::from((server.ipv4(), 8080));
//! let listener = server.run(move || std::net::TcpListener::bind(address))??;
//! let stream = client.run(move || std::net::TcpStream::connect(address))??;
//! # drop((listener, stream));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It needs root, or [`enter_user_namespace`] at the very start of `main`; [`support()`] tells beforehand.
//!
//! What it guarantees: pods live on threads of this process, leave no trace under `/run/netns` and vanish with the process, however it ends;
//! a [`Capture`] has every frame or says that some are lost, so that "it was not seen" is a proof.

mod capture;
mod error;
mod ip;
mod namespace;
mod network;
mod pod;
mod support;
mod user_namespace;

pub use capture::{Capture, contains};
pub use error::PodError;
pub use network::Network;
pub use pod::Pod;
pub use support::{Support, nft_support, support};
pub use user_namespace::enter_user_namespace;
