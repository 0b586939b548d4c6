//! Answers the admin API. Every call that changes something is recorded as an event with its caller.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use sidegate_audit::{AdminAction, Event};
use sidegate_control::{Load, Subject};
use sidegate_core::{ConnectionRecord, Direction, Reason, SpiffeId, SpiffeIdPattern, event, rfc3339};
use sidegate_identity::unix_now;
use sidegate_proxy::{Capture, ConnectionHandle, Phase, Readiness, Shared};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status as Refusal};

use crate::drain::DrainState;
use crate::v1;
use crate::v1::connection_change::Change;
use crate::v1::cut_connections_request::Which;

const SHOWN: usize = 1000;
/// At most this many matching IDs are named.
const NAMED: usize = 10;
/// Each watch scans the registry once a second.
const WATCHERS: usize = 8;
const LOOK: Duration = Duration::from_secs(1);

type SetLogFilter = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// What the admin API can read and change.
pub struct Controls {
    /// The data plane.
    pub shared: Arc<Shared>,
    /// The configuration as it was loaded, secrets redacted.
    pub config: String,
    /// The profile's name.
    pub profile: String,
    /// Returns the log filter.
    pub log_filter: Box<dyn Fn() -> String + Send + Sync>,
    /// Changes the log filter, or says what is wrong with the new one.
    pub set_log_filter: Box<SetLogFilter>,
    /// The drain, which the API can begin.
    pub drain: Arc<DrainState>,
}

pub(crate) struct Api {
    controls: Controls,
    started: Instant,
    watchers: Arc<Semaphore>,
}

impl Api {
    pub(crate) fn new(controls: Controls) -> Self {
        Self { controls, started: Instant::now(), watchers: Arc::new(Semaphore::new(WATCHERS)) }
    }
}

/// User and process of the caller.
fn caller<T>(request: &Request<T>) -> (i64, i64) {
    let credentials = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    credentials.map_or((-1, -1), |c| (i64::from(c.uid()), c.pid().map_or(-1, i64::from)))
}

/// Records an action with its caller.
fn record(shared: &Shared, action: AdminAction, (uid, pid): (i64, i64), detail: &str) {
    shared.audit.record(Event::AdminAction { action, uid, pid, detail: sidegate_core::printable(detail) });
}

type Answer<T> = Result<Response<T>, Refusal>;

