//! Serves the directory to sidecars: delta xDS over mutual TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use sidegate_core::{SpiffeId, event, printable};
use sidegate_directory::TYPE_URL;
use sidegate_directory::xds::aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};
use sidegate_directory::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sidegate_identity::{IdentityState, unix_now};
use sidegate_tls::{PeerAuth, Role, TlsContext, verify_cached};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::{Request, Response, Status, Streaming};

use super::sources::Sources;
use super::subscriptions::{Stream, Subscriptions};
use crate::config::Directory;

const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at once.
const HANDSHAKES: usize = 512;
/// A sidecar that vanished without a word is noticed after this and [`KEEPALIVE_ANSWER`].
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// How old a connection gets: so that sidecars spread over new replicas, and show the SVID that they have by then. Up to half as long
/// again, so that those which came together do not go together.
const AGE: Duration = Duration::from_secs(1800);
/// A connection has one stream.
const STREAMS: u32 = 1;
/// The first request names all that a sidecar knows.
const LONGEST_REQUEST: usize = 4 * 1024 * 1024;
/// Addresses in one response, and bytes beyond which none is added: a sidecar takes 4 MiB.
const TOGETHER: usize = 1024;
const LARGE: usize = 1024 * 1024;
/// Connections that wait to be accepted; the kernel's own bound may be less.
const QUEUE: i32 = 4096;
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
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            // All sidecars come back at once after a restart; one that finds the queue full tries again only after a second.
            socket.listen(QUEUE)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
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
        let shared = Arc::new(Shared {
            seats: Semaphore::new(self.config.sidecars as usize),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            sources: Sources::new(self.config.sidecars_per_address as usize),
            clients: PeerAuth::spiffe(self.config.clients.iter().map(|id| id.get().clone())),
            subscriptions: self.subscriptions,
        });
        let mut tasks = JoinSet::new();
        loop {
            let state = identity.wait_for(|state| state.material.is_some()).await.map_err(|_| ended())?.clone();
            let Some(material) = &state.material else { continue };
            match TlsContext::new(material) {
                Ok(context) => {
                    let own = Arc::new(Own { context, id: material.svid.id.clone() });
                    tokio::select! {
                        () = accept(&listener, &shared, &own, &mut tasks) => {}
                        changed = identity.changed() => changed.map_err(|_| ended())?,
                    }
                }
                Err(error) => {
                    tracing::error!(event = event::IDENTITY_UNUSABLE, "no TLS configuration can be made of the SVID: {error}");
                    identity.changed().await.map_err(|_| ended())?;
                }
            }
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("the source of the controller's identity has ended")
}

/// What all connections share.
struct Shared {
    seats: Semaphore,
    handshakes: Arc<Semaphore>,
    sources: Arc<Sources>,
    clients: PeerAuth,
    subscriptions: Arc<Subscriptions>,
}

/// The controller's identity.
struct Own {
    context: TlsContext,
    id: SpiffeId,
}

