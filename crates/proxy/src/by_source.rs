//! Connections by where they come from, so that one source can't crowd out the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use crate::registry::Live;

/// How many of a source's oldest connections are looked at for the one that has been silent for the longest.
const LOOKED_AT: usize = 64;

/// What counts as one source: an IPv4 address, or the /64 of an IPv6 address, of which a host may use all.
pub(crate) fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A set of connections, each of a source.
#[derive(Debug, Default)]
pub(crate) struct BySource {
    /// By source and age: keys grow.
    sources: HashMap<IpAddr, BTreeMap<u64, Member>>,
    sizes: BTreeSet<(usize, IpAddr)>,
    len: usize,
}

#[derive(Debug)]
struct Member {
    live: Arc<Live>,
    since: Instant,
}

impl BySource {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many are of this source.
    pub(crate) fn of(&self, source: IpAddr) -> usize {
        self.sources.get(&source).map_or(0, BTreeMap::len)
    }

    pub(crate) fn insert(&mut self, source: IpAddr, live: Arc<Live>) {
        let before = self.of(source);
        let member = Member { since: Instant::now(), live };
        if self.sources.entry(source).or_default().insert(member.live.key(), member).is_none() {
            self.resize(source, before);
        }
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, source: IpAddr, key: u64) -> bool {
        let before = self.of(source);
        let removed = self.sources.get_mut(&source).is_some_and(|members| members.remove(&key).is_some());
        if removed {
            self.resize(source, before);
        }
        removed
    }

    fn resize(&mut self, source: IpAddr, before: usize) {
        let now = self.of(source);
        self.len = self.len + now - before;
        self.sizes.remove(&(before, source));
        if now > 0 {
            self.sizes.insert((now, source));
        } else {
            self.sources.remove(&source);
        }
    }

    /// The source with the most.
    pub(crate) fn largest(&self) -> Option<IpAddr> {
        self.sizes.last().map(|(_, source)| *source)
    }

    /// Of a source's oldest the one that has been silent for the longest, and since when it is a member.
    pub(crate) fn longest_silent(&self, source: IpAddr) -> Option<(Arc<Live>, Instant)> {
        let oldest = self.sources.get(&source)?.values().take(LOOKED_AT);
        oldest.min_by_key(|member| member.live.silent_since()).map(|member| (member.live.clone(), member.since))
    }
}

#[cfg(test)]
mod tests {
    use sidegate_core::{ConnectionRecord, Direction};

    use super::*;
    use crate::registry::Registry;

    fn ip(text: &str) -> IpAddr {
        source(text.parse().unwrap())
    }

    #[test]
    fn a_host_is_one_source() {
        assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
        assert_eq!(ip("fd00::1"), ip("fd00::ffff:ffff:ffff:ffff"));
        assert_ne!(ip("fd00::1"), ip("fd00:0:0:1::1"));
        assert_ne!(ip("10.0.0.1"), ip("10.0.0.2"));
    }

    #[test]
    fn the_largest_source_and_its_longest_silent_are_known() {
        let registry = Registry::default();
        let live = || registry.register(&ConnectionRecord::new(Direction::Inbound, ([10, 0, 0, 1], 1).into()));
        let (a, b) = (ip("10.0.0.1"), ip("fd00::1"));
        let mut all = BySource::default();
        assert_eq!(all.largest(), None);
        let members: Vec<_> = (0..3).map(|_| live()).collect();
        members.iter().for_each(|live| all.insert(a, live.clone()));
        let other = live();
        all.insert(b, other.clone());
        assert_eq!((all.len(), all.of(a), all.of(b), all.largest()), (4, 3, 1, Some(a)));
        members[0].touch(Instant::now() + std::time::Duration::from_secs(1));
        assert_eq!(all.longest_silent(a).unwrap().0.key(), members[1].key());
        for live in &members {
            assert!(all.remove(a, live.key()) && !all.remove(a, live.key()));
        }
        assert_eq!((all.len(), all.largest()), (1, Some(b)));
        assert!(all.remove(b, other.key()));
        assert_eq!((all.len(), all.largest(), all.sources.len()), (0, None, 0));
    }
}
