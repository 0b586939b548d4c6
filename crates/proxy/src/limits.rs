//! Bounds on what connections use.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::settings::Settings;
use crate::shared::Shared;

/// Descriptors that are not for connections: listeners, epoll, the Workload API, admin, files.
const RESERVED: u64 = 64;

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
    /// Open connections.
    pub(crate) connections: usize,
    handshakes: u32,
    in_flight: AtomicU32,
}

impl Limits {
    pub(crate) fn new(settings: &Settings) -> Self {
        // A connection needs two descriptors: past that limit accept would fail, and nobody would be told why.
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let possible = usize::try_from(descriptors.saturating_sub(RESERVED) / 2).unwrap_or(usize::MAX).max(1);
        let wanted = usize::try_from(settings.limits.connections).unwrap_or(usize::MAX);
        if wanted > possible {
            tracing::warn!("limits.connections is {wanted}, but {descriptors} descriptors are enough for {possible} connections only");
        }
        Self { connections: wanted.min(possible), handshakes: settings.limits.handshakes, in_flight: AtomicU32::new(0) }
    }
}

/// A place among the handshakes in flight. Dropping it frees the place.
pub(crate) struct HandshakePlace<'a>(&'a Shared);

impl<'a> HandshakePlace<'a> {
    pub(crate) fn take(shared: &'a Shared) -> Option<Self> {
        let limits = &shared.limits;
        limits.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limits.handshakes).then_some(n + 1)).ok()?;
        shared.telemetry.metrics.handshakes_in_flight.inc();
        Some(Self(shared))
    }
}

impl Drop for HandshakePlace<'_> {
    fn drop(&mut self) {
        self.0.limits.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.telemetry.metrics.handshakes_in_flight.dec();
    }
}
