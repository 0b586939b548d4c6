//! Bounds on what connections use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use sidegate_core::{Direction, event};

use crate::places::{Places, Wait};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::strangers::Strangers;

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
    /// Inbound connections without an identity.
    pub(crate) strangers: Arc<Strangers>,
    /// By [`Wait`].
    pub(crate) places: [Places; 3],
    /// Sessions in each direction that wait for a connection.
    idle: [AtomicU32; 2],
    most_idle: u32,
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
        let connections = wanted.min(possible);
        let unidentified = settings.limits.unidentified.map_or(connections / 2, |most| usize::try_from(most).unwrap_or(usize::MAX));
        Self {
            connections,
            strangers: Strangers::new(unidentified.clamp(1, connections)),
            places: [Wait::InboundHandshake, Wait::OutboundHandshake, Wait::Detection]
                .map(|wait| Places::new(settings.limits.handshakes, wait)),
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
