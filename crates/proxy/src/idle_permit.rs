//! A permit for a session to wait for its next connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sidegate_core::Direction;

use crate::shared::Shared;

/// A permit to be among the sessions that wait for a connection. Dropping it gives it back.
pub(crate) struct IdlePermit {
    shared: Arc<Shared>,
    /// Inbound the client decides about the next connection, outbound we do.
    direction: Direction,
}

impl IdlePermit {
    /// None if there is none left.
    pub(crate) fn take(shared: &Arc<Shared>, direction: Direction) -> Option<Self> {
        let limits = &shared.limits;
        let free = |n| (n < limits.most_idle).then_some(n + 1);
        limits.idle[direction as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        shared.telemetry.metrics.idle_tunnels(direction).inc();
        Some(Self { shared: shared.clone(), direction })
    }
}

impl Drop for IdlePermit {
    fn drop(&mut self) {
        self.shared.limits.idle[self.direction as usize].fetch_sub(1, Ordering::Relaxed);
        self.shared.telemetry.metrics.idle_tunnels(self.direction).dec();
    }
}
