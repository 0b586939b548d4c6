//! The inbound connections without an identity: before their handshake is done, and on plaintext ports to their end.
//!
//! Anyone can make as many as they like, so they are bounded apart from those with an identity. Where there are too many, the one
//! that has been silent for the longest gives way, of the source that has the most.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_core::Reason;
use sidegate_net::source;

use crate::by_source::BySource;
use crate::failure::Failure;
use crate::registry::ConnectionHandle;

/// The set of them.
#[derive(Debug)]
pub(crate) struct Unidentified {
    /// How many there may be.
    most: usize,
    all: Mutex<BySource>,
}

/// One of them. Dropping it says that it has an identity now, or is over.
#[derive(Debug)]
pub(crate) struct UnidentifiedGuard {
    /// The set that it leaves when it is dropped.
    unidentified: Arc<Unidentified>,
    /// Where it comes from.
    source: IpAddr,
    /// Its key in the registry.
    key: u64,
}

impl Unidentified {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, all: Mutex::default() })
    }

    /// Adds one. Another one is cut if they are too many now; nothing is added if nobody is silent.
    pub(crate) fn enter(self: &Arc<Self>, handle: Arc<ConnectionHandle>) -> Result<UnidentifiedGuard, Failure> {
        let guard = UnidentifiedGuard { unidentified: self.clone(), source: source(handle.downstream.ip()), key: handle.key() };
        let mut all = self.lock();
        if all.len() >= self.most && !evict(&mut all, guard.source) {
            drop(all);
            return Err(Failure::with(
                Reason::ConnectionLimit,
                "as many connections without an identity are open as `limits.unidentified` allows",
            ));
        }
        all.insert(guard.source, handle);
        drop(all);
        Ok(guard)
    }

    /// Cuts one, so that there is room for another connection from `ip`. Whether there was one.
    pub(crate) fn make_room(&self, ip: IpAddr) -> bool {
        evict(&mut self.lock(), source(ip))
    }

    fn lock(&self) -> MutexGuard<'_, BySource> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn evict(all: &mut BySource, to: IpAddr) -> bool {
    let Some((source, handle)) = all.gives_way(to) else { return false };
    all.remove(source, handle.key());
    handle.cut(Reason::Evicted);
    true
}

impl Drop for UnidentifiedGuard {
    fn drop(&mut self) {
        self.unidentified.lock().remove(self.source, self.key);
    }
}

#[cfg(test)]
mod tests {
    use sidegate_core::{ConnectionRecord, Direction};

    use super::*;
    use crate::registry::Registry;

    #[test]
    fn who_has_the_most_gives_way() {
        let registry = Registry::default();
        let handle = |last| registry.register(&ConnectionRecord::new(Direction::Inbound, ([10, 0, 0, last], 1).into()));
        let unidentified = Unidentified::new(4);
        let of_one: Vec<_> = (0..4).map(|_| handle(1)).collect();
        let _ones: Vec<_> = of_one.iter().map(|handle| unidentified.enter(handle.clone()).unwrap()).collect();
        let (other, third) = (handle(2), handle(3));
        let _other = unidentified.enter(other.clone()).unwrap();
        let _third = unidentified.enter(third.clone()).unwrap();
        assert_eq!(of_one.iter().filter(|handle| handle.is_cut().is_some()).count(), 2);
        assert!(other.is_cut().is_none() && third.is_cut().is_none());
        // A source has to be patient with itself.
        of_one.iter().chain([&other, &third]).for_each(|handle| handle.touch(std::time::Instant::now()));
        assert!(unidentified.enter(handle(1)).is_err());
    }
}
