//! A connection from the workload: accept, original destination, match, dial, handshake, authorize the peer, relay.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sidegate_config::schema::{TunnelMode, Unavailable};
use sidegate_config::value::HostAndPort;
use sidegate_control::{Destination, Expected, Protocol, Snapshot, Tls};
use sidegate_core::{
    ClientAddr, ConnectionRecord, Decision, DialAddr, Direction, Lap, OriginalDst, Peer, ReachedAt, Reason, Transport, TunnelUse, event,
};
use sidegate_identity::unix_now;
use sidegate_net::socket;
use sidegate_tls::{Role, ServerName, Session, TUNNEL, verify_again};
use sidegate_tunnel::Tunnel;
use tokio::net::TcpStream;

use crate::attempt::attempt;
use crate::authorize::authorize_server;
use crate::connection::Connection;
use crate::course::{Towards, otherwise, out_of_bounds, towards};
use crate::destination::original_destination;
use crate::dial::{dial_in_advance, dial_peer};
use crate::failure::Failure;
use crate::handshake::{establish, shake_hands};
use crate::handshake_cache;
use crate::handshake_permit::HandshakePermit;
use crate::idle_permit::IdlePermit;
use crate::own_dials::OwnDial;
use crate::peer_channel::{ChannelError, PeerChannel};
use crate::permit_queue::PermitKind;
use crate::reevaluate::admit;
use crate::registry::{AdmissionBasis, ConnectionHandle};
use crate::relay::{Broken, Side, Wire, relay};
use crate::shared::Shared;
use crate::tunnel_pool;

/// How an outbound connection's destination is known.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// The kernel redirected it and knows.
    Redirected,
    /// The listener leads to this peer, whose destination has this index.
    To(HostAndPort, usize),
}

/// Serves one connection to its end; its session is kept for the next where that can be. `accepted` is boxed, for a task keeps the
/// room of its arguments to its end.
pub(crate) async fn outbound(shared: Arc<Shared>, accepted: Box<(TcpStream, ClientAddr, Route)>) {
    let (tcp, from, route) = *accepted;
    let serve = async |shared: &Shared, record: &mut ConnectionRecord, handle: &ConnectionHandle| {
        // What was read of the application and has to be sent again.
        let mut first = Vec::new();
        let mut waiting = true;
        loop {
            // Boxed: to reach a peer takes more room than a connection that is open for hours shall hold.
            let reached = Box::pin(reach(shared, handle, record, &tcp, &route, waiting)).await?;
            match reached.carry(shared, handle, &tcp, &first).await? {
                Carried::Done(done) => return Ok(done),
                Carried::NotOpened(kept) => {
                    // That peer was not reached.
                    (record.tunnel, record.tls, record.transport, record.decision) = (None, None, None, None);
                    record.peer = Peer::Unknown;
                    first = kept;
                    waiting = false;
                }
            }
        }
    };
    if let Some(Some(Done { key, tcp, channel })) = attempt(shared.clone(), Direction::Outbound, from, serve).await {
        tunnel_pool::keep(&shared, key, tcp, channel);
    }
}

/// All but the relay of a connection that leaves. `waiting` says whether a session that waits may be used.
async fn reach(
    shared: &Shared,
    handle: &ConnectionHandle,
    record: &mut ConnectionRecord,
    tcp: &TcpStream,
    route: &Route,
    waiting: bool,
) -> Result<Reached, Failure> {
    let settings = &*shared.settings;
    let latest = shared.control.latest();
    let mut connection = Connection::new(shared, handle, record, &latest);
    let (named, redirected);
    let (candidates, index, destination) = match route {
        Route::To(host, index) => {
            named = choose_addresses(host, connection.snapshot)?;
            (named.as_slice(), *index, settings.destinations[*index].clone())
        }
        Route::Redirected => {
            let to = not_ourselves(shared, tcp, connection.record.downstream)?;
            connection.record.original_destination = Some(to);
            handle.set_destination(to);
            redirected = to.dialled();
            let (index, destination) = match towards(settings, *to, &connection.snapshot.resolved) {
                Towards::Destination(index) => (index, Ok(settings.destinations[index].clone())),
                Towards::Directory => (settings.of_directory.unwrap_or_default(), ask_directory(shared, to).await?),
                outside => (0, Err(outside.decide(*to))),
            };
            match destination {
                Ok(destination) => (std::slice::from_ref(&redirected), index, destination),
                Err(decided) => {
                    let (peer, own) = not_in_mesh(&mut connection, decided, to).await?;
                    return Ok(Reached::Plaintext { peer, _own: own });
                }
            }
        }
    };
    connection.record.destination = Some(destination.name.clone());
    let tls = connection.tls()?;
    let mut outbound = Outbound { connection, destination, index, tls };
    if waiting && outbound.destination.tunnel == TunnelMode::Auto {
        for to in candidates {
            let Some((peer, channel)) = tunnel_pool::take(shared, (index, *to)) else { continue };
            if let Some(reached) = outbound.on_waiting_session(*to, peer, channel)? {
                return Ok(reached);
            }
        }
    }
    outbound.on_new_session(candidates).await
}

