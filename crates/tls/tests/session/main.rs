//! Handshakes and sessions over TCP: what is agreed on, how they end, and what is made of those who play foul.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod close;
mod foul_clients;
mod foul_servers;
mod hello;
mod negotiation;
#[allow(dead_code, unused_imports, reason = "shared by several tests, each of which uses a part")]
#[path = "../pki/mod.rs"]
mod pki;
mod raw;
mod records;
mod resumption;
mod transfer;
#[allow(dead_code, reason = "shared by several tests, each of which uses a part")]
#[path = "../wire/mod.rs"]
mod wire;

use pki::{ID, World};
use sidegate_identity::Material;

/// Material for both ends.
fn material() -> Material {
    World::new().material(ID)
}
