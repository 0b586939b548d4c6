//! Whether new connections are refused, since records of them could not be kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sidegate_telemetry::Metrics;

/// One destination's word in it. Each that can't go on counts one in the gauge that the data plane looks at; a
/// destination that ends takes its own back.
pub(crate) struct Block {
    metrics: Arc<Metrics>,
    on: AtomicBool,
}

impl Block {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, on: AtomicBool::new(false) }
    }

    pub(crate) fn set(&self, on: bool) {
        match (self.on.swap(on, Ordering::AcqRel), on) {
            (false, true) => self.metrics.audit_blocked().inc(),
            (true, false) => self.metrics.audit_blocked().dec(),
            _ => {}
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.set(false);
    }
}
