//! The state that the data plane and the writer share.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sidegate_identity::IdentityState;
use sidegate_telemetry::Metrics;
use tokio::sync::watch;

/// The identity, once its sources have been started.
pub type IdentityCell = Arc<OnceLock<watch::Receiver<Arc<IdentityState>>>>;

pub(crate) struct LogState {
    pub(crate) metrics: Arc<Metrics>,
    /// How many messages wait for the writer.
    pub(crate) waiting: AtomicUsize,
    /// How many destinations block new connections.
    pub(crate) blocking: Arc<AtomicUsize>,
    /// Events that could not be written, and are not told of in the log yet.
    pub(crate) missing: AtomicU64,
    /// The deadlines of the shutdown, once it has begun.
    end: OnceLock<LogEnd>,
}

/// The deadlines of the shutdown.
struct LogEnd {
    /// For the disk.
    disk: Instant,
    /// For the other destinations, after that.
    all: Instant,
}

/// The longest wait for the disk at shutdown, and then for the other destinations.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl LogState {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let blocking = Arc::new(AtomicUsize::new(0));
        metrics.observe_audit_blocking(blocking.clone());
        Arc::new(Self { metrics, waiting: AtomicUsize::new(0), blocking, missing: AtomicU64::new(0), end: OnceLock::new() })
    }

    /// Begins the shutdown, which ends at `until` at the latest. The disk has half of the remaining time: if it fails, the other
    /// destinations still get the last records, and only the file lacks them.
    pub(crate) fn close(&self, until: Instant) {
        let now = Instant::now();
        let disk = now + CLOSE_TIMEOUT.min(until.saturating_duration_since(now) / 2);
        let _ = self.end.set(LogEnd { disk, all: until.min(disk + CLOSE_TIMEOUT) });
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.end.get().is_some()
    }

    /// Whether the process ends, and the disk has had its time.
    pub(crate) fn gives_up_disk(&self) -> bool {
        self.end.get().is_some_and(|end| Instant::now() >= end.disk)
    }

    /// Until when the other destinations are waited for.
    pub(crate) fn deadline(&self) -> Instant {
        self.end.get().map_or_else(|| Instant::now() + CLOSE_TIMEOUT, |end| end.all)
    }
}
