//! The endpoints at which a kubelet asks for the application's health: those of the configuration, and no others.

use std::collections::HashMap;
use std::time::Duration;

use hyper::StatusCode;
use sidegate_config::schema::Probe;
use sidegate_core::event;
use sidegate_proxy::Shared;
use tokio::sync::Semaphore;

use crate::app_probe::{AppProbe, ProbeFailure};

/// Checks at once of each endpoint: strangers who ask without end do not flood the application.
const AT_ONCE: usize = 4;

/// All endpoints.
#[derive(Debug, Default)]
pub(crate) struct AppProbes(HashMap<String, ProbeEndpoint>);

#[derive(Debug)]
struct ProbeEndpoint {
    probe: AppProbe,
    places: Semaphore,
}

impl AppProbes {
    /// As configured.
    pub(crate) fn new(probes: &[Probe]) -> Self {
        let endpoint = |probe| ProbeEndpoint { probe, places: Semaphore::new(AT_ONCE) };
        Self(probes.iter().filter_map(|probe| Some((probe.path.clone(), endpoint(AppProbe::new(probe)?)))).collect())
    }

    /// How long the slowest check may take.
    pub(crate) fn longest(&self) -> Duration {
        self.0.values().map(|endpoint| endpoint.probe.deadline()).max().unwrap_or_default()
    }

    /// Status and text for a kubelet that asks for `path`; none if that is no endpoint.
    pub(crate) async fn answer(&self, path: &str, shared: &Shared) -> Option<(StatusCode, String)> {
        let endpoint = self.0.get(path)?;
        let result = match endpoint.places.try_acquire() {
            Ok(_place) => endpoint.probe.run(shared.settings.mark).await,
            Err(_) => Err(ProbeFailure::Busy(AT_ONCE)),
        };
        shared.telemetry.metrics.probes(result.is_ok()).inc();
        Some(match result {
            Ok(StatusCode::OK) => (StatusCode::OK, "ok\n".to_owned()),
            // Some of the other statuses come without a body.
            Ok(status) => (status, String::new()),
            Err(failure) => {
                tracing::warn!(event = event::PROBE_FAILED, path, "the application fails its health check {path}: {failure}");
                (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n"))
            }
        })
    }
}
