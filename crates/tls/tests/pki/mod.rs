//! Certificates for tests.
//!
//! They are written as DER by hand and signed by rcgen's keys: a library that writes certificates refuses, rightly,
//! most of what has to be tried here. What openssl made is in `fixtures`.

mod anybody;
mod cert;
mod der;
mod world;

pub(crate) use anybody::TrustsAnybody;
pub(crate) use cert::{
    Ca, Extension, Name, Spec, Usage, basic_constraints, extended_key_usage, key_usage, name_constraints, names, oid, raw, unknown,
};
pub(crate) use der::{sequence, tlv};
pub(crate) use world::{ID, World, fixture, mark, signing_key};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

/// A new P-256 key.
pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}
