//! Bounds on what connections use.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use sidegate_core::event;

use crate::permit_queue::{PermitKind, PermitQueue};
use crate::unidentified::Unidentified;
use sidegate_control::Settings;

/// Descriptors that are not for connections: listeners, epoll, the Workload API, 64 connections of the admin port and 16 of its
/// socket, collectors, files.
const RESERVED: u64 = 256;
/// How many of these are not open yet when connections begin: with many listeners more than [`RESERVED`] are needed.
const LATER: u64 = 160;
/// Connections in each direction below which a sidecar refuses what any workload needs.
const USEFUL: u64 = 32;

/// Raises the soft limit of descriptors to the hard one and returns it.
///
/// # Errors
/// If the system refuses.
pub fn raise_descriptor_limit() -> std::io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// The process may open too few descriptors to be of use.
#[derive(Debug, thiserror::Error)]
#[error(
    "the process may open {descriptors} descriptors (RLIMIT_NOFILE), which is enough for {possible} connections in each direction, and {wanted} are \
     the least that is of use: {needed} descriptors are needed. Raise the hard limit (`ulimit -Hn` in a shell, `LimitNOFILE=` of a \
     systemd unit, the default limits of the container runtime), or lower `limits.idleTunnels`"
)]
pub struct TooFewDescriptors {
    descriptors: u64,
    possible: u64,
    wanted: u64,
    needed: u64,
}

/// Whether there are descriptors for as many connections as are of use. To be called when listeners are bound.
///
/// # Errors
/// If there are not: connections would be refused that nothing but this limit is against.
pub fn check_descriptors(settings: &Settings) -> Result<(), TooFewDescriptors> {
    let budget = Budget::of(settings);
    let (possible, wanted) = (budget.connections(), USEFUL.min(settings.limits.connections.into()));
    if possible >= wanted {
        return Ok(());
    }
    let needed = budget.kept + 2 * budget.directions * wanted;
    Err(TooFewDescriptors { descriptors: budget.descriptors, possible, wanted, needed })
}

/// What the descriptors are for.
struct Budget {
    /// All that the process may open.
    descriptors: u64,
    /// Not for connections.
    kept: u64,
    /// Directions that have a listener.
    directions: u64,
}

impl Budget {
    fn of(settings: &Settings) -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        Self::new(settings, descriptors, sidegate_telemetry::descriptors().unwrap_or(0))
    }

    /// With `open` of them open already.
    fn new(settings: &Settings, descriptors: u64, open: u64) -> Self {
        let directions = settings.directions.max(1);
        let kept = RESERVED.max(open + LATER) + directions * u64::from(settings.limits.idle_tunnels);
        Self { descriptors, kept, directions }
    }

    /// For how many connections in each direction there are descriptors: each needs two, and past that accept would fail, and nobody
    /// would be told why. A direction that has no listener needs none.
    fn connections(&self) -> u64 {
        self.descriptors.saturating_sub(self.kept) / (2 * self.directions)
    }
}

#[derive(Debug)]
pub(crate) struct Limits {
    /// Open connections in each direction.
    pub(crate) connections: usize,
    /// Inbound connections without an identity.
    pub(crate) unidentified: Arc<Unidentified>,
    /// By [`PermitKind`].
    pub(crate) permits: [PermitQueue; 3],
    /// Sessions in each direction that wait for a connection.
    pub(crate) idle: [AtomicU32; 2],
    pub(crate) most_idle: u32,
}

impl Limits {
    pub(crate) fn new(settings: &Settings) -> Self {
        let budget = Budget::of(settings);
        let possible = usize::try_from(budget.connections()).unwrap_or(usize::MAX).max(1);
        let wanted = usize::try_from(settings.limits.connections).unwrap_or(usize::MAX);
        if wanted > possible {
            let (descriptors, needed) = (budget.descriptors, budget.kept + 2 * budget.directions * u64::from(settings.limits.connections));
            tracing::warn!(
                event = event::LIMIT_LOWERED,
                "limits.connections is {wanted}, but {descriptors} descriptors (RLIMIT_NOFILE) are enough for {possible} in each direction that has a listener; \
                 raise the limit to {needed}, or lower the key"
            );
        }
        let connections = wanted.min(possible);
        let unidentified = settings.limits.unidentified.map_or(connections / 2, |most| usize::try_from(most).unwrap_or(usize::MAX));
        Self {
            connections,
            unidentified: Unidentified::new(unidentified.clamp(1, connections)),
            permits: [PermitKind::InboundHandshake, PermitKind::OutboundHandshake, PermitKind::Detection]
                .map(|wait| PermitQueue::new(settings.limits.handshakes, wait)),
            idle: Default::default(),
            most_idle: settings.limits.idle_tunnels,
        }
    }
}

#[cfg(test)]
mod tests {
    use sidegate_config::Config;

    use super::*;

    #[test]
    fn a_direction_without_a_listener_needs_no_descriptors() {
        let mut config = Config::default();
        config.limits.idle_tunnels = 0;
        let connections = |config: &Config| Budget::new(&Settings::new(config), 10_000, 20).connections();
        assert_eq!(connections(&config), (10_000 - RESERVED) / 4);
        config.inbound.listen = None;
        assert_eq!(connections(&config), (10_000 - RESERVED) / 2);
    }

    #[test]
    fn many_listeners_take_nothing_from_the_admin_port() {
        let settings = Settings::new(&Config::default());
        let budget = Budget::new(&settings, 10_000, 900);
        assert!(budget.descriptors - 900 - 4 * budget.connections() - 512 >= LATER);
    }
}
