//! Permits for what takes a peer's own time: handshakes, and detection on permissive ports. Who finds none waits.
//!
//! Those who wait have their turn source by source, so that a burst of one is not in the way of another. A source is where an
//! inbound connection comes from, and where an outbound one goes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_core::{Direction, Reason};
use tokio::sync::oneshot;

use crate::by_source::BySource;
use crate::registry::ConnectionHandle;

/// A server gets another permit as long as it has fewer than this for each that is free: one that does not answer takes seven
/// eighths of all, the next one seven eighths of the rest.
const SHARE: usize = 7;

/// What a permit is for. Each kind has permits of its own, so that strangers who connect and stay silent can't keep the workload from
/// calling others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PermitKind {
    InboundHandshake,
    OutboundHandshake,
    Detection,
}

impl PermitKind {
    /// Of which direction's handshake it is, if it is one.
    pub(crate) fn handshake(self) -> Option<Direction> {
        match self {
            Self::InboundHandshake => Some(Direction::Inbound),
            Self::OutboundHandshake => Some(Direction::Outbound),
            Self::Detection => None,
        }
    }
}

/// The permits of one kind.
#[derive(Debug)]
pub(crate) struct PermitQueue {
    /// How many there are.
    most: usize,
    /// Whether the sources are servers. The workload's own connections are not taken away from it; so servers that do not answer
    /// must leave places for others.
    of_servers: bool,
    room: Mutex<Room>,
}

#[derive(Debug, Default)]
struct Room {
    /// The connections that have one.
    holders: BySource,
    /// Those that wait, by source and age.
    waiting: HashMap<IpAddr, BTreeMap<u64, Waiting>>,
    /// The sources that have somebody waiting, in the order of their turns.
    turns: VecDeque<IpAddr>,
}

#[derive(Debug)]
struct Waiting {
    handle: Arc<ConnectionHandle>,
    /// Tells it that it has one.
    granted: oneshot::Sender<()>,
}