#[tonic::async_trait]
impl v1::admin_server::Admin for Api {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::Status> {
        let shared = &self.controls.shared;
        let snapshot = shared.control.snapshot.load();
        let missing = match shared.readiness() {
            Readiness::Ready => Vec::new(),
            Readiness::NotReady(lines) => lines,
        };
        let exports = shared.telemetry.exports().into_iter().map(|export| v1::Export {
            signal: export.signal.label().to_owned(),
            endpoint: export.target,
            error: export.error,
            exported: export.exported,
            dropped: export.dropped,
        });
        Ok(Response::new(v1::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            phase: phase(*shared.phase.borrow()).to_owned(),
            ready: missing.is_empty(),
            missing,
            identities: Some(identities(shared)),
            policy_rules: snapshot.policy.len() as u64,
            generation: snapshot.generation,
            traffic: [Direction::Inbound, Direction::Outbound].map(|d| traffic(shared, d)).into(),
            exports: exports.collect(),
            log_filter: (self.controls.log_filter)(),
            profile: self.controls.profile.clone(),
            capture: Some(capture(&shared.capture.borrow())),
            loads: Subject::ALL.map(|subject| load(subject, shared.control.loads.get(subject))).into(),
            directory: shared.control.directory.as_ref().map(|directory| v1::Directory {
                addresses: directory.len() as u64,
                unavailable: directory.unavailable().map(|why| why.to_string()),
            }),
            drain_ends: self.controls.drain.ends().map(time),
        }))
    }

    async fn list_connections(&self, request: Request<v1::ListConnectionsRequest>) -> Answer<v1::ListConnectionsResponse> {
        let all = self.controls.shared.registry.all();
        let limit = match usize::try_from(request.into_inner().limit) {
            Ok(0) | Err(_) => SHOWN,
            Ok(limit) => limit,
        };
        let connections = all.iter().take(limit).map(|live| connection(live)).collect();
        Ok(Response::new(v1::ListConnectionsResponse { connections, open: all.len() as u64 }))
    }

    type WatchConnectionsStream = Pin<Box<dyn Stream<Item = Result<v1::ConnectionChange, Refusal>> + Send>>;

    async fn watch_connections(&self, _: Request<v1::WatchConnectionsRequest>) -> Answer<Self::WatchConnectionsStream> {
        let Ok(place) = self.watchers.clone().try_acquire_owned() else {
            return Err(Refusal::resource_exhausted(format!("{WATCHERS} watch already")));
        };
        let (sender, changes) = mpsc::channel(64);
        let task = AbortOnDropHandle::new(tokio::spawn(watch(self.controls.shared.clone(), sender)));
        // The stream owns both: they end with the watcher.
        let owned = ReceiverStream::new(changes).map(move |change| {
            let _owned = (&task, &place);
            change
        });
        Ok(Response::new(Box::pin(owned)))
    }

    async fn cut_connections(&self, request: Request<v1::CutConnectionsRequest>) -> Answer<v1::CutConnectionsResponse> {
        let (uid, pid) = caller(&request);
        let Some(which) = request.into_inner().which else {
            return Err(Refusal::invalid_argument("say which: a connection's ID, or a peer's SPIFFE ID"));
        };
        let all = self.controls.shared.registry.all();
        let (meant, what) = match which {
            Which::ConnectionId(start) => (by_id(all, &start)?, format!("the connection {start}")),
            Which::Peer(peer) => {
                let pattern = SpiffeIdPattern::parse(&peer).map_err(|e| Refusal::invalid_argument(e.to_string()))?;
                let is_meant = |live: &Arc<ConnectionHandle>| {
                    let peer = live.admission().and_then(|admission| SpiffeId::new(admission.peer.as_deref()?).ok());
                    peer.is_some_and(|peer| pattern.matches(&peer))
                };
                (all.into_iter().filter(is_meant).collect(), format!("all connections with {peer}"))
            }
        };
        let cut = meant.len() as u64;
        meant.iter().for_each(|live| live.cut(Reason::Cut));
        let what = sidegate_core::printable(&what);
        let open = if cut == 1 { "1 was open".to_owned() } else { format!("{cut} were open") };
        tracing::warn!(event = event::ADMIN_CUT, uid, pid, cut, "user {uid} cut {what}: {open}");
        record(&self.controls.shared, AdminAction::Cut, (uid, pid), &format!("{what}: {open}"));
        if cut == 0 {
            return Err(Refusal::not_found(format!("{what}: none is open, and nothing was cut")));
        }
        Ok(Response::new(v1::CutConnectionsResponse { cut }))
    }

    async fn list_identities(&self, _: Request<v1::ListIdentitiesRequest>) -> Answer<v1::Identities> {
        Ok(Response::new(identities(&self.controls.shared)))
    }

    async fn get_config(&self, request: Request<v1::GetConfigRequest>) -> Answer<v1::Config> {
        record(&self.controls.shared, AdminAction::ConfigRead, caller(&request), "");
        Ok(Response::new(v1::Config { yaml: self.controls.config.clone() }))
    }

    async fn set_log_filter(&self, request: Request<v1::SetLogFilterRequest>) -> Answer<v1::SetLogFilterResponse> {
        let (uid, pid) = caller(&request);
        let filter = request.into_inner().filter;
        let previous = (self.controls.log_filter)();
        (self.controls.set_log_filter)(&filter).map_err(Refusal::invalid_argument)?;
        record(&self.controls.shared, AdminAction::LogFilter, (uid, pid), &format!("{previous} became {filter}"));
        tracing::warn!(event = event::ADMIN_LOG_FILTER, uid, pid, previous, filter, "user {uid} changed the log filter");
        Ok(Response::new(v1::SetLogFilterResponse { previous }))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Answer<v1::DrainResponse> {
        let (uid, pid) = caller(&request);
        record(&self.controls.shared, AdminAction::Drain, (uid, pid), "");
        tracing::warn!(event = event::ADMIN_DRAIN, uid, pid, "user {uid} started the drain");
        self.controls.drain.begin();
        let ends = self.controls.drain.ends().map(time).unwrap_or_default();
        Ok(Response::new(v1::DrainResponse { ends }))
    }
}

/// The connection whose ID begins with `start`. Connections of several peers may share an ID: then all of them match.
fn by_id(all: Vec<Arc<ConnectionHandle>>, start: &str) -> Result<Vec<Arc<ConnectionHandle>>, Refusal> {
    if start.is_empty() {
        return Err(Refusal::invalid_argument("the ID is empty"));
    }
    let meant: Vec<(String, Arc<ConnectionHandle>)> =
        all.into_iter().map(|live| (live.id().to_string(), live)).filter(|(id, _)| id.starts_with(start)).collect();
    let ids: BTreeSet<&str> = meant.iter().map(|(id, _)| id.as_str()).collect();
    if ids.len() > 1 {
        let named: Vec<&str> = ids.iter().copied().take(NAMED).collect();
        let more = if ids.len() > NAMED { format!(", and {} more", ids.len() - NAMED) } else { String::new() };
        return Err(Refusal::failed_precondition(format!(
            "{} open connections have an ID that begins with {start}, and nothing was cut; give more of it: {}{more}",
            ids.len(),
            named.join(", ")
        )));
    }
    Ok(meant.into_iter().map(|(_, live)| live).collect())
}

