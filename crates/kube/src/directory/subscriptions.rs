//! Who has asked for which address, and what has changed of it since.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_directory::xds;
use tokio::sync::Notify;

use super::cluster::{Cluster, Kind, Object};

/// The cluster, and all streams.
#[derive(Debug, Default)]
pub struct Subscriptions {
    known: Mutex<Known>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    cluster: Cluster,
    /// By address, the streams that want it; and its resource, until something changes.
    wanted: HashMap<IpAddr, Wanted>,
}

#[derive(Debug, Default)]
struct Wanted {
    streams: HashMap<u64, Arc<Stream>>,
    /// Made once for all: what it is now, which may be nothing. None if that has to be looked at.
    resource: Option<Option<Arc<xds::Resource>>>,
}

/// What a sidecar's stream has to send.
#[derive(Debug)]
pub struct Stream {
    id: u64,
    /// Addresses of which something else may hold than was sent. Bounded by what the stream has asked for.
    changed: Mutex<BTreeSet<IpAddr>>,
    wake: Notify,
}

impl Stream {
    /// Waits until there is something to send, and takes it.
    pub async fn changed(&self) -> BTreeSet<IpAddr> {
        loop {
            let changed = std::mem::take(&mut *lock(&self.changed));
            if !changed.is_empty() {
                return changed;
            }
            self.wake.notified().await;
        }
    }

    fn mark(&self, ip: IpAddr) {
        lock(&self.changed).insert(ip);
        self.wake.notify_one();
    }
}

impl Subscriptions {
    /// A new stream, which wants nothing yet.
    #[must_use]
    pub fn stream(&self) -> Arc<Stream> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Arc::new(Stream { id, changed: Mutex::default(), wake: Notify::new() })
    }

    /// From now on `stream` is told of `ip`: first what holds now.
    pub fn subscribe(&self, stream: &Arc<Stream>, ip: IpAddr) {
        lock(&self.known).wanted.entry(ip).or_default().streams.insert(stream.id, stream.clone());
        stream.mark(ip);
    }

    /// From now on `stream` is not told of `ip`.
    pub fn unsubscribe(&self, stream: &Stream, ip: IpAddr) {
        let wanted = &mut lock(&self.known).wanted;
        if let Some(of_ip) = wanted.get_mut(&ip) {
            of_ip.streams.remove(&stream.id);
            if of_ip.streams.is_empty() {
                wanted.remove(&ip);
            }
        }
    }

    /// What holds now of `ip`: nothing if nobody has it.
    #[must_use]
    pub fn resource(&self, ip: IpAddr) -> Option<Arc<xds::Resource>> {
        let Known { cluster, wanted } = &mut *lock(&self.known);
        let make = || cluster.entry(ip).map(|entry| Arc::new(entry.to_resource(ip)));
        match wanted.get_mut(&ip) {
            Some(of_ip) => of_ip.resource.get_or_insert_with(make).clone(),
            None => make(),
        }
    }

    /// An object as it is now, or that there is none any more.
    pub fn set(&self, kind: Kind, name: &str, object: Option<Object>) {
        let Known { cluster, wanted } = &mut *lock(&self.known);
        for ip in cluster.set(kind, name, object) {
            if let Some(of_ip) = wanted.get_mut(&ip) {
                of_ip.resource = None;
                of_ip.streams.values().for_each(|stream| stream.mark(ip));
            }
        }
    }

    /// After a list of everything: what was not in it is gone.
    pub fn retain(&self, kind: Kind, listed: &HashSet<String>) {
        let gone: Vec<String> = lock(&self.known).cluster.names(kind).filter(|name| !listed.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.set(kind, name, None));
    }

    /// How many addresses somebody wants.
    #[must_use]
    pub fn wanted(&self) -> usize {
        lock(&self.known).wanted.len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
