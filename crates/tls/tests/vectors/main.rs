//! Each rule that a peer's certificate has to keep, as chains that keep it and chains that break it: by the verifier
//! itself, and by real handshakes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bundle;
#[path = "../cases/mod.rs"]
mod cases;
mod handshake;
mod hostile;
#[allow(dead_code, unused_imports, reason = "shared by several tests, each of which uses a part")]
#[path = "../pki/mod.rs"]
mod pki;
mod revocation;
mod verdict;
#[allow(dead_code, reason = "shared by several tests, each of which uses a part")]
#[path = "../wire/mod.rs"]
mod wire;
