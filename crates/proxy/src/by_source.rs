//! Connections by where they come from, so that one source can't crowd out the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::registry::ConnectionHandle;

/// How many of a source's oldest connections are looked at for one that gives way, and how many sources.
const LOOKED_AT: usize = 1024;
const SOURCES: usize = 8;
/// A connection on which something was said within this time is not silent.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// A set of connections, each of a source.
#[derive(Debug, Default)]
pub(crate) struct BySource {
    /// By source and age: keys grow.
    sources: HashMap<IpAddr, BTreeMap<u64, Member>>,
    /// The sources by how many connections they have.
    sizes: BTreeSet<(usize, IpAddr)>,
    /// How many connections there are.
    len: usize,
}

#[derive(Debug)]
struct Member {
    handle: Arc<ConnectionHandle>,
    /// When it came to be in the set.
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

    pub(crate) fn insert(&mut self, source: IpAddr, handle: Arc<ConnectionHandle>) {
        let before = self.of(source);
        let member = Member { since: Instant::now(), handle };
        if self.sources.entry(source).or_default().insert(member.handle.key(), member).is_none() {
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

    /// Who gives way to a newcomer of source `to`: the longest silent one of the source that has the most, or of the next that has
    /// more than the newcomer's. That one has to be patient with itself: there only who is silent for a while gives way. If nobody is
    /// silent, one of the largest source does all the same.
    pub(crate) fn gives_way(&self, to: IpAddr) -> Option<(IpAddr, Arc<ConnectionHandle>)> {
        let own = self.of(to);
        let larger = || self.sizes.iter().rev().take(SOURCES).filter(|(size, source)| *size > own + 1 || *source == to);
        let silent = larger().find_map(|(_, source)| self.longest_silent(*source, *source == to, GRACE).map(|handle| (*source, handle)));
        let largest = || larger().map(|(_, source)| *source).find(|source| *source != to);
        silent.or_else(|| largest().and_then(|source| Some((source, self.longest_silent(source, false, Duration::ZERO)?))))
    }

    /// One that is silent for longer than `most`. One on which nothing was said yet is silent at any age, but for its own source.
    fn longest_silent(&self, source: IpAddr, is_own: bool, most: Duration) -> Option<Arc<ConnectionHandle>> {
        let now = Instant::now();
        let mut longest: Option<(Instant, &Arc<ConnectionHandle>)> = None;
        for member in self.sources.get(&source)?.values().take(LOOKED_AT) {
            let since = member.handle.silent_since();
            if !member.handle.has_spoken() && !is_own {
                // They are in the order of their age.
                return Some(longest.filter(|(before, _)| *before < since).map_or(&member.handle, |(_, handle)| handle).clone());
            }
            if now.saturating_duration_since(since) >= most && longest.is_none_or(|(before, _)| since < before) {
                longest = Some((since, &member.handle));
            }
        }
        longest.map(|(_, handle)| handle.clone())
    }

    /// One of a source that is a member for more than [`GRACE`], the oldest first.
    pub(crate) fn overdue(&self, source: IpAddr) -> Option<Arc<ConnectionHandle>> {
        let oldest = self.sources.get(&source)?.values().take(LOOKED_AT);
        oldest.filter(|member| member.since.elapsed() > GRACE).map(|member| member.handle.clone()).next()
    }
}

#[cfg(test)]
mod tests {
    use sidegate_core::{ConnectionRecord, Direction};

    use super::*;
    use crate::registry::Registry;

    fn ip(text: &str) -> IpAddr {
        sidegate_net::source(text.parse().unwrap())
    }

    #[test]
    fn the_longest_silent_of_the_largest_source_gives_way() {
        let registry = Registry::default();
        let handle = || registry.register(&ConnectionRecord::new(Direction::Inbound, ([10, 0, 0, 1], 1).into()));
        let (a, b) = (ip("10.0.0.1"), ip("fd00::1"));
        let mut all = BySource::default();
        assert_eq!(all.largest(), None);
        let members: Vec<_> = (0..3).map(|_| handle()).collect();
        members.iter().for_each(|handle| all.insert(a, handle.clone()));
        let other = handle();
        all.insert(b, other.clone());
        assert_eq!((all.len(), all.of(a), all.of(b), all.largest()), (4, 3, 1, Some(a)));
        let gives_way = |all: &BySource, to| all.gives_way(to).map(|(source, handle)| (source, handle.key()));
        assert_eq!(gives_way(&all, b), Some((a, members[0].key())));
        // Who speaks stays.
        members[0].touch(Instant::now());
        assert_eq!(gives_way(&all, b), Some((a, members[1].key())));
        // A burst does not drive itself out.
        assert_eq!(gives_way(&all, a), None);
        members[1..].iter().for_each(|handle| handle.touch(Instant::now()));
        assert_eq!(gives_way(&all, b), Some((a, members[0].key())), "nobody is silent, and one has the most");
        std::thread::sleep(GRACE + Duration::from_millis(20));
        members[0].touch(Instant::now());
        assert_eq!(gives_way(&all, a), Some((a, members[1].key())));
        for handle in &members {
            assert!(all.remove(a, handle.key()) && !all.remove(a, handle.key()));
        }
        assert_eq!((all.len(), all.largest()), (1, Some(b)));
        assert!(all.remove(b, other.key()));
        assert_eq!((all.len(), all.largest(), all.sources.len()), (0, None, 0));
    }
}
