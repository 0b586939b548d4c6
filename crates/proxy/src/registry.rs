//! The live connections: how many, which, and a way to cut each.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use sidegate_control::Destination;
use sidegate_core::{ClientAddr, ConnectionId, ConnectionRecord, Direction, HandshakeFacts, OriginalDst, Reason, Transport};
use sidegate_tls::PeerIdentity;
use tokio::sync::Notify;

/// Workers add and remove at the same time; each shard has a lock of its own, so they hardly ever meet.
const SHARDS: usize = 16;

/// All live connections.
#[derive(Debug, Default)]
pub struct Registry {
    shards: [Mutex<HashMap<u64, Arc<ConnectionHandle>>>; SHARDS],
    next: AtomicU64,
    /// Connections by the peer who named them, and the name.
    named: [Mutex<HashSet<Named>>; SHARDS],
    open: [AtomicUsize; 2],
    /// Set once everything is to end: also who comes after that is cut.
    cut: OnceLock<Reason>,
}

/// A name is a peer's own business: two peers may choose the same.
type Named = (Arc<str>, ConnectionId);

/// One live connection.
#[derive(Debug)]
pub struct ConnectionHandle {
    /// Counts up with each connection.
    key: u64,
    /// Its name, if the client's sidecar does not choose another.
    own_id: ConnectionId,
    /// The peer that has named it, and the name.
    named: OnceLock<Named>,
    /// Which way it goes.
    pub direction: Direction,
    /// Who connected to us.
    pub downstream: ClientAddr,
    /// When it was accepted.
    pub since: SystemTime,
    /// The same moment by the clock that no one sets.
    pub(crate) accepted: Instant,
    /// Where it goes, once that is known.
    destination: Mutex<Option<OriginalDst>>,
    /// The last one, where a connection was tried again.
    admission: ArcSwapOption<Admission>,
    /// Application bytes from downstream to upstream, so far.
    pub bytes_up: AtomicU64,
    /// Application bytes the other way, so far.
    pub bytes_down: AtomicU64,
    /// When a byte came last, in milliseconds after it was accepted.
    touched: AtomicU64,
    /// Why it is cut, once it is.
    cut: OnceLock<Cut>,
    /// Wakes its task for that.
    notify: Notify,
}

/// Why a connection is cut, and what exactly for.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    pub(crate) reason: Reason,
    pub(crate) detail: Option<String>,
}

/// As what a connection was admitted.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The peer's SPIFFE ID, verified; none on a plaintext connection.
    pub peer: Option<Arc<str>>,
    /// How the bytes travel.
    pub transport: Option<Transport>,
    /// The rule that admitted it.
    pub rule: Option<Arc<str>>,
    /// By what it is re-evaluated when the world changes.
    pub(crate) basis: AdmissionBasis,
}

/// By what a connection was admitted.
#[derive(Debug, Clone)]
pub(crate) enum AdmissionBasis {
    /// A client, by policy.
    Client { peer: Arc<PeerIdentity>, facts: Arc<HandshakeFacts> },
    /// A client without an identity, by deny rules alone.
    Plaintext,
    /// A server, by what was expected at the destination, and by policy.
    Server { peer: Arc<PeerIdentity>, facts: Arc<HandshakeFacts>, destination: Arc<Destination> },
    /// None: it is out of the mesh.
    Outside,
}

