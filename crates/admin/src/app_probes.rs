//! The endpoints at which a kubelet asks for the application's health: those of the configuration, and no others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use sidegate_config::schema::Probe;
use sidegate_core::event;
use sidegate_proxy::Shared;
use tokio::sync::watch;

use crate::app_probe::AppProbe;

/// All endpoints.
#[derive(Debug, Default)]
pub(crate) struct AppProbes(HashMap<String, ProbeEndpoint>);

/// What a check has found: the status of a healthy application, or why it is not. None as long as it is under way.
type Outcome = Option<Result<StatusCode, String>>;

#[derive(Debug)]
struct ProbeEndpoint {
    probe: Arc<AppProbe>,
    /// The last check. Those who ask while it is under way share what it finds: so strangers who ask without end neither flood the
    /// application nor keep the kubelet from its answer.
    last: Mutex<watch::Receiver<Outcome>>,
}

impl AppProbes {
    /// As configured.
    pub(crate) fn new(probes: &[Probe]) -> Self {
        let endpoint = |probe| ProbeEndpoint { probe: Arc::new(probe), last: Mutex::new(watch::channel(None).1) };
        Self(probes.iter().filter_map(|probe| Some((probe.path.clone(), endpoint(AppProbe::new(probe)?)))).collect())
    }

    /// How long the slowest check may take.
    pub(crate) fn longest(&self) -> Duration {
        self.0.values().map(|endpoint| endpoint.probe.deadline()).max().unwrap_or_default()
    }

    /// Status and text for a kubelet that asks for `path`; none if that is no endpoint.
    pub(crate) async fn answer(&self, path: &str, shared: &Arc<Shared>) -> Option<(StatusCode, String)> {
        let mut check = self.0.get(path)?.check(path, shared);
        let outcome = check.wait_for(Outcome::is_some).await.ok().and_then(|outcome| outcome.clone());
        Some(match outcome.unwrap_or_else(|| Err("the check has failed".to_owned())) {
            Ok(StatusCode::OK) => (StatusCode::OK, "ok\n".to_owned()),
            // Some of the other statuses come without a body.
            Ok(status) => (status, String::new()),
            Err(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
        })
    }
}

impl ProbeEndpoint {
    /// The check that is under way, or a new one. It ends by its deadline, also when nobody waits for it any more.
    fn check(&self, path: &str, shared: &Arc<Shared>) -> watch::Receiver<Outcome> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // One whose sender is gone is over.
        if last.borrow().is_none() && last.has_changed().is_ok() {
            return last.clone();
        }
        let (sender, check) = watch::channel(None);
        *last = check.clone();
        let (probe, shared, path) = (self.probe.clone(), shared.clone(), path.to_owned());
        tokio::spawn(async move {
            let result = probe.run(shared.settings.mark).await;
            shared.telemetry.metrics.probes(result.is_ok()).inc();
            if let Err(failure) = &result {
                tracing::warn!(event = event::PROBE_FAILED, path, "the application fails its health check {path}: {failure}");
            }
            sender.send_replace(Some(result.map_err(|failure| failure.to_string())));
        });
        check
    }
}