/// A peer, reached and authorized.
enum Reached {
    /// By a session; whether that may be kept afterwards.
    Protected { key: tunnel_pool::Key, peer: TcpStream, channel: Box<PeerChannel>, keep: bool },
    /// Out of the mesh. Nothing proves that it is not ourselves, so it counts as our own dial to its end.
    Plaintext { peer: TcpStream, _own: Option<OwnDial> },
}

/// What a relay comes to that has not failed.
enum Carried {
    /// The end in order, with the session if it may be kept.
    Done(Option<Done>),
    /// Nothing was opened at the peer's side; what the application has sent is to be tried again.
    NotOpened(Vec<u8>),
}

impl Reached {
    /// Relays to the end.
    async fn carry(mut self, shared: &Shared, handle: &ConnectionHandle, tcp: &TcpStream, first: &[u8]) -> Result<Carried, Failure> {
        let (peer, wire, protocol) = match &mut self {
            Self::Protected { key, peer, channel, .. } => {
                (&*peer, Wire::PeerChannel(Side::Upstream, channel), shared.settings.destinations[key.0].protocol)
            }
            Self::Plaintext { peer, .. } => (&*peer, Wire::Plain(Box::default()), Protocol::Tcp),
        };
        let result = match protocol {
            Protocol::Tcp => relay(tcp, peer, wire, first, &shared.settings.timeouts, handle).await,
        };
        // Boxed: what is only for the end is no burden of those who are open.
        Box::pin(self.end(shared, handle, tcp, result)).await
    }

    /// Ends what the relay has left.
    async fn end(
        self,
        shared: &Shared,
        handle: &ConnectionHandle,
        tcp: &TcpStream,
        result: Result<(), Broken>,
    ) -> Result<Carried, Failure> {
        let bytes_down = handle.bytes_down.load(Ordering::Relaxed);
        match (self, result) {
            (Self::Protected { key, peer, mut channel, keep }, Ok(())) => {
                socket::end_in_order(tcp);
                if keep && channel.tunnel.is_some() {
                    return Ok(Carried::Done(Some(Done { key, tcp: peer, channel })));
                }
                tunnel_pool::close(&peer, &mut channel);
                socket::close(peer, shared.settings.timeouts.half_open.duration()).await;
                Ok(Carried::Done(None))
            }
            (Self::Plaintext { peer, _own }, Ok(())) => {
                socket::end_in_order(tcp);
                socket::end_in_order(&peer);
                socket::close(peer, shared.settings.timeouts.half_open.duration()).await;
                Ok(Carried::Done(None))
            }
            (Self::Protected { peer, mut channel, .. }, Err(broken)) => {
                // A reset may have been noticed before what the peer's sidecar has said.
                let broken = broken.with_last_words(Side::Upstream, &mut channel, &peer);
                if let Broken::By(Side::Upstream, ChannelError::NotOpened) = broken
                    && let Some(kept) = channel.take_kept()
                {
                    tunnel_pool::close(&peer, &mut channel);
                    return Ok(Carried::NotOpened(kept));
                }
                let told = broken.is_told(Side::Upstream);
                let failure = broken.failure(Direction::Outbound, Some((Side::Upstream, &mut channel, &peer)), bytes_down);
                if told {
                    channel.linger_close(&peer).await;
                }
                Err(failure)
            }
            (Self::Plaintext { .. }, Err(broken)) => Err(broken.failure(Direction::Outbound, None, bytes_down)),
        }
    }
}

