//! What the control plane publishes, and where it reports.

use std::sync::Arc;

use arc_swap::ArcSwap;
use sidegate_audit::Audit;
use sidegate_telemetry::Telemetry;
use tokio::sync::watch;

use crate::directory::Directory;
use crate::loads::Loads;
use crate::settings::Settings;
use crate::snapshot::Snapshot;

/// What the control plane publishes, and where it reports.
#[derive(Debug)]
pub struct Control {
    /// The present snapshot. At the start it has no identity, so nothing is served.
    pub snapshot: ArcSwap<Snapshot>,
    /// Counts up after a snapshot with another identity, policy or revocation has been stored.
    pub renewals: watch::Sender<u64>,
    /// What is in force, and what was refused since.
    pub loads: Loads,
    /// The configuration, compiled.
    pub settings: Arc<Settings>,
    /// Who is expected in the cluster, where the configuration names a directory.
    pub directory: Option<Arc<Directory>>,
    /// Counts reloads and rotations.
    pub telemetry: Arc<Telemetry>,
    /// Takes what was loaded and refused.
    pub audit: Arc<Audit>,
}

/// The snapshot for a connection that begins now.
#[derive(Debug)]
pub struct Latest {
    /// It decides about the connection.
    pub snapshot: Arc<Snapshot>,
    /// A count of renewals that the snapshot has at least.
    pub renewal: u64,
}

impl Control {
    /// The snapshot for a connection that begins now.
    #[must_use]
    pub fn latest(&self) -> Latest {
        // The count first: a renewal between the two is seen as one that came later.
        let renewal = *self.renewals.borrow();
        Latest { snapshot: self.snapshot.load_full(), renewal }
    }

    /// At the start: no identity.
    #[must_use]
    pub fn new(settings: Arc<Settings>, telemetry: Arc<Telemetry>, audit: Arc<Audit>) -> Arc<Self> {
        Arc::new(Self {
            directory: settings.directory.as_ref().map(Directory::new),
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            renewals: watch::Sender::new(0),
            loads: Loads::default(),
            settings,
            telemetry,
            audit,
        })
    }
}
