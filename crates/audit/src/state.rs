//! What the data plane's side and the writer's side of the log share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};

use sidegate_identity::IdentityState;
use sidegate_telemetry::Metrics;
use tokio::sync::watch;

/// Where the identity is to be found, once its sources have been started.
pub type IdentityCell = Arc<OnceLock<watch::Receiver<Arc<IdentityState>>>>;

pub(crate) struct State {
    pub(crate) metrics: Arc<Metrics>,
    /// How many messages wait for the writer.
    pub(crate) waiting: AtomicUsize,
    /// Events that could not be written, and are not told of in the log yet.
    pub(crate) missing: AtomicU64,
    /// Set once the process ends: nothing is waited for long any more.
    pub(crate) closing: AtomicBool,
}

impl State {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { metrics, waiting: AtomicUsize::new(0), missing: AtomicU64::new(0), closing: AtomicBool::new(false) })
    }
}
