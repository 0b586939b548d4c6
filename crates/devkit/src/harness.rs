//! A mesh for end-to-end tests and benchmarks: the real binary as sidecars, the embedded authority, a collector, an echo service,
//! and waiting with a deadline.
//!
//! ```text
//! test -- entry --> web (Sidecar) ==== mutual TLS ====> api (Sidecar) --> Echo
//!                        \___________ Identities ___________/
//!                        \___________ Collector ____________/   if the test wants one
//! ```
//!
//! ```no_run
//! use sidegate_devkit::harness::{Echo, Pair, echo_bytes};
//!
//! let echo = Echo::start();
//! let pair = Pair::start(echo.address, std::time::Duration::from_secs(3600), "");
//! echo_bytes(pair.entry, 1000, 1).unwrap();
//! assert_eq!(pair.api.reason("closed")["peerId"], "spiffe://test.sidegate/web");
//! ```
//!
//! What it guarantees: [`eventually`] ends by [`DEADLINE`] and says what it waited for; sidecars end with the value that owns them, also
//! when a test fails, and a crash of one fails the test; they get no `SPIFFE_`, `SIDEGATE_` or `OTEL_` variable of the environment in which
//! the tests run. Everything here panics on failure, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is what tests are made of")]

mod collector;
mod echo;
mod identities;
mod pair;
mod sidecar;
mod wait;

pub use collector::{Attributes, Collector, attributes};
pub use echo::{Echo, echo_bytes, exchange, free_port, pattern, read_all};
pub use identities::{Identities, TRUST_DOMAIN, id};
pub use pair::{Pair, client_config, server_config};
pub use sidecar::{Sidecar, ask, controller, get, sidegate};
pub use wait::{DEADLINE, eventually};
