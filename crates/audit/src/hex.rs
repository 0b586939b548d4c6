//! Digests as hexadecimal text, in lower case only.

pub use ::hex::encode as hex;

use crate::key::Hash;

/// A digest as [`hex()`] writes it, without an allocation: every record has two.
pub fn digits(hash: &Hash) -> [u8; 64] {
    let mut text = [0; 64];
    // The lengths are fixed, so this can't fail.
    let _ = ::hex::encode_to_slice(hash, &mut text);
    text
}

/// SHA-256 of `bytes` in hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(sha256(bytes))
}

/// The SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

/// A digest; none if `text` is not exactly what [`hex()`] writes: a line must have only one spelling.
pub fn parse(text: &[u8]) -> Option<Hash> {
    if text.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut hash = [0; 32];
    ::hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}
