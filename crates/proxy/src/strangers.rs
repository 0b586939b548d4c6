//! The inbound connections without an identity: before their handshake is done, and on plaintext ports to their end.
//!
//! Anyone can make as many as they like, so they are bounded apart from those with an identity. Where there are too many, the one
//! that has been silent for the longest gives way, of the source that has the most.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_core::Reason;
use sidegate_net::source;

use crate::attempt::Failure;
use crate::by_source::BySource;
use crate::registry::Live;

#[derive(Debug)]
pub(crate) struct Strangers {
    most: usize,
    all: Mutex<BySource>,
}

/// One of them. Dropping it says that it has an identity now, or is over.
#[derive(Debug)]
pub(crate) struct Stranger {
    strangers: Arc<Strangers>,
    source: IpAddr,
    key: u64,
}

impl Strangers {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, all: Mutex::default() })
    }

    /// Adds one. Another one is cut if they are too many now; nothing is added if nobody is silent.
    pub(crate) fn enter(self: &Arc<Self>, live: Arc<Live>) -> Result<Stranger, Failure> {
        let stranger = Stranger { strangers: self.clone(), source: source(live.downstream.ip()), key: live.key() };
        let mut all = self.lock();
        if all.len() >= self.most && !evict(&mut all, stranger.source) {
            drop(all);
            return Err(Failure::with(
                Reason::ConnectionLimit,
                "as many connections without an identity are open as `limits.unidentified` allows",
            ));
        }
        all.insert(stranger.source, live);
        drop(all);
        Ok(stranger)
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
    let Some((source, live)) = all.gives_way(to) else { return false };
    all.remove(source, live.key());
    live.cut(Reason::Evicted);
    true
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.lock().remove(self.source, self.key);
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
        let live = |last| registry.register(&ConnectionRecord::new(Direction::Inbound, ([10, 0, 0, last], 1).into()));
        let strangers = Strangers::new(4);
        let of_one: Vec<_> = (0..4).map(|_| live(1)).collect();
        let _ones: Vec<_> = of_one.iter().map(|live| strangers.enter(live.clone()).unwrap()).collect();
        let (other, third) = (live(2), live(3));
        let _other = strangers.enter(other.clone()).unwrap();
        let _third = strangers.enter(third.clone()).unwrap();
        assert_eq!(of_one.iter().filter(|live| live.is_cut().is_some()).count(), 2);
        assert!(other.is_cut().is_none() && third.is_cut().is_none());
        // A source has to be patient with itself.
        of_one.iter().chain([&other, &third]).for_each(|live| live.touch(std::time::Instant::now()));
        assert!(strangers.enter(live(1)).is_err());
    }
}