impl Registry {
    pub(crate) fn register(&self, record: &ConnectionRecord) -> Arc<ConnectionHandle> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let direction = record.direction;
        let handle = Arc::new(ConnectionHandle {
            key,
            own_id: record.connection_id,
            named: OnceLock::new(),
            direction,
            downstream: record.downstream,
            since: record.time,
            accepted: record.accepted,
            destination: Mutex::new(None),
            admission: ArcSwapOption::empty(),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            touched: AtomicU64::new(0),
            cut: OnceLock::new(),
            notify: Notify::new(),
        });
        self.open[direction as usize].fetch_add(1, Ordering::Relaxed);
        self.shard(key).insert(key, handle.clone());
        if let Some(reason) = self.cut.get() {
            handle.cut(*reason);
        }
        handle
    }

    pub(crate) fn remove(&self, handle: &ConnectionHandle) {
        if self.shard(handle.key).remove(&handle.key).is_some() {
            self.open[handle.direction as usize].fetch_sub(1, Ordering::Relaxed);
            if let Some(named) = handle.named.get() {
                self.names(named.1).remove(named);
            }
        }
    }

    /// Names a connection as its peer does; false if another live one of the same peer has that name.
    pub(crate) fn name(&self, handle: &ConnectionHandle, peer: Arc<str>, id: ConnectionId) -> bool {
        let named = (peer, id);
        self.names(id).insert(named.clone()) && handle.named.set(named).is_ok()
    }

    fn names(&self, id: ConnectionId) -> std::sync::MutexGuard<'_, HashSet<Named>> {
        self.named[usize::from(id.bytes()[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.iter().map(|open| open.load(Ordering::Relaxed)).sum()
    }

    /// All of them, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ConnectionHandle>> {
        let mut all: Vec<Arc<ConnectionHandle>> = Vec::with_capacity(self.open());
        for shard in &self.shards {
            all.extend(shard.lock().unwrap_or_else(PoisonError::into_inner).values().cloned());
        }
        all.sort_by_key(|handle| handle.key);
        all
    }

    pub(crate) fn find(&self, key: u64) -> Option<Arc<ConnectionHandle>> {
        self.shard(key).get(&key).cloned()
    }

    /// How many are open in one direction.
    #[must_use]
    pub fn open_in(&self, direction: Direction) -> usize {
        self.open[direction as usize].load(Ordering::Relaxed)
    }

    /// Cuts every connection, for `reason`, and from now on every new one. The first reason counts.
    pub fn cut_all(&self, reason: Reason) {
        let reason = *self.cut.get_or_init(|| reason);
        for shard in &self.shards {
            let handle: Vec<Arc<ConnectionHandle>> = shard.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
            handle.iter().for_each(|l| l.cut(reason));
        }
    }

    fn shard(&self, key: u64) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<ConnectionHandle>>> {
        let index = usize::try_from(key % SHARDS as u64).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionHandle {
    /// What tells it from every other connection of this sidecar, whatever a peer names its own.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Its name: the one that the client's sidecar has chosen, once that is known.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.named.get().map_or(self.own_id, |(_, id)| *id)
    }

    /// Where it goes, once that is known.
    #[must_use]
    pub fn destination(&self) -> Option<OriginalDst> {
        *self.destination.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As what it was admitted; none before.
    #[must_use]
    pub fn admission(&self) -> Option<Arc<Admission>> {
        self.admission.load_full()
    }

    pub(crate) fn set_destination(&self, destination: OriginalDst) {
        *self.destination.lock().unwrap_or_else(PoisonError::into_inner) = Some(destination);
    }

    /// Says as what it is admitted, by what `record` says of it.
    pub(crate) fn admit(&self, record: &ConnectionRecord, basis: AdmissionBasis) {
        if let Some(destination) = record.original_destination {
            self.set_destination(destination);
        }
        self.admission.store(Some(Arc::new(Admission {
            peer: record.peer.id().cloned(),
            transport: record.transport,
            rule: record.decision.as_ref().map(|d| d.rule.clone()),
            basis,
        })));
    }

    /// Notes that a byte came.
    pub(crate) fn touch(&self, now: Instant) {
        let after = now.saturating_duration_since(self.accepted).as_millis();
        self.touched.store(u64::try_from(after).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// Whether a byte has come.
    pub(crate) fn has_spoken(&self) -> bool {
        self.touched.load(Ordering::Relaxed) > 0
    }

    /// When a byte came last, or it was accepted.
    pub(crate) fn silent_since(&self) -> Instant {
        self.accepted + Duration::from_millis(self.touched.load(Ordering::Relaxed))
    }

    /// Ends the connection, for `reason`. The first reason counts.
    pub fn cut(&self, reason: Reason) {
        self.cut_because(Cut { reason, detail: None });
    }

    pub(crate) fn cut_because(&self, cut: Cut) {
        let _ = self.cut.set(cut);
        self.notify.notify_one();
    }

    /// Why it is being cut, if it is.
    pub(crate) fn is_cut(&self) -> Option<&Cut> {
        self.cut.get()
    }

    /// Waits until the connection is cut.
    pub(crate) async fn cut_for(&self) -> Cut {
        loop {
            if let Some(cut) = self.cut.get() {
                return cut.clone();
            }
            self.notify.notified().await;
        }
    }
}
