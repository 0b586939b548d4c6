//! What all connections of all workers share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use sidegate_audit::Audit;
use sidegate_core::Direction;
use sidegate_identity::unix_now;
use sidegate_telemetry::{Observation, Telemetry};
use sidegate_tls::budget;
use tokio::sync::watch;

use crate::capture::Capture;
use crate::limits::Limits;
use crate::loads::{Loads, Subject};
use crate::memory::buffered_bytes;
use crate::own_dials::OwnDials;
use crate::registry::Registry;
use crate::settings::Settings;
use crate::snapshot::{Readiness, Snapshot};

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

/// What is missing while `onFailure: block-new-connections` refuses them.
const AUDIT_BLOCKED: &str = "audit records can't be kept, so every new connection is refused (`onFailure: block-new-connections`): see sidegate.audit.failing in the log";

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// What connections are judged by.
    pub snapshot: ArcSwap<Snapshot>,
    /// The configuration, compiled.
    pub settings: Arc<Settings>,
    /// Where finished connections report.
    pub telemetry: Arc<Telemetry>,
    /// Where security events are recorded.
    pub audit: Arc<Audit>,
    /// The live connections.
    pub registry: Registry,
    /// Where in its life sidegate is.
    pub phase: watch::Sender<Phase>,
    /// Whether the kernel sends the pod's traffic here.
    pub capture: watch::Sender<Capture>,
    /// What is in force, and what was refused since.
    pub loads: Loads,
    /// Counts up when identity or policy changes: sessions that wait for a connection end then.
    pub(crate) renewals: watch::Sender<u64>,
    pub(crate) limits: Limits,
    pub(crate) own_dials: Arc<OwnDials>,
}

impl Shared {
    /// At the start: no identity, so nothing is served.
    #[must_use]
    pub fn new(settings: Arc<Settings>, telemetry: Arc<Telemetry>, audit: Arc<Audit>) -> Arc<Self> {
        let shared = Arc::new(Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            limits: Limits::new(&settings),
            registry: Registry::default(),
            own_dials: Arc::default(),
            phase: watch::Sender::new(Phase::Starting),
            capture: watch::Sender::new(Capture::NotProved),
            loads: Loads::default(),
            renewals: watch::Sender::new(0),
            settings,
            telemetry,
            audit,
        });
        budget::set_limit(buffered_bytes(&shared.settings.limits));
        let observed = Arc::downgrade(&shared);
        shared.telemetry.metrics.observe(move || observed.upgrade().map_or_else(Observation::default, |shared| shared.observation()));
        shared
    }

    /// Whether new connections can be served, and if not what is missing.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if *self.phase.borrow() > Phase::Serving {
            return Readiness::NotReady(vec!["draining".to_owned()]);
        }
        let mut missing = self.snapshot.load().missing();
        missing.extend(self.capture.borrow().missing().map(str::to_owned));
        missing.extend(self.audit.is_blocked().then(|| AUDIT_BLOCKED.to_owned()));
        if missing.is_empty() { Readiness::Ready } else { Readiness::NotReady(missing) }
    }

    /// Whether the start is over: connections have been served, and the kernel sends them here or once did.
    #[must_use]
    pub fn has_started(&self) -> bool {
        *self.phase.borrow() >= Phase::Serving && !self.capture.borrow().is_new()
    }

    fn observation(&self) -> Observation {
        let snapshot = self.snapshot.load();
        let now = unix_now();
        let material = snapshot.identity.material.as_ref();
        let bundles = material.into_iter().flat_map(|m| &m.bundles);
        let last = |(domain, bundle): (&sidegate_core::TrustDomain, &sidegate_identity::Bundle)| {
            let expiry = bundle.authorities.iter().map(|a| a.not_after).max()?;
            Some((domain.to_string().into(), expiry - now))
        };
        Observation {
            ready: self.readiness() == Readiness::Ready,
            svid_time_left: material.map(|m| m.svid.not_after - now),
            bundles_time_left: bundles.filter_map(last).collect(),
            captured: match &*self.capture.borrow() {
                Capture::NotProved => None,
                capture => Some(capture.missing().is_none()),
            },
            loads: Subject::ALL
                .map(|subject| {
                    let load = self.loads.get(subject);
                    let age = load.since.map(|since| since.elapsed().unwrap_or_default());
                    (subject.label(), age, load.refused.len())
                })
                .into(),
            buffered: (budget::held(), budget::limit()),
            audit_blocking: self.audit.blocking(),
            sources: snapshot.identity.sources.iter().map(|s| (s.name.as_str().into(), s.healthy)).collect(),
        }
    }

    /// Whether as many connections are open in this direction as may be.
    pub(crate) fn is_full(&self, direction: Direction) -> bool {
        self.registry.open_in(direction) >= self.limits.connections
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
