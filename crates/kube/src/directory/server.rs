//! Serves the directory to sidecars: delta xDS over mutual TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use sidegate_core::{SpiffeId, event, printable};
use sidegate_directory::TYPE_URL;
use sidegate_directory::xds::aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};
use sidegate_directory::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sidegate_identity::{IdentityState, unix_now};
use sidegate_tls::{PeerAuth, Role, TlsContext, verify_cached};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::subscriptions::{Stream, Subscriptions};
use crate::config::Directory;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// A sidecar that vanished without a word is noticed after this and [`KEEPALIVE_ANSWER`].
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// How old a connection gets: so that sidecars spread over new replicas, and show the SVID that they have by then. Up to half as long
/// again, so that those which came together do not go together.
const AGE: Duration = Duration::from_secs(1800);
/// A connection has one stream; a second is there for a moment at most.
const STREAMS: u32 = 2;
/// The first request names all that a sidecar knows.
const LONGEST_REQUEST: usize = 4 * 1024 * 1024;
/// Responses that wait until HTTP/2 takes them. What changes meanwhile is sent as it is then.
const RESPONSES: usize = 1;
/// How long a sidecar may take no response.
const STALLED: Duration = Duration::from_secs(60);
/// Addresses in one response.
const TOGETHER: usize = 1024;
const PAUSE: Duration = Duration::from_millis(100);

/// Why the directory can't be served.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Its address can't be bound.
    #[error("can't listen on {0} for directory.listen: {1}; is another controller running?")]
    Bind(SocketAddr, io::Error),
}

/// The directory's listener, bound.
#[derive(Debug)]
pub struct DirectoryServer {
    listener: StdListener,
    config: Directory,
    subscriptions: Arc<Subscriptions>,
}

