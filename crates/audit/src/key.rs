//! The key of an epoch: records are authenticated by it, then it makes its successor and is erased.
//!
//! An attacker who takes over the process has the key of the current epoch and of later ones; an earlier key would require
//! inverting HKDF. An epoch ends with each checkpoint. Copies of a key that libraries leave in freed memory can't be erased here;
//! docs/reference/audit-log.md says so.

use aws_lc_rs::{hkdf, hmac, rand};
use zeroize::{Zeroize, Zeroizing};

/// SHA-256 and what is made of it.
pub type Hash = [u8; 32];

/// The key of one epoch.
pub struct EpochKey {
    /// Boxed: a value that moves would leave copies behind that are not erased.
    key: Box<Zeroizing<[u8; 32]>>,
    /// The same, ready for use; the library erases it when it is dropped.
    ready: Box<hmac::Key>,
    epoch: u64,
}

impl EpochKey {
    /// The first key of a run; none if the system has no randomness.
    pub fn random() -> Option<Self> {
        let mut key = Box::new(Zeroizing::new([0; 32]));
        rand::fill(&mut **key).ok()?;
        Some(Self::new(key))
    }

    fn new(key: Box<Zeroizing<[u8; 32]>>) -> Self {
        Self { ready: Box::new(hmac::Key::new(hmac::HMAC_SHA256, &**key)), key, epoch: 0 }
    }

    /// The first key of a run, as an auditor decrypted it.
    pub fn first(bytes: &[u8]) -> Option<Self> {
        let mut key = Box::new(Zeroizing::new([0; 32]));
        if bytes.len() != key.len() {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Self::new(key))
    }

    /// Its bytes, to encrypt them to the auditors. Do not keep them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.key
    }

    /// How many keys came before it in this run.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// HMAC-SHA256 (RFC 2104) of what has this SHA-256: a line is hashed once for its MAC and for the link to it.
    pub fn mac(&self, digest: &Hash) -> Hash {
        let mut mac = [0; 32];
        mac.copy_from_slice(hmac::sign(&self.ready, digest).as_ref());
        mac
    }

    /// Moves on to the next epoch by HKDF-SHA256 (RFC 5869); this key is erased. False if the library fails, which is not
    /// expected; then nothing is changed.
    pub fn ratchet(&mut self) -> bool {
        let mut next = Zeroizing::new([0; 32]);
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sidegate audit v1")
            .extract(&**self.key)
            .expand(&[b"next epoch"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut *next))
            .is_ok();
        if derived {
            self.key.zeroize();
            self.key.copy_from_slice(&*next);
            *self.ready = hmac::Key::new(hmac::HMAC_SHA256, &*next);
            self.epoch += 1;
        }
        derived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_move_forward_only_and_alike_for_all_who_have_the_first() {
        let mut writer = EpochKey::random().unwrap();
        let mut auditor = EpochKey::first(writer.expose()).unwrap();
        let digest = [7; 32];
        let before = writer.mac(&digest);
        assert_eq!(before, auditor.mac(&digest));
        for epoch in 1..4 {
            assert!(writer.ratchet() && auditor.ratchet());
            assert_eq!((writer.epoch(), writer.mac(&digest)), (epoch, auditor.mac(&digest)));
            assert_ne!(writer.mac(&digest), before);
        }
        assert!(EpochKey::first(b"short").is_none());
    }

    /// A move copies the value, and the old copy stays in memory.
    #[test]
    fn a_key_that_moves_stays_where_it_is() {
        let key = EpochKey::random().unwrap();
        let place = std::ptr::from_ref(key.expose());
        let mut moved = Box::new(key);
        assert_eq!(std::ptr::from_ref(moved.expose()), place);
        assert!(moved.ratchet());
        assert_eq!(std::ptr::from_ref(moved.expose()), place);
    }
}