/// Makes a session in advance, to a server whose last session could be used again. Whether there is one now.
pub(crate) async fn warm(shared: &Arc<Shared>, key: tunnel_pool::Key) -> bool {
    let Some(permit) = IdlePermit::take(shared, Direction::Outbound) else { return false };
    let (index, to) = key;
    let Some(destination) = destination_of(shared, key) else { return false };
    // Before there is a connection nothing can go on record: nobody has asked for this one.
    let start = Instant::now();
    let (tcp, own, downstream) = match dial_in_advance(shared, to).await {
        Ok(dialled) => dialled,
        Err(failure) => {
            tracing::debug!(event = event::TUNNEL_NOT_PREPARED, "no session to {to} in advance: {}", failure.detail.unwrap_or_default());
            return false;
        }
    };
    let dial = Lap::since(start);
    let serve = async move |shared: &Shared, record: &mut ConnectionRecord, handle: &ConnectionHandle| {
        let latest = shared.control.latest();
        let mut connection = Connection::new(shared, handle, record, &latest);
        connection.record.stages.dial = Some(dial);
        connection.record.destination = Some(destination.name.clone());
        connection.record.original_destination = Some(to.wanted());
        let tls = connection.tls()?;
        let permit = HandshakePermit::take(&connection, PermitKind::OutboundHandshake, to.ip()).await?;
        handle.set_destination(to.wanted());
        let mut outbound = Outbound { connection, destination, index, tls };
        let session = outbound.shake(&tcp, to, permit, true).await?;
        drop(own);
        let mut channel = Box::new(PeerChannel::plain(session));
        outbound.authorize(&channel.session, to)?;
        if channel.session.facts.alpn.as_deref() != Some(TUNNEL) {
            return Err(Failure::new(Reason::NoCommonAlpn));
        }
        outbound.connection.record.tunnel = Some(TunnelUse::New);
        outbound.connection.record.reason = Reason::Prepared;
        channel.warm(to, latest.renewal, &tcp).await.map_err(|error| {
            Broken::By(Side::Upstream, error).failure(Direction::Outbound, Some((Side::Upstream, &mut channel, &tcp)), 0)
        })?;
        Ok(Done { key, tcp, channel })
    };
    // Nobody has connected to us but we ourselves.
    let Some(Done { key, tcp, channel }) = attempt(shared.clone(), Direction::Outbound, downstream, serve).await else { return false };
    tunnel_pool::keep_at(shared, permit, key, tcp, channel);
    true
}

/// A session on which a connection has ended in order, or none has begun.
struct Done {
    /// Where it leads.
    key: tunnel_pool::Key,
    tcp: TcpStream,
    channel: Box<PeerChannel>,
}

/// A connection whose destination is known.
struct Outbound<'a> {
    connection: Connection<'a>,
    destination: Arc<Destination>,
    /// The destination's index.
    index: usize,
    tls: &'a Tls,
}

impl<'a> Outbound<'a> {
    /// On a session that has waited. None if it does not lead to the expected server any more; a new one may.
    fn on_waiting_session(&mut self, to: DialAddr, peer: TcpStream, mut channel: Box<PeerChannel>) -> Result<Option<Reached>, Failure> {
        self.connection.record.original_destination = Some(to.wanted());
        // Identity is verified again.
        let verified = verify_again(&channel.session.peer, Role::Server, self.tls.context.trust(), unix_now());
        let Some(status) = verified.ok().filter(|_| self.authorize(&channel.session, to).is_ok()) else {
            tunnel_pool::close(&peer, &mut channel);
            return Ok(None);
        };
        establish(&mut self.connection, &channel.session, status);
        self.connection.record.tunnel = Some(TunnelUse::Reused);
        if channel.open(self.connection.record, true).is_err() {
            return Ok(None);
        }
        self.reached(to, peer, channel).map(Some)
    }

