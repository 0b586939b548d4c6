//! What all connections of all workers share.

use std::sync::Arc;

use sidegate_audit::Audit;
use sidegate_control::{Control, Settings, Subject};
use sidegate_core::Direction;
use sidegate_identity::unix_now;
use sidegate_net::budget;
use sidegate_telemetry::{Observation, Telemetry};
use tokio::sync::watch;

use crate::capture::Capture;
use crate::limits::Limits;
use crate::memory::buffered_bytes;
use crate::own_dials::OwnDials;
use crate::registry::Registry;

/// Whether new connections can be served, and if not what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// They can.
    Ready,
    /// What is missing, a line each.
    NotReady(Vec<String>),
}

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
    /// The snapshot by which connections are verified and authorized, and what the control plane says of it.
    pub control: Arc<Control>,
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
    pub(crate) limits: Limits,
    pub(crate) own_dials: Arc<OwnDials>,
}

impl Shared {
    /// At the start: no identity, so nothing is served.
    #[must_use]
    pub fn new(control: Arc<Control>) -> Arc<Self> {
        let (settings, telemetry, audit) = (control.settings.clone(), control.telemetry.clone(), control.audit.clone());
        let shared = Arc::new(Self {
            limits: Limits::new(&settings),
            registry: Registry::default(),
            own_dials: Arc::default(),
            phase: watch::Sender::new(Phase::Starting),
            capture: watch::Sender::new(Capture::NotProved),
            control,
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
        let mut missing = self.control.snapshot.load().missing();
        missing.extend(self.capture.borrow().missing().map(str::to_owned));
        missing.extend(self.audit.is_blocked().then(|| AUDIT_BLOCKED.to_owned()));
        // The snapshot is there a moment before the workers are told.
        if missing.is_empty() && *self.phase.borrow() < Phase::Serving {
            missing.push("connections are not accepted yet".to_owned());
        }
        if missing.is_empty() { Readiness::Ready } else { Readiness::NotReady(missing) }
    }

    /// Whether the start is over: connections have been served, and the kernel sends them here or once did.
    #[must_use]
    pub fn has_started(&self) -> bool {
        *self.phase.borrow() >= Phase::Serving && !self.capture.borrow().is_new()
    }

    fn observation(&self) -> Observation {
        let snapshot = self.control.snapshot.load();
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
            directory: self.control.directory.as_ref().map(|directory| (directory.unavailable().is_none(), directory.len())),
            captured: match &*self.capture.borrow() {
                Capture::NotProved => None,
                capture => Some(capture.missing().is_none()),
            },
            loads: Subject::ALL
                .map(|subject| {
                    let load = self.control.loads.get(subject);
                    let age = load.since.map(|since| since.elapsed().unwrap_or_default());
                    (subject.label(), age, load.refused.len())
                })
                .into(),
            buffered: (budget::held(), budget::limit()),
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
