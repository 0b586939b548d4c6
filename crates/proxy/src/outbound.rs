//! A connection from the workload: accept, original destination, match, dial, handshake, authorize the peer, relay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sidegate_config::schema::TunnelMode;
use sidegate_config::value::HostAndPort;
use sidegate_core::{ConnectionRecord, Direction, Lap, Reason, Transport, TunnelUse, event};
use sidegate_identity::unix_now;
use sidegate_tls::{Role, ServerName, Session, TUNNEL, verify_again};
use tokio::net::TcpStream;

use crate::attempt::{Failure, attempt};
use crate::authorize::authorize_server;
use crate::clients;
use crate::course::Towards;
use crate::dial::{dial_in_advance, dial_peer};
use crate::handshake::{establish, shake_hands};
use crate::limits::IdlePlace;
use crate::original_destination::original_destination;
use crate::own_dials::OwnDial;
use crate::places::{Place, Wait};
use crate::registry::{Judged, Live};
use crate::rejudge::admit;
use crate::relay::{Broken, Side, Wire, relay};
use crate::secure::{Secure, SecureError};
use crate::settings::Destination;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, Tls};
use crate::socket;
use crate::tunnel::{Tunnel, pool};

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
pub(crate) async fn outbound(shared: Arc<Shared>, accepted: Box<(TcpStream, SocketAddr, Route)>) {
    let (tcp, from, route) = *accepted;
    let serve = async |shared: &Shared, record: &mut ConnectionRecord, live: &Live| {
        // What was read of the application and has to be sent again.
        let mut first = Vec::new();
        let mut waiting = true;
        loop {
            // Boxed: to reach a peer takes more room than a connection that is open for hours shall hold.
            let reached = Box::pin(reach(shared, record, live, &tcp, &route, waiting)).await?;
            match reached.carry(shared, live, &tcp, &first).await? {
                Carried::Done(done) => return Ok(done),
                Carried::NotOpened(kept) => {
                    // That peer was not reached.
                    (record.tunnel, record.tls, record.transport, record.decision) = (None, None, None, None);
                    (record.peer_id, record.peer_certificate) = (None, None);
                    first = kept;
                    waiting = false;
                }
            }
        }
    };
    if let Some(Some(Done { key, tcp, secure })) = attempt(shared.clone(), Direction::Outbound, from, serve).await {
        pool::keep(&shared, key, tcp, secure);
    }
}

/// All but the relay of a connection that leaves. `waiting` says whether a session that waits may be used.
async fn reach(
    shared: &Shared,
    record: &mut ConnectionRecord,
    live: &Live,
    tcp: &TcpStream,
    route: &Route,
    waiting: bool,
) -> Result<Reached, Failure> {
    let settings = &*shared.settings;
    // Before the snapshot: what is new after it is seen as new.
    let renewal = *shared.renewals.borrow();
    let snapshot = shared.snapshot.load_full();
    record.generation = snapshot.generation;
    let (named, redirected);
    let (candidates, index) = match route {
        Route::To(host, index) => {
            named = choose_addresses(host, &snapshot)?;
            (named.as_slice(), *index)
        }
        Route::Redirected => {
            redirected = not_ourselves(shared, tcp, record.downstream)?;
            record.original_destination = Some(redirected);
            live.heads_for(redirected);
            match settings.towards(redirected, &snapshot.resolved) {
                Towards::Destination(index) => (std::slice::from_ref(&redirected), index),
                outside => {
                    let (peer, own) = not_in_mesh(shared, outside, redirected, record, live).await?;
                    return Ok(Reached::Plaintext { peer, _own: own });
                }
            }
        }
    };
    let destination = &settings.destinations[index];
    record.destination = Some(destination.name.clone());
    let tls = snapshot.tls_for(record)?;
    let mut outbound = Outbound { shared, destination, index, snapshot: &snapshot, tls, renewal, record, live };
    if waiting && destination.tunnel == TunnelMode::Auto {
        for to in candidates {
            let Some((peer, secure)) = pool::take(shared, (index, *to)) else { continue };
            if let Some(reached) = outbound.on_waiting_session(*to, peer, secure)? {
                return Ok(reached);
            }
        }
    }
    outbound.on_new_session(candidates).await
}