impl DirectoryServer {
    /// Binds the address of `config`.
    ///
    /// # Errors
    /// If it can't be bound.
    pub fn bind(config: Directory, subscriptions: Arc<Subscriptions>) -> Result<Self, DirectoryError> {
        let address = config.listen.0;
        let bind = || {
            let listener = StdListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        Ok(Self { listener: bind().map_err(|error| DirectoryError::Bind(address, error))?, config, subscriptions })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped, with the identity that holds at the time. Until there is one, sidecars wait in the kernel's queue.
    ///
    /// # Errors
    /// If the listener can't be used on this runtime.
    pub async fn serve(self, mut identity: watch::Receiver<Arc<IdentityState>>) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let room = Arc::new(Semaphore::new(self.config.sidecars as usize));
        let clients = PeerAuth::spiffe(self.config.clients.iter().map(|id| id.get().clone()));
        let mut tls: Option<Arc<TlsContext>> = None;
        let mut tasks = JoinSet::new();
        loop {
            if tls.is_none() || identity.has_changed().unwrap_or(false) {
                let Ok(state) = identity.wait_for(|state| state.material.is_some()).await.map(|state| state.clone()) else { return Ok(()) };
                tls = state.material.as_ref().and_then(|material| match TlsContext::new(material) {
                    Ok(context) => Some(Arc::new(context)),
                    Err(error) => {
                        tracing::error!(event = event::IDENTITY_UNUSABLE, "no TLS configuration can be made of the SVID: {error}");
                        None
                    }
                });
                identity.mark_unchanged();
            }
            let Some(context) = &tls else {
                sleep(PAUSE).await;
                continue;
            };
            let own = identity.borrow().material.as_ref().map(|material| material.svid.id.clone());
            let next = async {
                // Further sidecars wait in the kernel's queue.
                let permit = room.clone().acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                next = next => next,
                changed = identity.changed() => match changed {
                    Ok(()) => {
                        tls = None;
                        continue;
                    }
                    Err(_) => return Ok(()),
                },
            };
            match (accepted, own) {
                (Ok((tcp, from)), Some(own)) => {
                    while tasks.try_join_next().is_some() {}
                    let (context, clients, subscriptions) = (context.clone(), clients.clone(), self.subscriptions.clone());
                    tasks.spawn(async move {
                        let shaken = timeout(HANDSHAKE, shake_hands(tcp, &context, &clients, &own)).await;
                        match shaken.unwrap_or_else(|_| Err(format!("no handshake within {} s", HANDSHAKE.as_secs()))) {
                            Ok((stream, peer)) => serve_connection(stream, peer, subscriptions).await,
                            Err(why) => tracing::warn!(event = event::DIRECTORY_CLIENT_REFUSED, %from, "a client of the directory was refused: {why}"),
                        }
                        drop(permit);
                    });
                }
                (Ok(_), None) => {}
                (Err(error), _) => {
                    tracing::error!(event = event::ACCEPT_FAILED, "accept failed, trying again: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// A connection with a client that has proven to be one of `clients`.
async fn shake_hands(
    tcp: TcpStream,
    context: &TlsContext,
    clients: &PeerAuth,
    own: &SpiffeId,
) -> Result<(TlsStream<TcpStream>, SpiffeId), String> {
    let _ = tcp.set_nodelay(true);
    let stream = TlsAcceptor::from(context.service(b"h2")).accept(tcp).await.map_err(|error| printable(&error.to_string()))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let (leaf, intermediates) = chain.split_first().ok_or("it has no certificate")?;
    let peer = verify_cached(leaf, intermediates, Role::Client, context.trust(), unix_now());
    let peer = peer.map_err(|failure| format!("{}: {}", failure.reason, failure.detail))?.id.clone();
    if !clients.expects(&peer, own.trust_domain()) {
        return Err(format!("{peer} is not one of `directory.clients`: {}", clients.expected(own.trust_domain())));
    }
    Ok((stream, peer))
}

async fn serve_connection(stream: TlsStream<TcpStream>, peer: SpiffeId, subscriptions: Arc<Subscriptions>) {
    let service = AggregatedDiscoveryServiceServer::new(OfConnection { peer, subscriptions }).max_decoding_message_size(LONGEST_REQUEST);
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .max_concurrent_streams(STREAMS)
        // Thousands of connections, each of which sends little.
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(64 * 1024)
        .max_send_buf_size(64 * 1024)
        .max_header_list_size(8 * 1024);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let age = AGE.mul_f64(1.0 + fastrand::f64() / 2.0);
    if timeout(age, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(KEEPALIVE_ANSWER, connection).await;
    }
}

/// The service, of one connection.
#[derive(Debug)]
struct OfConnection {
    peer: SpiffeId,
    subscriptions: Arc<Subscriptions>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for OfConnection {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, outgoing) = mpsc::channel(RESPONSES);
        let (subscriptions, peer) = (self.subscriptions.clone(), self.peer.clone());
        // Ends when the client has gone: its requests end, and so do its responses.
        tokio::spawn(async move {
            let mut session = Session { stream: subscriptions.stream(), subscriptions, peer, sent: BTreeMap::new(), nonce: 0 };
            let ended = session.run(request.into_inner(), &responses).await;
            session.end();
            if let Err(status) = ended {
                let _ = timeout(STALLED, responses.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// A stream of one sidecar.
struct Session {
    subscriptions: Arc<Subscriptions>,
    stream: Arc<Stream>,
    peer: SpiffeId,
    /// What it wants, and the version of what it has. None if it has been sent nothing; empty if it knows that there is none.
    sent: BTreeMap<IpAddr, Option<Box<str>>>,
    nonce: u64,
}

/// Addresses that a sidecar may want.
const WANTED: usize = 65_536;

impl Session {
    async fn run(
        &mut self,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        responses: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) -> Result<(), Status> {
        loop {
            let stream = self.stream.clone();
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => self.receive(request)?,
                    None => return Ok(()),
                },
                changed = stream.changed() => self.send(changed, responses).await?,
                () = responses.closed() => return Ok(()),
            }
        }
    }

    fn receive(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if !request.type_url.is_empty() && request.type_url != TYPE_URL {
            return Err(Status::invalid_argument(format!(
                "resources of type `{}` are not served, {TYPE_URL} are",
                printable(&request.type_url)
            )));
        }
        if let Some(error) = request.error_detail {
            tracing::warn!(
                event = event::DIRECTORY_REFUSED,
                peer = %self.peer,
                "a sidecar can't use what the directory says: {}",
                printable(&error.message)
            );
        }
        let address =
            |name: &String| name.parse::<IpAddr>().map_err(|_| Status::invalid_argument(format!("`{}` is no IP address", printable(name))));
        for name in &request.resource_names_unsubscribe {
            let ip = address(name)?;
            self.sent.remove(&ip);
            self.subscriptions.unsubscribe(&self.stream, ip);
        }
        for name in &request.resource_names_subscribe {
            let ip = address(name)?;
            if self.sent.len() >= WANTED && !self.sent.contains_key(&ip) {
                return Err(Status::resource_exhausted(format!("a sidecar may want {WANTED} addresses")));
            }
            // Asked for again, it is sent again.
            let version = request.initial_resource_versions.get(name).map(|version| version.as_str().into());
            self.sent.insert(ip, version);
            self.subscriptions.subscribe(&self.stream, ip);
        }
        Ok(())
    }

    /// Sends what holds now of `changed`, as far as that is another than what was sent.
    async fn send(
        &mut self,
        changed: BTreeSet<IpAddr>,
        responses: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) -> Result<(), Status> {
        let changed: Vec<IpAddr> = changed.into_iter().collect();
        for some in changed.chunks(TOGETHER) {
            let mut response = DeltaDiscoveryResponse { type_url: TYPE_URL.to_owned(), ..DeltaDiscoveryResponse::default() };
            for ip in some {
                // It may have been asked for and given up since.
                let Some(sent) = self.sent.get_mut(ip) else { continue };
                let resource = self.subscriptions.resource(*ip);
                let version: &str = resource.as_ref().map_or("", |resource| &resource.version);
                if sent.as_deref() == Some(version) {
                    continue;
                }
                *sent = Some(version.into());
                match resource {
                    Some(resource) => response.resources.push((*resource).clone()),
                    None => response.removed_resources.push(ip.to_string()),
                }
            }
            if response.resources.is_empty() && response.removed_resources.is_empty() {
                continue;
            }
            self.nonce += 1;
            response.nonce = self.nonce.to_string();
            match timeout(STALLED, responses.send(Ok(response))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(()),
                Err(_) => return Err(Status::deadline_exceeded("the sidecar takes no response")),
            }
        }
        Ok(())
    }

    fn end(&self) {
        self.sent.keys().for_each(|ip| self.subscriptions.unsubscribe(&self.stream, *ip));
    }
}
