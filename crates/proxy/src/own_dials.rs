//! The connections that this sidecar makes to peers, while they are young: an outbound listener must not accept one of them.
//!
//! The kernel rules never redirect the sidecar's own packets. If they are not ours, or were changed, a connection of the sidecar
//! would come back to it and be dialled again, without end.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_core::{ClientAddr, DialAddr, OriginalDst};

/// Workers seldom meet at one of them.
const SHARDS: u64 = 16;

#[derive(Debug, Default)]
pub(crate) struct OwnDials {
    /// Digests of the two addresses: with a random key nobody can choose two that are alike.
    hasher: RandomState,
    shards: [Mutex<HashSet<u64>>; SHARDS as usize],
}

/// A connection of ours from its first packet until its peer has proved to be another, or to its end.
#[derive(Debug)]
pub(crate) struct OwnDial {
    dials: Arc<OwnDials>,
    digest: u64,
}

impl OwnDials {
    /// Notes that we connect `from` here `to` a peer.
    pub(crate) fn register(self: &Arc<Self>, from: ClientAddr, to: DialAddr) -> OwnDial {
        let digest = self.digest(*from, *to);
        self.shard(digest).insert(digest);
        OwnDial { dials: self.clone(), digest }
    }

    /// Whether a connection that was accepted is one of ours.
    pub(crate) fn contains(&self, from: ClientAddr, to: OriginalDst) -> bool {
        let digest = self.digest(*from, *to);
        self.shard(digest).contains(&digest)
    }

    fn digest(&self, from: SocketAddr, to: SocketAddr) -> u64 {
        // Without the scope and flow of IPv6, which differ between the two ends.
        self.hasher.hash_one((from.ip(), from.port(), to.ip(), to.port()))
    }

    fn shard(&self, digest: u64) -> MutexGuard<'_, HashSet<u64>> {
        let index = usize::try_from(digest % SHARDS).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnDial {
    fn drop(&mut self) {
        self.dials.shard(self.digest).remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dial_is_known_until_it_is_dropped() {
        let dials = Arc::new(OwnDials::default());
        let (from, to) = (([10, 0, 0, 1], 40_000), ([10, 0, 0, 2], 8080));
        let dial = dials.register(from.into(), to.into());
        assert!(dials.contains(from.into(), to.into()));
        assert!(!dials.contains(to.into(), from.into()));
        drop(dial);
        assert!(!dials.contains(from.into(), to.into()));
    }
}