/// A peer, reached and authorized.
enum Reached {
    /// By a session; whether that may be kept afterwards.
    Protected { key: pool::Key, peer: TcpStream, secure: Box<Secure>, keep: bool },
    /// Out of the mesh. Nothing proves that it is not ourselves, so it counts as our own dial to its end.
    Plaintext { _own: Option<OwnDial>, peer: TcpStream },
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
    async fn carry(mut self, shared: &Shared, live: &Live, tcp: &TcpStream, first: &[u8]) -> Result<Carried, Failure> {
        let (peer, wire) = match &mut self {
            Self::Protected { peer, secure, .. } => (&*peer, Wire::Secure(Side::Upstream, secure)),
            Self::Plaintext { peer, .. } => (&*peer, Wire::Plain(Box::default())),
        };
        let result = relay(tcp, peer, wire, first, &shared.settings.timeouts, live).await;
        // Boxed: what is only for the end is no burden of those who are open.
        Box::pin(self.end(shared, live, tcp, result)).await
    }

    /// Ends what the relay has left.
    async fn end(self, shared: &Shared, live: &Live, tcp: &TcpStream, result: Result<(), Broken>) -> Result<Carried, Failure> {
        let bytes_down = live.bytes_down.load(Ordering::Relaxed);
        match (self, result) {
            (Self::Protected { key, peer, mut secure, keep }, Ok(())) => {
                socket::end_in_order(tcp);
                if keep && secure.tunnel.is_some() {
                    return Ok(Carried::Done(Some(Done { key, tcp: peer, secure })));
                }
                pool::close(&peer, &mut secure);
                socket::close(peer, shared.settings.timeouts.half_open.duration()).await;
                Ok(Carried::Done(None))
            }
            (Self::Plaintext { peer, _own }, Ok(())) => {
                socket::end_in_order(tcp);
                socket::end_in_order(&peer);
                socket::close(peer, shared.settings.timeouts.half_open.duration()).await;
                Ok(Carried::Done(None))
            }
            (Self::Protected { peer, mut secure, .. }, Err(broken)) => {
                // A reset may have been noticed before what the peer's sidecar has said.
                let broken = broken.with_last_words(Side::Upstream, &mut secure, &peer);
                if let Broken::By(Side::Upstream, SecureError::NotOpened) = broken
                    && let Some(kept) = secure.take_kept()
                {
                    pool::close(&peer, &mut secure);
                    return Ok(Carried::NotOpened(kept));
                }
                let told = broken.is_told(Side::Upstream);
                let failure = broken.failure(Direction::Outbound, Some((Side::Upstream, &mut secure, &peer)), bytes_down);
                if told {
                    secure.farewell(&peer).await;
                }
                Err(failure)
            }
            (Self::Plaintext { .. }, Err(broken)) => Err(broken.failure(Direction::Outbound, None, bytes_down)),
        }
    }
}

/// Makes a session in advance, to a server whose last session could be used again. Whether there is one now.
pub(crate) async fn warm(shared: &Arc<Shared>, key: pool::Key) -> bool {
    let Some(place) = IdlePlace::take(shared, Direction::Outbound) else { return false };
    let (index, to) = key;
    // Before there is a connection nothing can go on record: nobody has asked for this one.
    let start = Instant::now();
    let (tcp, own, downstream) = match dial_in_advance(to, shared).await {
        Ok(dialled) => dialled,
        Err(failure) => {
            tracing::debug!(event = event::TUNNEL_NOT_PREPARED, "no session to {to} in advance: {}", failure.detail.unwrap_or_default());
            return false;
        }
    };
    let dial = Lap::since(start);
    let serve = async move |shared: &Shared, record: &mut ConnectionRecord, live: &Live| {
        let renewal = *shared.renewals.borrow();
        let snapshot = shared.snapshot.load_full();
        record.generation = snapshot.generation;
        record.stages.dial = Some(dial);
        let settings = &*shared.settings;
        let destination = &settings.destinations[index];
        record.destination = Some(destination.name.clone());
        record.original_destination = Some(to);
        let tls = snapshot.tls_for(record)?;
        let place = Place::take(shared, Wait::OutboundHandshake, live, to.ip()).await?;
        live.heads_for(to);
        let session = shake(shared, tls, destination, key, (&tcp, place), record, true).await?;
        drop(own);
        let mut secure = Box::new(Secure::plain(session));
        authorize_server(&snapshot, destination, tls, &secure.session, record)?;
        if secure.session.facts.alpn.as_deref() != Some(TUNNEL) {
            return Err(Failure::new(Reason::NoCommonAlpn));
        }
        record.tunnel = Some(TunnelUse::New);
        record.reason = Reason::Prepared;
        secure.warm(to, renewal, &tcp).await.map_err(|error| {
            Broken::By(Side::Upstream, error).failure(Direction::Outbound, Some((Side::Upstream, &mut secure, &tcp)), 0)
        })?;
        Ok(Done { key, tcp, secure })
    };
    // Nobody has connected to us but we ourselves.
    let Some(Done { key, tcp, secure }) = attempt(shared.clone(), Direction::Outbound, downstream, serve).await else { return false };
    pool::keep_at(shared, place, key, tcp, secure);
    true
}

