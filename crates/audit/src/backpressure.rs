//! Refuses new connections while their records could not be kept.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use crate::state::LogState;

/// The part of one destination. Each blocked destination adds one to [`LogState::blocking`], which the data plane reads. A
/// destination that is dropped takes its one back.
pub(crate) struct Backpressure {
    state: Arc<LogState>,
    /// Locked while the count changes: two threads of one destination must not take back what is not counted yet.
    on: Mutex<bool>,
}

impl Backpressure {
    pub(crate) fn new(state: Arc<LogState>) -> Self {
        Self { state, on: Mutex::new(false) }
    }

    pub(crate) fn set(&self, on: bool) {
        let mut was_on = self.on.lock().unwrap_or_else(PoisonError::into_inner);
        match (*was_on, on) {
            (false, true) => drop(self.state.blocking.fetch_add(1, Ordering::AcqRel)),
            (true, false) => drop(self.state.blocking.fetch_sub(1, Ordering::AcqRel)),
            _ => {}
        }
        *was_on = on;
    }
}

impl Drop for Backpressure {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use sidegate_telemetry::Metrics;

    use super::*;

    #[test]
    fn two_threads_of_a_destination_never_take_back_what_is_not_counted() {
        let metrics = Arc::new(Metrics::new(&Default::default()));
        let state = LogState::new(metrics);
        let backpressure = Backpressure::new(state.clone());
        std::thread::scope(|scope| {
            let toggles = [true, false].map(|on| {
                let backpressure = &backpressure;
                scope.spawn(move || (0..100_000).for_each(|_| backpressure.set(on)))
            });
            while toggles.iter().any(|toggle| !toggle.is_finished()) {
                assert!(state.blocking.load(Ordering::Acquire) <= 1);
            }
        });
        drop(backpressure);
        assert_eq!(state.blocking.load(Ordering::Acquire), 0);
    }
}