/// Sends a watcher the connections that open and end.
async fn watch(shared: Arc<Shared>, sender: mpsc::Sender<Result<v1::ConnectionChange, Refusal>>) {
    // Subscribes first, so that no end is missed meanwhile.
    let mut ended = shared.telemetry.watch();
    let mut known = HashMap::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        let changes = tokio::select! {
            () = sender.closed() => return,
            _ = look.tick() => {
                let with_state = |live: Arc<ConnectionHandle>| (live.admission().is_some(), live);
                let all: Vec<(bool, Arc<ConnectionHandle>)> = shared.registry.all().into_iter().map(with_state).collect();
                // Sent when it is first seen, and again once it is admitted.
                let is_news = |(admitted, live): &&(bool, Arc<ConnectionHandle>)| known.get(&live.key()).is_none_or(|before| *admitted && !before);
                let opened: Vec<Change> = all.iter().filter(is_news).map(|(_, live)| Change::Opened(connection(live))).collect();
                known = all.iter().map(|(admitted, live)| (live.key(), *admitted)).collect();
                opened
            }
            record = ended.recv() => match record {
                Ok(record) => vec![Change::Ended(of_record(&record))],
                Err(RecvError::Lagged(missed)) => vec![Change::Missed(missed)],
                Err(RecvError::Closed) => return,
            },
        };
        for change in changes {
            if sender.send(Ok(v1::ConnectionChange { change: Some(change) })).await.is_err() {
                return;
            }
        }
    }
}

/// RFC 3339, to the second.
fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn capture(capture: &Capture) -> v1::Capture {
    let (state, since) = match capture {
        Capture::NotProved => ("not_proved", None),
        Capture::Proven { since } => ("proven", Some(*since)),
        Capture::Missing { .. } => ("missing", None),
    };
    v1::Capture { state: state.to_owned(), since: since.map(time), why: capture.missing().map(str::to_owned) }
}

fn load(subject: Subject, load: Load) -> v1::Load {
    let files = load.files.into_iter().map(|file| v1::File { file: file.file, sha256: file.sha256 });
    let refused = load.refused.into_iter().map(|(source, refusal)| v1::Refusal { source, since: time(refusal.since), why: refusal.why });
    v1::Load { subject: subject.label().to_owned(), since: load.since.map(time), files: files.collect(), refused: refused.collect() }
}

fn of_record(record: &ConnectionRecord) -> v1::EndedConnection {
    let json = serde_json::to_string(record).unwrap_or_default();
    v1::EndedConnection { json, line: sidegate_telemetry::line(record) }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Settling => "settling",
        Phase::Draining => "draining",
        Phase::Ending => "ending",
    }
}

fn traffic(shared: &Shared, direction: Direction) -> v1::Traffic {
    let metrics = &shared.telemetry.metrics;
    let ended = Reason::ALL.iter().map(|reason| v1::Ended {
        reason: reason.label().to_owned(),
        connections: metrics.ended(direction, *reason),
        success: !reason.is_failure(),
    });
    v1::Traffic {
        direction: direction.label().to_owned(),
        open: shared.registry.open_in(direction) as u64,
        handshakes_in_flight: u64::try_from(metrics.handshakes_in_flight(direction).get()).unwrap_or(0),
        ended: ended.filter(|e| e.connections > 0).collect(),
    }
}

fn identities(shared: &Shared) -> v1::Identities {
    let state = shared.control.snapshot.load().identity.clone();
    let now = unix_now();
    let svid = state.material.as_ref().map(|material| {
        let facts = material.svid.facts();
        v1::Svid {
            spiffe_id: material.svid.id.to_string(),
            sha256: facts.sha256(),
            serial: facts.serial,
            not_before: rfc3339(facts.not_before),
            not_after: rfc3339(facts.not_after),
            seconds_left: facts.not_after - now,
        }
    });
    let bundles = state.material.iter().flat_map(|material| &material.bundles).map(|(domain, bundle)| {
        let last = bundle.authorities.iter().map(|a| a.not_after).max();
        v1::Bundle {
            trust_domain: domain.to_string(),
            authorities: u32::try_from(bundle.authorities.len()).unwrap_or(u32::MAX),
            seconds_left: last.map_or(0, |last| last - now),
            not_after: last.and_then(rfc3339),
        }
    });
    let sources = state.sources.iter().map(|s| v1::Source { name: s.name.clone(), healthy: s.healthy, message: s.message.clone() });
    v1::Identities { svid, bundles: bundles.collect(), sources: sources.collect(), rotations: state.rotations }
}

fn connection(live: &ConnectionHandle) -> v1::Connection {
    let admission = live.admission();
    let admission = admission.as_deref();
    let rule = admission.and_then(|a| a.rule.as_ref());
    v1::Connection {
        connection_id: live.id().to_string(),
        time: humantime::format_rfc3339_micros(live.since).to_string(),
        direction: live.direction.label().to_owned(),
        downstream: live.downstream.to_string(),
        original_destination: live.destination().map(|d| d.to_string()),
        admitted: admission.is_some(),
        transport: admission.and_then(|a| a.transport).map(|transport| transport.label().to_owned()),
        peer_id: admission.and_then(|a| a.peer.as_ref()).map(ToString::to_string),
        decision: rule.map(|rule| v1::Decision { allowed: true, rule: rule.to_string() }),
        bytes_up: live.bytes_up.load(Ordering::Relaxed),
        bytes_down: live.bytes_down.load(Ordering::Relaxed),
    }
}