/// A session on which a connection has ended in order, or none has begun.
struct Done {
    key: pool::Key,
    tcp: TcpStream,
    secure: Box<Secure>,
}

/// Shakes hands with a server, offering it a tunnel or not.
async fn shake(
    shared: &Shared,
    tls: &Tls,
    destination: &Destination,
    (index, to): pool::Key,
    (peer, place): (&TcpStream, Place<'_>),
    record: &mut ConnectionRecord,
    tunnel: bool,
) -> Result<Session, Failure> {
    // An address as name makes rustls send no server name.
    let name = destination.sni.clone().unwrap_or_else(|| ServerName::IpAddress(to.ip().into()));
    let choice = clients::choice(tls, destination, index, to, tunnel);
    shake_hands(shared, peer, record, place, sidegate_tls::connect(peer, &choice, name)).await
}

/// A connection whose destination is known.
struct Outbound<'a> {
    shared: &'a Shared,
    destination: &'a Destination,
    index: usize,
    snapshot: &'a Snapshot,
    tls: &'a Tls,
    /// The count of renewals that `tls` is of.
    renewal: u64,
    record: &'a mut ConnectionRecord,
    live: &'a Live,
}

impl Outbound<'_> {
    /// On a session that has waited. None if it does not lead to who is expected any more; a new one may.
    fn on_waiting_session(&mut self, to: SocketAddr, peer: TcpStream, mut secure: Box<Secure>) -> Result<Option<Reached>, Failure> {
        self.record.original_destination = Some(to);
        // Identity is judged afresh.
        let judged = verify_again(&secure.session.peer, Role::Server, self.tls.context.trust(), unix_now());
        if judged.is_err() || authorize_server(self.snapshot, self.destination, self.tls, &secure.session, self.record).is_err() {
            pool::close(&peer, &mut secure);
            return Ok(None);
        }
        establish(self.record, &secure.session);
        if let Ok(revocation) = judged {
            self.shared.telemetry.metrics.revocation(revocation);
            self.record.revocation = Some(revocation);
        }
        self.record.tunnel = Some(TunnelUse::Reused);
        if secure.open(self.record, true).is_err() {
            return Ok(None);
        }
        self.reached(to, peer, secure).map(Some)
    }

    /// Dials the first of `candidates` that answers, and shakes hands.
    async fn on_new_session(mut self, candidates: &[SocketAddr]) -> Result<Reached, Failure> {
        // For all that waits on the server: a burst waits here, not in its queue.
        let first = candidates.first().map_or(self.record.downstream, |first| *first);
        let place = Place::take(self.shared, Wait::OutboundHandshake, self.live, first.ip()).await?;
        let (mut peer, mut own, to) = dial_one(candidates, self.shared, self.record).await?;
        self.live.heads_for(to);
        let tunnel = self.destination.tunnel != TunnelMode::Off && clients::may_take_tunnels(to);
        let session = match self.shake(&peer, to, place, tunnel).await {
            // A server that ends the handshake because of an ALPN that it does not know.
            Err(failure) if tunnel && failure.reason == Reason::NoCommonAlpn => {
                clients::refuses_tunnels(to);
                let place = Place::take(self.shared, Wait::OutboundHandshake, self.live, to.ip()).await?;
                (peer, own) = dial_peer(to, self.shared, self.record).await?;
                self.shake(&peer, to, place, false).await?
            }
            session => session?,
        };
        // The peer has proved to be another.
        drop(own);
        let mut secure = Box::new(Secure::plain(session));
        if let Err(failure) = authorize_server(self.snapshot, self.destination, self.tls, &secure.session, self.record) {
            secure.session.reject(&peer);
            socket::farewell(&peer).await;
            return Err(failure);
        }
        if secure.session.facts.alpn.as_deref() == Some(TUNNEL) {
            self.record.tunnel = Some(TunnelUse::New);
            secure.tunnel = Some(Tunnel::new(to, self.renewal));
            // Nothing is kept to be tried again: where a new session does not lead, another would not either.
            if let Err(error) = secure.open(self.record, false) {
                return Err(Broken::By(Side::Upstream, error).failure(Direction::Outbound, Some((Side::Upstream, &mut secure, &peer)), 0));
            }
        }
        self.reached(to, peer, secure)
    }

    async fn shake(&mut self, peer: &TcpStream, to: SocketAddr, place: Place<'_>, tunnel: bool) -> Result<Session, Failure> {
        shake(self.shared, self.tls, self.destination, (self.index, to), (peer, place), self.record, tunnel).await
    }

    fn reached(&self, to: SocketAddr, peer: TcpStream, mut secure: Box<Secure>) -> Result<Reached, Failure> {
        self.live.heads_for(to);
        let session = &secure.session;
        let judged = Judged::Server { peer: session.peer.clone(), facts: session.facts.clone(), destination: self.index };
        if let Err(failure) = admit(self.shared, self.live, self.record, judged) {
            secure.abort(&peer, failure.reason);
            return Err(failure);
        }
        Ok(Reached::Protected { key: (self.index, to), peer, secure, keep: self.destination.tunnel == TunnelMode::Auto })
    }
}

