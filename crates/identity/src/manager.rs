//! Runs the sources and publishes the material of the first that has some.

use std::sync::Arc;

use sidegate_config::schema::{self, Profile};
use sidegate_config::value::Endpoint;
use sidegate_core::event;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::material::{Material, unix_now};
use crate::source::{SourceRules, SourceState, SourceStatus};
use crate::{files, workload_api};

/// The current identity and how the sources are doing.
#[derive(Debug, Clone, Default)]
pub struct IdentityState {
    /// The material in use; none before the first SVID, after withdrawal and after expiry.
    pub material: Option<Arc<Material>>,
    /// Each source, in the configured order.
    pub sources: Vec<SourceStatus>,
    /// How often material was replaced by other material.
    pub rotations: u64,
    /// How often a source offered material that could not be used.
    pub refused: u64,
}

/// Why sources can't be started.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No source is named and the environment has none.
    #[error("no identity source: set `identity.sources`, or SPIFFE_ENDPOINT_SOCKET to the Workload API's socket")]
    NoSource,
    /// An entry is not exactly one source.
    #[error("an entry of `identity.sources` has not exactly one of its keys: write each source as an entry of its own")]
    NotOne,
    /// The environment names no endpoint.
    #[error("SPIFFE_ENDPOINT_SOCKET: {0}")]
    BadEndpoint(String),
}

/// The running sources. Dropping it ends them.
#[derive(Debug)]
pub struct Identity {
    state: watch::Receiver<Arc<IdentityState>>,
    _tasks: JoinSet<()>,
}

impl Identity {
    /// Starts the configured sources on the current runtime. Absent sockets and files are waited for.
    ///
    /// # Errors
    /// If no source is named, an entry is not exactly one, or the environment names no endpoint.
    pub fn start(config: &schema::Identity, profile: Profile) -> Result<Self, IdentityError> {
        let rules = SourceRules {
            select: config.select.clone(),
            grace: config.permission_denied_grace.0.duration(),
            refuse_development: profile == Profile::Production,
        };
        let mut tasks = JoinSet::new();
        let mut sources = Vec::new();
        let default = [schema::Source { workload_api: Some(schema::WorkloadApi::default()), files: None }];
        for source in if config.sources.is_empty() { &default[..] } else { &config.sources[..] } {
            let source = ConfiguredSource::new(source)?;
            let name = match &source {
                ConfiguredSource::Files(files) => format!("files {}", files.certificate.display()),
                ConfiguredSource::WorkloadApi(endpoint) => format!("workload API {endpoint}"),
            };
            let status = SourceStatus { name, healthy: false, refuses: false, message: "starting".to_owned() };
            let (sender, receiver) = watch::channel(SourceState { material: None, status, refused: 0 });
            match source {
                ConfiguredSource::Files(files) => tasks.spawn(files::run(files.clone(), rules.clone(), sender)),
                ConfiguredSource::WorkloadApi(endpoint) => tasks.spawn(workload_api::run(endpoint, rules.clone(), sender)),
            };
            sources.push(receiver);
        }
        let (sender, state) = watch::channel(Arc::new(IdentityState::default()));
        tasks.spawn(merge(sources, sender));
        Ok(Self { state, _tasks: tasks })
    }

    /// The state, now and as it changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<IdentityState>> {
        self.state.clone()
    }
}

/// A source of the configuration: matched in full wherever sources differ, so that a new one is missing nowhere.
enum ConfiguredSource<'a> {
    WorkloadApi(Endpoint),
    Files(&'a schema::Files),
}

impl<'a> ConfiguredSource<'a> {
    fn new(source: &'a schema::Source) -> Result<Self, IdentityError> {
        let schema::Source { workload_api, files } = source;
        match (workload_api, files) {
            (Some(workload_api), None) => endpoint(workload_api).map(Self::WorkloadApi),
            (None, Some(files)) => Ok(Self::Files(files)),
            // The configuration's check has said so before.
            (None, None) | (Some(_), Some(_)) => Err(IdentityError::NotOne),
        }
    }
}

fn endpoint(config: &schema::WorkloadApi) -> Result<Endpoint, IdentityError> {
    if let Some(socket) = &config.socket {
        return Ok(socket.clone());
    }
    let text = std::env::var(schema::SPIFFE_ENDPOINT_SOCKET).map_err(|_| IdentityError::NoSource)?;
    Endpoint::parse(&text).map_err(IdentityError::BadEndpoint)
}

/// Publishes the state again whenever a source changes or the SVID in use expires.
async fn merge(mut sources: Vec<watch::Receiver<SourceState>>, sender: watch::Sender<Arc<IdentityState>>) {
    let mut rotations = 0;
    loop {
        let now = unix_now();
        let states: Vec<SourceState> = sources.iter_mut().map(|s| s.borrow_and_update().clone()).collect();
        let material = states.iter().filter_map(|s| s.material.clone()).find(|m| m.svid.is_valid_at(now));
        let before = sender.borrow().material.clone();
        if let (Some(old), Some(new)) = (&before, &material)
            && !Arc::ptr_eq(old, new)
        {
            rotations += 1;
        }
        if before.is_some() && material.is_none() {
            tracing::error!(event = event::IDENTITY_LOST, "no valid X.509-SVID any more; new connections are refused until there is one");
        }
        let remaining = material.as_ref().map(|m| m.svid.remaining(now));
        let refused = states.iter().map(|s| s.refused).sum();
        let status = states.into_iter().map(|s| s.status).collect();
        sender.send_replace(Arc::new(IdentityState { material, sources: status, rotations, refused }));
        // One second more, since `not_after` is inclusive.
        let expiry = async {
            match remaining {
                Some(left) => tokio::time::sleep(left + std::time::Duration::from_secs(1)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = any_change(&mut sources) => {}
            () = expiry => {}
        }
    }
}

async fn any_change(sources: &mut [watch::Receiver<SourceState>]) {
    let waits = sources.iter_mut().map(|source| {
        Box::pin(async move {
            if source.changed().await.is_err() {
                // The source has ended; its last state stays.
                std::future::pending::<()>().await;
            }
        })
    });
    let mut waits: Vec<_> = waits.collect();
    std::future::poll_fn(|cx| {
        if waits.iter_mut().any(|wait| wait.as_mut().poll(cx).is_ready()) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
