//! Bounds on what connections use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use sidegate_core::{Direction, Reason, event};

use crate::attempt::Failure;
use crate::settings::Settings;
use crate::shared::Shared;

/// Descriptors that are not for connections: listeners, epoll, the Workload API, admin, files.
const RESERVED: u64 = 256;

/// Raises the soft limit of descriptors to the hard one and returns it.
///
/// # Errors
/// If the system refuses.
pub fn raise_descriptor_limit() -> std::io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

#[derive(Debug)]
pub(crate) struct Limits {
    /// Open connections in each direction.
    pub(crate) connections: usize,
    places: u32,
    taken: [AtomicU32; 3],
    /// Sessions in each direction that wait for a connection.
    idle: [AtomicU32; 2],
    most_idle: u32,
}

/// What a connection waits for that may take a peer's own time. Each has places of its own, so that strangers who connect
/// and stay silent can't keep the workload from calling others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    InboundHandshake,
    OutboundHandshake,
    Detection,
}

impl Wait {
    /// Of which direction's handshake it is, if it is one.
    fn handshake(self) -> Option<Direction> {
        match self {
            Self::InboundHandshake => Some(Direction::Inbound),
            Self::OutboundHandshake => Some(Direction::Outbound),
            Self::Detection => None,
        }
    }
}

impl From<Direction> for Wait {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::InboundHandshake,
            Direction::Outbound => Self::OutboundHandshake,
        }
    }
}

impl Limits {
    pub(crate) fn new(settings: &Settings) -> Self {
        // A connection needs two descriptors: past that limit accept would fail, and nobody would be told why. A direction that
        // has no listener needs none.
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let directions = settings.directions.max(1);
        let idle = directions * u64::from(settings.limits.idle_tunnels);
        let possible = descriptors.saturating_sub(RESERVED + idle) / (2 * directions);
        let possible = usize::try_from(possible).unwrap_or(usize::MAX).max(1);
        let wanted = usize::try_from(settings.limits.connections).unwrap_or(usize::MAX);
        if wanted > possible {
            tracing::info!(
                event = event::LIMIT_LOWERED,
                "limits.connections is {wanted}, but {descriptors} descriptors are enough for {possible} in each direction that has a listener"
            );
        }
        Self {
            connections: wanted.min(possible),
            places: settings.limits.handshakes,
            taken: Default::default(),
            idle: Default::default(),
            most_idle: settings.limits.idle_tunnels,
        }
    }
}

/// A place among the sessions that wait for a connection. Dropping it frees the place.
pub(crate) struct IdlePlace {
    shared: Arc<Shared>,
    direction: Direction,
}

impl IdlePlace {
    /// None if there is none left.
    pub(crate) fn take(shared: &Arc<Shared>, direction: Direction) -> Option<Self> {
        let limits = &shared.limits;
        let free = |n| (n < limits.most_idle).then_some(n + 1);
        limits.idle[direction as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        shared.telemetry.metrics.idle_tunnels(direction).inc();
        Some(Self { shared: shared.clone(), direction })
    }
}

impl Drop for IdlePlace {
    fn drop(&mut self) {
        self.shared.limits.idle[self.direction as usize].fetch_sub(1, Ordering::Relaxed);
        self.shared.telemetry.metrics.idle_tunnels(self.direction).dec();
    }
}

/// A place among those who wait. Dropping it frees the place.
pub(crate) struct Place<'a> {
    shared: &'a Shared,
    wait: Wait,
}

impl<'a> Place<'a> {
    pub(crate) fn take(shared: &'a Shared, wait: Wait) -> Result<Self, Failure> {
        let limits = &shared.limits;
        let free = |n| (n < limits.places).then_some(n + 1);
        limits.taken[wait as usize]
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, free)
            .map_err(|_| Failure::new(Reason::HandshakeLimit))?;
        if let Some(direction) = wait.handshake() {
            shared.telemetry.metrics.handshakes_in_flight(direction).inc();
        }
        Ok(Self { shared, wait })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.limits.taken[self.wait as usize].fetch_sub(1, Ordering::Relaxed);
        if let Some(direction) = self.wait.handshake() {
            self.shared.telemetry.metrics.handshakes_in_flight(direction).dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use sidegate_config::Config;

    use super::*;

    fn connections(config: &Config) -> usize {
        Limits::new(&Settings::new(config)).connections
    }

    #[test]
    fn a_direction_without_a_listener_needs_no_descriptors() {
        let mut config = Config::default();
        config.limits.connections = u32::MAX;
        config.limits.idle_tunnels = 0;
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let half = usize::try_from(descriptors.saturating_sub(RESERVED) / 2).unwrap();
        assert_eq!(connections(&config), half / 2);
        config.inbound.listen = None;
        assert_eq!(connections(&config), half);
    }
}
