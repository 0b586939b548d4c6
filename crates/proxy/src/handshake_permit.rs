//! A connection's permit to shake hands, or to be looked at by detection.

use std::net::IpAddr;
use std::time::Duration;

use sidegate_core::Reason;
use sidegate_net::budget;
use sidegate_net::source;
use tokio::time::{Instant, sleep, timeout_at};

use crate::by_source::GRACE;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::permit_queue::PermitKind;
use crate::shared::Shared;

/// Where buffers hold as much as they may.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A permit, or a turn to have one. Dropping it gives it back.
pub(crate) struct HandshakePermit<'a> {
    shared: &'a Shared,
    /// What it is for.
    wait: PermitKind,
    /// Whose turn it counts as.
    source: IpAddr,
    /// The connection's key in the registry.
    key: u64,
    /// Whether it is a permit, and no turn any more.
    has: bool,
}

impl<'a> HandshakePermit<'a> {
    /// Waits for a permit, no longer than a handshake may take.
    pub(crate) async fn take(connection: &Connection<'a>, wait: PermitKind, peer: IpAddr) -> Result<Self, Failure> {
        let (shared, handle) = (connection.shared, connection.handle);
        let deadline = Instant::now() + shared.settings.timeouts.handshake.duration();
        while budget::is_spent() {
            if Instant::now() >= deadline {
                return Err(Failure::with(Reason::HandshakeLimit, "the buffers of all connections hold `limits.bufferedBytes`"));
            }
            sleep(LOOK_AGAIN).await;
        }
        let Some(handle) = shared.registry.find(handle.key()) else { return Err(Failure::new(Reason::Cancelled)) };
        let queue = &shared.limits.permits[wait as usize];
        let mut permit = Self { shared, wait, source: source(peer), key: handle.key(), has: false };
        let mut turn = queue.enter(permit.source, handle);
        // Where there is room it is its turn at once, and nothing waits for the timer.
        while turn.try_recv().is_err() {
            if wait != PermitKind::OutboundHandshake {
                queue.evict_for(permit.source, permit.key);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(Failure::new(Reason::HandshakeLimit));
            }
            if timeout_at(deadline.min(now + GRACE), &mut turn).await.is_ok() {
                break;
            }
        }
        permit.has = true;
        if let Some(direction) = wait.handshake() {
            shared.telemetry.metrics.handshakes_in_flight(direction).inc();
        }
        Ok(permit)
    }
}

impl Drop for HandshakePermit<'_> {
    fn drop(&mut self) {
        self.shared.limits.permits[self.wait as usize].leave(self.source, self.key);
        if let Some(direction) = self.wait.handshake().filter(|_| self.has) {
            self.shared.telemetry.metrics.handshakes_in_flight(direction).dec();
        }
    }
}