    /// Dials the first of `candidates` that answers, and shakes hands.
    async fn on_new_session(mut self, candidates: &[DialAddr]) -> Result<Reached, Failure> {
        // For all that waits on the server: a burst waits here, not in its queue.
        let source = candidates.first().map_or(self.connection.record.downstream.ip(), |first| first.ip());
        let permit = self.permit(source).await?;
        let (mut peer, mut own, to) = dial_one(&mut self.connection, candidates).await?;
        self.connection.handle.set_destination(to.wanted());
        let tunnel = self.destination.tunnel != TunnelMode::Off && handshake_cache::may_take_tunnels(to);
        let session = match self.shake(&peer, to, permit, tunnel).await {
            // A server that ends the handshake because of an ALPN that it does not know.
            Err(failure) if tunnel && failure.reason == Reason::NoCommonAlpn => {
                handshake_cache::refuses_tunnels(to);
                let permit = self.permit(to.ip()).await?;
                (peer, own) = dial_peer(&mut self.connection, to).await?;
                self.shake(&peer, to, permit, false).await?
            }
            session => session?,
        };
        // The peer has proved to be another.
        drop(own);
        let mut channel = Box::new(PeerChannel::plain(session));
        if let Err(failure) = self.authorize(&channel.session, to) {
            channel.session.reject(&peer);
            socket::linger_close(&peer).await;
            return Err(failure);
        }
        if channel.session.facts.alpn.as_deref() == Some(TUNNEL) {
            self.connection.record.tunnel = Some(TunnelUse::New);
            channel.tunnel = Some(Tunnel::new(ReachedAt::direct(to), self.connection.renewal));
            // Nothing is kept to be tried again: where a new session does not lead, another would not either.
            if let Err(error) = channel.open(self.connection.record, false) {
                return Err(Broken::By(Side::Upstream, error).failure(Direction::Outbound, Some((Side::Upstream, &mut channel, &peer)), 0));
            }
        }
        self.reached(to, peer, channel)
    }

    async fn permit(&self, source: IpAddr) -> Result<HandshakePermit<'a>, Failure> {
        HandshakePermit::take(&self.connection, PermitKind::OutboundHandshake, source).await
    }

    /// Shakes hands with the server at `to`, and offers it a tunnel or not.
    async fn shake(&mut self, peer: &TcpStream, to: DialAddr, permit: HandshakePermit<'_>, tunnel: bool) -> Result<Session, Failure> {
        // An address as name makes rustls send no server name.
        let name = self.destination.sni.clone().unwrap_or_else(|| ServerName::IpAddress(to.ip().into()));
        let choice = handshake_cache::choice(self.tls, &self.destination, self.index, to, tunnel);
        shake_hands(&mut self.connection, peer, permit, sidegate_tls::connect(peer, &choice, name)).await
    }

    fn authorize(&mut self, session: &Session, to: DialAddr) -> Result<(), Failure> {
        authorize_server(&mut self.connection, &self.destination, self.tls, session, to.wanted())
    }

    fn reached(&self, to: DialAddr, peer: TcpStream, mut channel: Box<PeerChannel>) -> Result<Reached, Failure> {
        self.connection.handle.set_destination(to.wanted());
        let session = &channel.session;
        let basis =
            AdmissionBasis::Server { peer: session.peer.clone(), facts: session.facts.clone(), destination: self.destination.clone() };
        if let Err(failure) = admit(&self.connection, basis) {
            channel.abort(&peer, failure.reason);
            return Err(failure);
        }
        Ok(Reached::Protected { key: (self.index, to), peer, channel, keep: self.destination.tunnel == TunnelMode::Auto })
    }
}

/// The original destination, if neither it nor the client is sidegate itself: to relay would be an endless loop.
fn not_ourselves(shared: &Shared, tcp: &TcpStream, from: ClientAddr) -> Result<OriginalDst, Failure> {
    let (local, to) = original_destination(tcp)?;
    if shared.own_dials.contains(from, to) {
        let detail =
            format!("this is the sidecar's own connection to {to}, which the kernel rules captured: run `sidegate redirect verify`");
        return Err(Failure::with(Reason::OwnPort, detail));
    }
    if *to == local {
        return Err(Failure::with(Reason::OwnPort, format!("{to} is sidegate itself")));
    }
    if let Some(detail) = out_of_bounds(&shared.settings, Direction::Outbound, *to) {
        return Err(Failure::with(Reason::OwnPort, detail));
    }
    Ok(to)
}

