//! Refuses new connections while their records could not be kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::state::LogState;

/// The part of one destination. Each blocked destination adds one to [`LogState::blocking`], which the data plane reads. A
/// destination that is dropped takes its one back.
pub(crate) struct Backpressure {
    state: Arc<LogState>,
    on: AtomicBool,
}

impl Backpressure {
    pub(crate) fn new(state: Arc<LogState>) -> Self {
        Self { state, on: AtomicBool::new(false) }
    }

    pub(crate) fn set(&self, on: bool) {
        match (self.on.swap(on, Ordering::AcqRel), on) {
            (false, true) => drop(self.state.blocking.fetch_add(1, Ordering::AcqRel)),
            (true, false) => drop(self.state.blocking.fetch_sub(1, Ordering::AcqRel)),
            _ => {}
        }
    }
}

impl Drop for Backpressure {
    fn drop(&mut self) {
        self.set(false);
    }
}
