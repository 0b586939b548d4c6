//! What all connections of all workers share.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use sidegate_telemetry::Telemetry;
use tokio::sync::watch;

use crate::limits::Limits;
use crate::registry::Registry;
use crate::settings::Settings;
use crate::snapshot::Snapshot;

/// Where in its life sidegate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Listeners are bound; nothing is accepted until the first SVID is there.
    Starting,
    /// Both directions are served.
    Serving,
    /// SIGTERM came: not ready any more, but connections that still arrive are served.
    Settling,
    /// Inbound accepts no more; outbound does, for the application drains too.
    Draining,
    /// Nothing is accepted, what is open is cut.
    Ending,
}

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// What connections are judged by.
    pub snapshot: ArcSwap<Snapshot>,
    /// The configuration, compiled.
    pub settings: Arc<Settings>,
    /// Where finished connections report.
    pub telemetry: Arc<Telemetry>,
    /// The live connections.
    pub registry: Registry,
    /// Where in its life sidegate is.
    pub phase: watch::Sender<Phase>,
    pub(crate) limits: Limits,
    /// When the last warning was given, and how many were folded since.
    plaintext_warning: Mutex<(Option<Instant>, u64)>,
}

impl Shared {
    /// At the start: no identity, so nothing is served.
    #[must_use]
    pub fn new(settings: Arc<Settings>, telemetry: Arc<Telemetry>) -> Arc<Self> {
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            limits: Limits::new(&settings),
            plaintext_warning: Mutex::default(),
            registry: Registry::default(),
            phase: watch::Sender::new(Phase::Starting),
            settings,
            telemetry,
        })
    }

    /// Moves on to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let on = *now < phase;
            *now = phase.max(*now);
            on
        });
    }
}

/// At most one warning a second: a health check comes every few, and a flood would hide everything else.
const WARN_EVERY: Duration = Duration::from_secs(1);

impl Shared {
    /// Warns of a plaintext connection. All are counted; those that come too fast are folded into the next warning.
    pub(crate) fn warn_plaintext(&self, what: std::fmt::Arguments<'_>) {
        // Whoever finds it locked is one of too many.
        let Ok(mut folded) = self.plaintext_warning.try_lock() else { return };
        if folded.0.is_some_and(|last| last.elapsed() < WARN_EVERY) {
            folded.1 += 1;
            return;
        }
        tracing::warn!(more_since_last_warning = folded.1, "{what}");
        *folded = (Some(Instant::now()), 0);
    }
}