/// The original destination, if neither it nor the client is sidegate itself: to relay would be an endless loop.
fn not_ourselves(shared: &Shared, tcp: &TcpStream, from: SocketAddr) -> Result<SocketAddr, Failure> {
    let (local, to) = original_destination(tcp)?;
    if shared.own_dials.contains(from, to) {
        let detail =
            format!("this is the sidecar's own connection to {to}, which the kernel rules captured: run `sidegate redirect verify`");
        return Err(Failure::with(Reason::OwnPort, detail));
    }
    if to == local {
        return Err(Failure::with(Reason::OwnPort, format!("{to} is sidegate itself")));
    }
    if let Some(detail) = shared.settings.out_of_bounds(Direction::Outbound, to) {
        return Err(Failure::with(Reason::OwnPort, detail));
    }
    Ok(to)
}

/// How many addresses of a name are tried.
const TRIES: usize = 4;

/// The addresses that an explicit listener leads to: for a name its current ones, beginning at random.
fn choose_addresses(host: &HostAndPort, snapshot: &Snapshot) -> Result<Vec<SocketAddr>, Failure> {
    if let Some(address) = host.address() {
        return Ok(vec![address]);
    }
    let found = snapshot.resolved.get(&host.host).map_or(&[][..], |addresses| &addresses.current);
    if found.is_empty() {
        return Err(Failure::with(Reason::NotReady, format!("`{}` has not been resolved", host.host)));
    }
    let start = fastrand::usize(..found.len());
    Ok((0..found.len().min(TRIES)).map(|i| SocketAddr::new(found[(start + i) % found.len()], host.port)).collect())
}

/// Dials the first of `candidates` that answers; the record names the last that was tried.
async fn dial_one(
    candidates: &[SocketAddr],
    shared: &Shared,
    record: &mut ConnectionRecord,
) -> Result<(TcpStream, Option<OwnDial>, SocketAddr), Failure> {
    let mut last = Failure::new(Reason::DialFailed);
    for to in candidates {
        record.original_destination = Some(*to);
        match dial_peer(*to, shared, record).await {
            Ok((tcp, own)) => return Ok((tcp, own, *to)),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// What becomes of a connection out of the mesh: it is refused, or dialled.
async fn not_in_mesh(
    shared: &Shared,
    outside: Towards<'_>,
    to: SocketAddr,
    record: &mut ConnectionRecord,
    live: &Live,
) -> Result<(TcpStream, Option<OwnDial>), Failure> {
    let (decision, refused) = outside.judge(to);
    record.decision = decision;
    if let Some((reason, detail)) = refused {
        return Err(Failure::with(reason, detail));
    }
    record.transport = Some(Transport::Plaintext);
    admit(shared, live, record, Judged::Outside)?;
    shared.telemetry.metrics.plaintext(Direction::Outbound);
    dial_peer(to, shared, record).await
}