impl PermitQueue {
    pub(crate) fn new(most: u32, wait: PermitKind) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Self { most, of_servers: wait == PermitKind::OutboundHandshake, room: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters; the receiver hears when it is its turn.
    pub(crate) fn enter(&self, source: IpAddr, handle: Arc<ConnectionHandle>) -> oneshot::Receiver<()> {
        let (granted, turn) = oneshot::channel();
        let mut room = self.lock();
        // A source has one turn for as long as it is in the table, also if those who waited have left.
        if !room.waiting.contains_key(&source) {
            room.turns.push_back(source);
        }
        room.waiting.entry(source).or_default().insert(handle.key(), Waiting { handle, granted });
        self.grant(&mut room);
        turn
    }

    /// Leaves, from wherever it is.
    pub(crate) fn leave(&self, source: IpAddr, key: u64) {
        let mut room = self.lock();
        if room.holders.remove(source, key) {
            self.grant(&mut room);
        } else if let Some(waiting) = room.waiting.get_mut(&source) {
            waiting.remove(&key);
        }
    }

    /// Gives free places to those whose turn it is.
    fn grant(&self, room: &mut Room) {
        let mut passed = 0;
        while room.holders.len() < self.most && passed < room.turns.len() {
            let Some(source) = room.turns.pop_front() else { return };
            if self.of_servers && room.holders.of(source) >= SHARE * (self.most - room.holders.len()) {
                room.turns.push_back(source);
                passed += 1;
                continue;
            }
            let next = room.waiting.get_mut(&source).and_then(BTreeMap::pop_first);
            if room.waiting.get(&source).is_some_and(|waiting| !waiting.is_empty()) {
                room.turns.push_back(source);
            } else {
                room.waiting.remove(&source);
            }
            if let Some((_, Waiting { handle, granted })) = next {
                room.holders.insert(source, handle);
                // Nobody hears it who has gone: then its permit is given back at once by its drop.
                let _ = granted.send(());
            }
        }
    }

    /// Takes a permit away from the source that has the most, if that is another and holds one for too long, for who waits under this
    /// key.
    pub(crate) fn evict_for(&self, source: IpAddr, key: u64) {
        let mut room = self.lock();
        let room = &mut *room;
        let Some(largest) = room.holders.largest().filter(|largest| *largest != source) else { return };
        if room.holders.of(largest) <= room.holders.of(source) + 1 {
            return;
        }
        let Some(waiting) = room.waiting.get_mut(&source) else { return };
        let Some(victim) = waiting.contains_key(&key).then(|| room.holders.overdue(largest)).flatten() else { return };
        room.holders.remove(largest, victim.key());
        victim.cut(Reason::Evicted);
        if let Some(Waiting { handle, granted }) = waiting.remove(&key) {
            room.holders.insert(source, handle);
            let _ = granted.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sidegate_core::ConnectionRecord;

    use super::*;
    use crate::by_source::GRACE;
    use crate::registry::Registry;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    struct World(Registry, PermitQueue);

    impl World {
        fn enter(&self, last: u8) -> (u64, oneshot::Receiver<()>) {
            let handle = self.0.register(&ConnectionRecord::new(Direction::Inbound, (ip(last), 1).into()));
            (handle.key(), self.1.enter(ip(last), handle))
        }
    }

    #[test]
    fn sources_have_their_turns_one_after_the_other() {
        let world = World(Registry::default(), PermitQueue::new(1, PermitKind::InboundHandshake));
        let (first, mut has) = world.enter(1);
        assert!(has.try_recv().is_ok());
        let mut burst: Vec<_> = (0..3).map(|_| world.enter(1)).collect();
        let (_, mut other) = world.enter(2);
        world.1.leave(ip(1), first);
        assert!(burst[0].1.try_recv().is_ok());
        world.1.leave(ip(1), burst[0].0);
        assert!(other.try_recv().is_ok(), "one of the burst, then the other source");
        assert!(burst[1].1.try_recv().is_err());
    }

    #[test]
    fn who_gives_up_leaves_no_trace() {
        let world = World(Registry::default(), PermitQueue::new(1, PermitKind::InboundHandshake));
        let (first, _turn) = world.enter(1);
        let (second, turn) = world.enter(2);
        drop(turn);
        world.1.leave(ip(2), second);
        world.1.leave(ip(1), first);
        let room = world.1.lock();
        assert_eq!((room.holders.len(), room.waiting.values().map(BTreeMap::len).sum::<usize>()), (0, 0));
    }

    #[test]
    fn a_server_that_does_not_answer_leaves_places_for_others() {
        let world = World(Registry::default(), PermitQueue::new(8, PermitKind::OutboundHandshake));
        let mut silent: Vec<_> = (0..20).map(|_| world.enter(1)).collect();
        assert_eq!(silent.iter_mut().map(|(_, turn)| turn.try_recv().is_ok()).filter(|granted| *granted).count(), 7);
        assert!(world.enter(2).1.try_recv().is_ok());
        let world = World(Registry::default(), PermitQueue::new(64, PermitKind::OutboundHandshake));
        for server in 1..3 {
            let _silent: Vec<_> = (0..100).map(|_| world.enter(server)).collect();
        }
        assert!(world.enter(3).1.try_recv().is_ok(), "two of them leave places, too");
    }

    #[test]
    fn a_source_has_one_turn_whoever_gives_up() {
        let world = World(Registry::default(), PermitQueue::new(1, PermitKind::InboundHandshake));
        let _holder = world.enter(1);
        for _ in 0..100 {
            let (key, _turn) = world.enter(2);
            world.1.leave(ip(2), key);
        }
        assert_eq!(world.1.lock().turns.len(), 1);
    }

    #[test]
    fn only_who_has_more_gives_way_and_only_after_a_while() {
        let world = World(Registry::default(), PermitQueue::new(4, PermitKind::InboundHandshake));
        let _held: Vec<_> = (0..4).map(|_| world.enter(1)).collect();
        let (key, mut turn) = world.enter(2);
        world.1.evict_for(ip(2), key);
        assert!(world.0.all().iter().all(|handle| handle.is_cut().is_none()), "not yet");
        std::thread::sleep(GRACE + Duration::from_millis(10));
        let (of_same, _of_same) = world.enter(1);
        world.1.evict_for(ip(1), of_same);
        assert!(world.0.all().iter().all(|handle| handle.is_cut().is_none()), "not for the same source");
        world.1.evict_for(ip(2), key);
        assert_eq!(world.0.all().iter().filter(|handle| handle.is_cut().is_some()).count(), 1);
        assert!(turn.try_recv().is_ok(), "the permit is for who asked, not for who is next");
        let others: Vec<_> = (0..2).map(|_| world.enter(2)).collect();
        others.iter().for_each(|(key, _)| world.1.evict_for(ip(2), *key));
        assert_eq!(world.0.all().iter().filter(|handle| handle.is_cut().is_some()).count(), 2, "until it has no more than its share");
    }
}