/// Accepts connections, until dropped.
async fn accept(listener: &TcpListener, shared: &Arc<Shared>, own: &Arc<Own>, tasks: &mut JoinSet<()>) {
    loop {
        // Further sidecars wait in the kernel's queue.
        let Ok(handshake) = shared.handshakes.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, from)) => {
                while tasks.try_join_next().is_some() {}
                let Some(mut place) = shared.sources.place(from.ip().to_canonical()) else {
                    tracing::debug!(event = event::DIRECTORY_CLIENT_REFUSED, %from, "a client was refused: its address has too many connections");
                    continue;
                };
                let (shared, own) = (shared.clone(), own.clone());
                tasks.spawn(async move {
                    let shaken = timeout(HANDSHAKE, shake_hands(tcp, &own, &shared.clients)).await;
                    drop(handshake);
                    place.shaken();
                    let shaken = shaken.unwrap_or_else(|_| Err(format!("no handshake within {} s", HANDSHAKE.as_secs())));
                    let seated =
                        shaken.and_then(|shaken| Ok((shaken, shared.seats.try_acquire().map_err(|_| "all seats are taken".to_owned())?)));
                    match seated {
                        Ok(((stream, peer), _seat)) => serve_connection(stream, peer, shared.subscriptions.clone()).await,
                        Err(why) => {
                            tracing::warn!(event = event::DIRECTORY_CLIENT_REFUSED, %from, "a client of the directory was refused: {why}");
                        }
                    }
                });
            }
            Err(error) => {
                tracing::error!(event = event::ACCEPT_FAILED, "accept failed, trying again: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// A connection with a client that has proven to be one of `clients`.
async fn shake_hands(tcp: TcpStream, own: &Own, clients: &PeerAuth) -> Result<(TlsStream<TcpStream>, SpiffeId), String> {
    let _ = tcp.set_nodelay(true);
    let stream = TlsAcceptor::from(own.context.service(b"h2")).accept(tcp).await.map_err(|error| printable(&error.to_string()))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let (leaf, intermediates) = chain.split_first().ok_or("it has no certificate")?;
    let peer = verify_cached(leaf, intermediates, Role::Client, own.context.trust(), unix_now());
    let peer = peer.map_err(|failure| format!("{}: {}", failure.reason, failure.detail))?.id.clone();
    if !clients.expects(&peer, own.id.trust_domain()) {
        return Err(format!("{peer} is not one of `directory.clients`: {}", clients.expected(own.id.trust_domain())));
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
    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let session = Session {
            stream: self.subscriptions.stream(),
            subscriptions: self.subscriptions.clone(),
            peer: self.peer.clone(),
            requests: request.into_inner(),
            sent: BTreeMap::new(),
            pending: BTreeSet::new(),
            nonce: 0,
        };
        // Nothing runs but when HTTP/2 takes a response: a sidecar that reads none costs nothing but its place.
        let next = async |mut session: Session| match session.next().await {
            Ok(Some(response)) => Some((Ok(response), Some(session))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        };
        let responses = stream::unfold(Some(session), move |session| async move { next(session?).await });
        Ok(Response::new(responses.boxed()))
    }
}

/// A stream of one sidecar. Dropped, nobody is subscribed any more.
struct Session {
    subscriptions: Arc<Subscriptions>,
    stream: Arc<Stream>,
    peer: SpiffeId,
    requests: Streaming<DeltaDiscoveryRequest>,
    /// What it wants, and the version of what it has. None if it has been sent nothing; empty if it knows that there is none.
    sent: BTreeMap<IpAddr, Option<Box<str>>>,
    /// Of which something else may hold than it has.
    pending: BTreeSet<IpAddr>,
    nonce: u64,
}

/// Addresses that a sidecar may want: twice as many as one may be configured to know, for questions come on top.
const WANTED: usize = 32_768;

impl Drop for Session {
    fn drop(&mut self) {
        self.sent.keys().for_each(|ip| self.subscriptions.unsubscribe(&self.stream, *ip));
    }
}

impl Session {
    /// The next response; nothing when the sidecar has ended its requests.
    async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        loop {
            if let Some(response) = self.response() {
                return Ok(Some(response));
            }
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => self.receive(request)?,
                    None => return Ok(None),
                },
                changed = self.stream.changed() => self.pending.extend(changed),
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

    /// What holds now of what is pending, as far as that is another than what was sent. None if nothing is.
    fn response(&mut self) -> Option<DeltaDiscoveryResponse> {
        let mut response = DeltaDiscoveryResponse { type_url: TYPE_URL.to_owned(), ..DeltaDiscoveryResponse::default() };
        let mut bytes = 0;
        while response.resources.len() + response.removed_resources.len() < TOGETHER
            && bytes < LARGE
            && let Some(ip) = self.pending.pop_first()
        {
            // It may have been asked for and given up since.
            let Some(sent) = self.sent.get_mut(&ip) else { continue };
            let resource = self.subscriptions.resource(ip);
            let version: &str = resource.as_ref().map_or("", |resource| &resource.version);
            if sent.as_deref() == Some(version) {
                continue;
            }
            *sent = Some(version.into());
            match resource {
                Some(resource) => {
                    bytes += resource.resource.as_ref().map_or(0, |any| any.value.len());
                    response.resources.push((*resource).clone());
                }
                None => response.removed_resources.push(ip.to_string()),
            }
        }
        if response.resources.is_empty() && response.removed_resources.is_empty() {
            return None;
        }
        self.nonce += 1;
        response.nonce = self.nonce.to_string();
        Some(response)
    }
}
