//! How much of the directory each address has: no one may take the places of the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// What all addresses have.
#[derive(Debug)]
pub(super) struct Sources {
    /// Connections of one address, an eighth of which may be in their handshake.
    most: usize,
    by_address: Mutex<HashMap<IpAddr, Held>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    connections: usize,
    handshakes: usize,
}

/// A connection of an address. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct Place {
    sources: Arc<Sources>,
    address: IpAddr,
    shaking: bool,
}

impl Sources {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, by_address: Mutex::default() })
    }

    /// A place for a connection that begins its handshake. None if its address has too many.
    pub(super) fn place(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let held = by_address.get(&address).copied().unwrap_or_default();
        if held.connections >= self.most || held.handshakes >= self.most.div_ceil(8) {
            return None;
        }
        by_address.insert(address, Held { connections: held.connections + 1, handshakes: held.handshakes + 1 });
        Some(Place { sources: self.clone(), address, shaking: true })
    }

    fn change(&self, address: IpAddr, change: impl FnOnce(&mut Held)) {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = by_address.get_mut(&address) {
            change(held);
            if held.connections == 0 {
                by_address.remove(&address);
            }
        }
    }
}

impl Place {
    /// Its handshake is done.
    pub(super) fn shaken(&mut self) {
        if std::mem::take(&mut self.shaking) {
            self.sources.change(self.address, |held| held.handshakes -= 1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shaken();
        self.sources.change(self.address, |held| held.connections -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_takes_no_more_than_its_part() {
        let sources = Sources::new(16);
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut places = vec![sources.place(one).unwrap(), sources.place(one).unwrap()];
        assert!(sources.place(one).is_none(), "two handshakes at once");
        assert!(sources.place(other).is_some());
        places.iter_mut().for_each(Place::shaken);
        for _ in 2..16 {
            let mut place = sources.place(one).unwrap();
            place.shaken();
            places.push(place);
        }
        assert!(sources.place(one).is_none());
        places.clear();
        assert!(sources.by_address.lock().unwrap().is_empty());
    }
}