/// How many addresses of a name are tried.
const TRIES: usize = 4;

/// The addresses that an explicit listener leads to: for a name its current ones, beginning at random.
fn choose_addresses(host: &HostAndPort, snapshot: &Snapshot) -> Result<Vec<DialAddr>, Failure> {
    if let Some(address) = host.address() {
        return Ok(vec![address.into()]);
    }
    let found = snapshot.resolved.get(&host.host).map_or(&[][..], |addresses| &addresses.current);
    if found.is_empty() {
        return Err(Failure::with(Reason::NotReady, format!("`{}` has not been resolved", host.host)));
    }
    let start = fastrand::usize(..found.len());
    Ok((0..found.len().min(TRIES)).map(|i| (found[(start + i) % found.len()], host.port).into()).collect())
}

/// Dials the first of `candidates` that answers; the record names the last that was tried.
async fn dial_one(connection: &mut Connection<'_>, candidates: &[DialAddr]) -> Result<(TcpStream, Option<OwnDial>, DialAddr), Failure> {
    let mut last = Failure::new(Reason::DialFailed);
    for to in candidates {
        connection.record.original_destination = Some(to.wanted());
        match dial_peer(connection, *to).await {
            Ok((tcp, own)) => return Ok((tcp, own, *to)),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// What was decided of a connection that leads to no destination, and why it can't be if so.
type Outside = (Option<Decision>, Option<(Reason, String)>);

/// Who is expected at `to` by what the directory says.
async fn ask_directory(shared: &Shared, to: OriginalDst) -> Result<Result<Arc<Destination>, Outside>, Failure> {
    let Some(directory) = &shared.control.directory else { return Err(Failure::new(Reason::DirectoryUnavailable)) };
    let expected = match directory.known(*to) {
        Some(expected) => expected,
        None => {
            let expected = directory.expected(*to).await;
            shared.telemetry.metrics.directory_waits(!matches!(expected, Expected::Unavailable(_))).inc();
            expected
        }
    };
    Ok(match expected {
        Expected::Destination(destination) => Ok(destination),
        Expected::Nobody(why) => return Err(Failure::with(Reason::NoIdentity, why)),
        Expected::Outside(why) => Err(otherwise(shared.settings.otherwise, Reason::NotInMesh, why)),
        Expected::Unavailable(why) => match shared.settings.directory.as_ref().map(|directory| directory.unavailable) {
            Some(Unavailable::Otherwise) => Err(otherwise(shared.settings.otherwise, Reason::DirectoryUnavailable, why)),
            Some(Unavailable::Refuse) | None => return Err(Failure::with(Reason::DirectoryUnavailable, why)),
        },
    })
}

/// The destination of sessions that are kept by `key`. None if the directory has forgotten the address.
fn destination_of(shared: &Shared, (index, to): tunnel_pool::Key) -> Option<Arc<Destination>> {
    if shared.settings.of_directory != Some(index) {
        return Some(shared.settings.destinations[index].clone());
    }
    match shared.control.directory.as_ref()?.known(*to)? {
        Expected::Destination(destination) => Some(destination),
        Expected::Nobody(_) | Expected::Outside(_) | Expected::Unavailable(_) => None,
    }
}

/// What becomes of a connection out of the mesh: it is refused, or dialled.
async fn not_in_mesh(
    connection: &mut Connection<'_>,
    (decision, refused): Outside,
    to: OriginalDst,
) -> Result<(TcpStream, Option<OwnDial>), Failure> {
    connection.record.decision = decision;
    if let Some((reason, detail)) = refused {
        return Err(Failure::with(reason, detail));
    }
    connection.record.transport = Some(Transport::Plaintext);
    admit(connection, AdmissionBasis::Outside)?;
    connection.shared.telemetry.metrics.plaintext(Direction::Outbound);
    dial_peer(connection, to.dialled()).await
}
