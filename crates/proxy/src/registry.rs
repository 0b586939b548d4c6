//! The live connections: how many, which, and a way to cut each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sidegate_core::{ConnectionId, Direction, Reason};
use tokio::sync::Notify;

/// Workers add and remove at the same time; each shard has a lock of its own, so they hardly ever meet.
const SHARDS: usize = 16;

/// All live connections.
#[derive(Debug, Default)]
pub struct Registry {
    shards: [Mutex<HashMap<u64, Arc<Live>>>; SHARDS],
    next: AtomicU64,
    open: [AtomicUsize; 2],
    /// Set once everything is to end: also who comes after that is cut.
    cut: OnceLock<Reason>,
}

/// One live connection.
#[derive(Debug)]
pub struct Live {
    key: u64,
    /// Its name.
    pub id: ConnectionId,
    /// Which way it goes.
    pub direction: Direction,
    cut: OnceLock<Reason>,
    notify: Notify,
}

impl Registry {
    pub(crate) fn register(&self, id: ConnectionId, direction: Direction) -> Arc<Live> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let live = Arc::new(Live { key, id, direction, cut: OnceLock::new(), notify: Notify::new() });
        self.open[direction as usize].fetch_add(1, Ordering::Relaxed);
        self.shard(key).insert(key, live.clone());
        if let Some(reason) = self.cut.get() {
            live.cut(*reason);
        }
        live
    }

    pub(crate) fn remove(&self, live: &Live) {
        if self.shard(live.key).remove(&live.key).is_some() {
            self.open[live.direction as usize].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.iter().map(|open| open.load(Ordering::Relaxed)).sum()
    }

    /// How many are open in one direction.
    pub(crate) fn open_in(&self, direction: Direction) -> usize {
        self.open[direction as usize].load(Ordering::Relaxed)
    }

    /// Cuts every connection, for `reason`, and from now on every new one. The first reason counts.
    pub fn cut_all(&self, reason: Reason) {
        let reason = *self.cut.get_or_init(|| reason);
        for shard in &self.shards {
            let live: Vec<Arc<Live>> = shard.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
            live.iter().for_each(|l| l.cut(reason));
        }
    }

    fn shard(&self, key: u64) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Live>>> {
        let index = usize::try_from(key % SHARDS as u64).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// Ends the connection, for `reason`. The first reason counts.
    pub fn cut(&self, reason: Reason) {
        let _ = self.cut.set(reason);
        self.notify.notify_one();
    }

    /// Waits until the connection is cut.
    pub(crate) async fn cut_for(&self) -> Reason {
        loop {
            if let Some(reason) = self.cut.get() {
                return *reason;
            }
            self.notify.notified().await;
        }
    }
}
