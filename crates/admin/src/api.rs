//! Answers the admin API. Every call that changes something is recorded as an event with its caller.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sidegate_audit::{AdminAction, Event};
use sidegate_core::{Reason, SpiffeId, SpiffeIdPattern, event};
use sidegate_proxy::{ConnectionHandle, Shared};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status as Refusal};

use crate::answers::{activity, connection, identities, latest, newest, of_record, status, time};
use crate::controls::Controls;
use crate::v1;
use crate::v1::connection_change::Change;
use crate::v1::cut_connections_request::Which;

const SHOWN: usize = 1000;
/// At most this many matching IDs are named.
const NAMED: usize = 10;
/// Each watch scans the registry once a second.
const WATCHERS: usize = 8;
const LOOK: Duration = Duration::from_secs(1);

pub(crate) struct Api {
    controls: Arc<Controls>,
    watchers: Arc<Semaphore>,
}

impl Api {
    pub(crate) fn new(controls: Arc<Controls>) -> Self {
        Self { controls, watchers: Arc::new(Semaphore::new(WATCHERS)) }
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
        Ok(Response::new(status(&self.controls)))
    }

    async fn list_connections(&self, request: Request<v1::ListConnectionsRequest>) -> Answer<v1::ListConnectionsResponse> {
        let request = request.into_inner();
        let limit = match usize::try_from(request.limit) {
            Ok(0) | Err(_) => SHOWN,
            Ok(limit) => limit,
        };
        if request.newest {
            return Ok(Response::new(newest(&self.controls.shared, limit)));
        }
        let all = self.controls.shared.registry.all();
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

    async fn get_activity(&self, request: Request<v1::GetActivityRequest>) -> Answer<v1::Activity> {
        let shared = &self.controls.shared;
        let latest = if request.into_inner().latest { latest(shared) } else { None };
        Ok(Response::new(v1::Activity { latest, ..activity(shared) }))
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
