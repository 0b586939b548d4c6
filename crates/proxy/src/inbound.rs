//! A connection to the workload: accept, original destination, (detect), handshake, authorize, dial, relay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use sidegate_config::schema::Mode;
use sidegate_core::{ConnectionRecord, Direction, Lap, Reason, Transport, TunnelUse, event};
use sidegate_identity::unix_now;
use sidegate_tls::{Role, Session, TUNNEL, verify_again};
use sidegate_tunnel::Tunnel;
use sidegate_tunnel::v1::{Open, Outcome};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::attempt::attempt;
use crate::authorize::{authorize_client, authorize_plaintext};
use crate::copy::Copier;
use crate::course::{not_reachable, out_of_bounds};
use crate::destination::{is_local, original_destination};
use crate::detect::{Detected, detect};
use crate::dial::dial_app;
use crate::failure::Failure;
use crate::handshake::{establish, shake_hands, tls_for};
use crate::handshake_permit::HandshakePermit;
use crate::peer_channel::PeerChannel;
use crate::permit_queue::PermitKind;
use crate::reevaluate::admit;
use crate::registry::{AdmissionBasis, ConnectionHandle};
use crate::relay::{Broken, Side, Wire, relay};
use crate::shared::Shared;
use crate::tunnel_pool;
use crate::tunnel_server::{self, First};
use crate::unidentified::UnidentifiedGuard;
use sidegate_control::Port;
use sidegate_control::Snapshot;
use sidegate_net::canonical;
use sidegate_net::socket;

/// How an inbound connection's destination is known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route {
    /// The kernel redirected it and knows.
    Redirected,
    /// The listener hands on to this address.
    To(SocketAddr),
}

/// Serves one connection to its end, and then those that come after it on the same session. `accepted` is boxed, for a task keeps
/// the room of its arguments to its end.
pub(crate) async fn inbound(shared: Arc<Shared>, accepted: Box<(TcpStream, SocketAddr, Route)>) {
    let (tcp, from, route) = *accepted;
    let mut arrival = Arrival::Accepted(tcp, route);
    loop {
        let serve = async |shared: &Shared, record: &mut ConnectionRecord, handle: &ConnectionHandle| {
            // Boxed: to let a connection in takes more room than one that is open for hours shall hold.
            Box::pin(arrival.let_in(shared, record, handle)).await?.carry(shared, handle).await
        };
        let Some(Some(client)) = attempt(shared.clone(), Direction::Inbound, from, serve).await else { return };
        arrival = match Box::pin(client.next(&shared, from)).await {
            Some(next) => next,
            None => return,
        };
    }
}

/// How a connection arrives.
enum Arrival {
    /// At a listener.
    Accepted(TcpStream, Route),
    /// On a session that has had others, or waited for one.
    Reopened(Client, Box<Open>),
}

impl Arrival {
    /// All of the connection but its relay.
    async fn let_in(self, shared: &Shared, record: &mut ConnectionRecord, handle: &ConnectionHandle) -> Result<Admitted, Failure> {
        match self {
            Self::Accepted(tcp, route) => let_in(shared, record, handle, tcp, route).await,
            Self::Reopened(client, open) => {
                record.tunnel = Some(TunnelUse::Reused);
                reopen(shared, record, handle, client, &open, None).await
            }
        }
    }
}

/// A client after its handshake, and where it wants to go.
struct Client {
    tcp: TcpStream,
    channel: Box<PeerChannel>,
    to: SocketAddr,
}

/// A connection that was let in.
enum Admitted {
    /// From a client to the application.
    Protected(Client, TcpStream),
    /// As it is, from the network to the application; what was read already.
    Plaintext { tcp: TcpStream, app: TcpStream, first: Vec<u8>, _stranger: Option<Box<UnidentifiedGuard>> },
    /// None yet: the session was made in advance.
    Waiting(Client),
}

/// All but the relay of a connection that arrives.
async fn let_in(
    shared: &Shared,
    record: &mut ConnectionRecord,
    handle: &ConnectionHandle,
    tcp: TcpStream,
    route: Route,
) -> Result<Admitted, Failure> {
    let settings = &*shared.settings;
    let (to, reached_at) = match route {
        Route::To(address) => (address, canonical(tcp.local_addr().map_err(Failure::system)?)),
        Route::Redirected => {
            let to = own_address(shared, &tcp)?;
            (to, to)
        }
    };
    record.original_destination = Some(to);
    handle.set_destination(to);
    // Before the snapshot: what is new after it is seen as new.
    let renewal = *shared.control.renewals.borrow();
    let snapshot = shared.control.snapshot.load_full();
    record.generation = snapshot.generation;
    let index = settings.port_index(to.port());
    let port = &settings.ports[index];
    let guard = shared.registry.find(handle.key()).map(|handle| shared.limits.unidentified.enter(handle)).transpose()?.map(Box::new);
    match port.mode {
        Mode::Strict => {
            said_something(shared, &tcp, record).await?;
            handle.touch(Instant::now());
            let session = handshake(shared, &snapshot, index, &tcp, &[], record, handle).await?;
            drop(guard);
            let client = Client { tcp, channel: Box::new(PeerChannel::plain(session)), to };
            client.established(shared, &snapshot, (reached_at, renewal), None, record, handle).await
        }
        Mode::Permissive => permissive(shared, index, tcp, (to, reached_at), record, handle, guard).await,
        Mode::Plaintext => {
            authorize_plaintext(&snapshot, port.mode, to, record)?;
            let app = dial_app(to, settings, record).await?;
            plaintext(shared, port, record, handle)?;
            Ok(Admitted::Plaintext { tcp, app, first: Vec::new(), _stranger: guard })
        }
    }
}

/// The original destination, if it is an address of this pod and none of sidegate's own ports.
fn own_address(shared: &Shared, tcp: &TcpStream) -> Result<SocketAddr, Failure> {
    let (_, to) = original_destination(tcp)?;
    if let Some(detail) = out_of_bounds(&shared.settings, Direction::Inbound, to) {
        return Err(Failure::with(Reason::OwnPort, detail));
    }
    if !is_local(to.ip())? {
        return Err(Failure::with(Reason::OwnPort, not_reachable(to)));
    }
    Ok(to)
}

/// Waits for the client's first byte: as long as it is silent it holds no place among handshakes, and no buffer.
async fn said_something(shared: &Shared, tcp: &TcpStream, record: &mut ConnectionRecord) -> Result<(), Failure> {
    let (start, deadline) = (Instant::now(), shared.settings.timeouts.handshake.duration());
    match timeout(deadline, tcp.readable()).await {
        Ok(readable) => readable.map_err(Failure::system),
        Err(_) => {
            let lap = Lap::since(start);
            record.stages.handshake = Some(lap);
            shared.telemetry.metrics.handshake_failed(record.direction, Reason::HandshakeTimeout, lap.took);
            Err(Failure::with(Reason::HandshakeTimeout, format!("the client said nothing within {deadline:?}")))
        }
    }
}

async fn handshake(
    shared: &Shared,
    snapshot: &Snapshot,
    port: usize,
    tcp: &TcpStream,
    first: &[u8],
    record: &mut ConnectionRecord,
    handle: &ConnectionHandle,
) -> Result<Session, Failure> {
    let tls = tls_for(snapshot, record)?;
    let place = HandshakePermit::take(shared, PermitKind::InboundHandshake, handle, record.downstream.ip()).await?;
    shake_hands(shared, tcp, record, place, sidegate_tls::accept(tcp, first, &tls.servers[port])).await
}

/// A port where clients without a sidecar may still come. The application is dialled first, for it may speak first.
async fn permissive(
    shared: &Shared,
    index: usize,
    tcp: TcpStream,
    (to, reached_at): (SocketAddr, SocketAddr),
    record: &mut ConnectionRecord,
    handle: &ConnectionHandle,
    guard: Option<Box<UnidentifiedGuard>>,
) -> Result<Admitted, Failure> {
    let settings = &*shared.settings;
    let port = &settings.ports[index];
    let place = HandshakePermit::take(shared, PermitKind::Detection, handle, record.downstream.ip()).await?;
    let app = dial_app(to, settings, record).await?;
    let start = Instant::now();
    let detected = detect(&tcp, &app, port.server_first, &settings.timeouts).await;
    record.stages.detect = Some(Lap::since(start));
    drop(place);
    // The wait may have been long: what counts is what holds now.
    let renewal = *shared.control.renewals.borrow();
    let snapshot = &shared.control.snapshot.load_full();
    record.generation = snapshot.generation;
    match detected? {
        Detected::Tls(first) => {
            let session = handshake(shared, snapshot, index, &tcp, &first, record, handle).await?;
            drop(guard);
            let client = Client { tcp, channel: Box::new(PeerChannel::plain(session)), to };
            client.established(shared, snapshot, (reached_at, renewal), Some(app), record, handle).await
        }
        Detected::Plaintext(first) => {
            authorize_plaintext(snapshot, port.mode, to, record)?;
            plaintext(shared, port, record, handle)?;
            Ok(Admitted::Plaintext { tcp, app, first, _stranger: guard })
        }
    }
}

impl Client {
    /// Waits for the next connection. None at the end of the session.
    async fn next(mut self, shared: &Arc<Shared>, from: SocketAddr) -> Option<Arrival> {
        let open = tunnel_server::next(shared, &self.tcp, &mut self.channel).await?;
        // Before the attempt, so that the client hears of it and tries elsewhere.
        if shared.is_full(Direction::Inbound) {
            let _ = tunnel_server::decline(&self.tcp, &mut self.channel, Outcome::NotOpened, Some(Reason::ConnectionLimit));
            socket::linger_close(&self.tcp).await;
            let full =
                async |_: &Shared, _: &mut ConnectionRecord, _: &ConnectionHandle| Err::<(), _>(Failure::new(Reason::ConnectionLimit));
            attempt(shared.clone(), Direction::Inbound, from, full).await;
            return None;
        }
        Some(Arrival::Reopened(self, Box::new(open)))
    }

    /// After the handshake. `app` is the application's end where it was dialled before.
    async fn established(
        mut self,
        shared: &Shared,
        snapshot: &Snapshot,
        (reached_at, renewal): (SocketAddr, u64),
        app: Option<TcpStream>,
        record: &mut ConnectionRecord,
        handle: &ConnectionHandle,
    ) -> Result<Admitted, Failure> {
        if self.channel.session.facts.alpn.as_deref() != Some(TUNNEL) {
            let app = self.admit(shared, snapshot, app, record, handle).await?;
            return Ok(Admitted::Protected(self, app));
        }
        let tunnel = self.channel.tunnel.insert(Tunnel::new(reached_at, renewal));
        tunnel.reusable = shared.settings.keeps_tunnels();
        record.tunnel = Some(TunnelUse::New);
        let deadline = shared.settings.timeouts.handshake.duration();
        match timeout(deadline, tunnel_server::first(&self.tcp, &mut self.channel)).await {
            Ok(Ok(First::Open(open))) if renewal == *shared.control.renewals.borrow() => {
                self.opened(shared, snapshot, &open, app, record, handle).await
            }
            // Identity or policy has changed since the handshake: the connection is verified and authorized by what holds now.
            Ok(Ok(First::Open(open))) => reopen(shared, record, handle, self, &open, app).await,
            Ok(Ok(First::Warm)) => {
                // Nobody may keep a place here who may not use it.
                authorize_client(snapshot, shared.settings.mode_of(self.to.port()), &self.channel.session, self.to, record)?;
                record.reason = Reason::Prepared;
                // On a permissive port it was dialled for a client that turns out to have nothing to say yet.
                app.iter().for_each(socket::end_in_order);
                Ok(Admitted::Waiting(self))
            }
            Ok(Err(error)) => Err(self.broken(Broken::By(Side::Downstream, error))),
            Err(_) => Err(Failure::with(Reason::HandshakeTimeout, "neither OPEN nor WARM came after the handshake")),
        }
    }

    /// After OPEN.
    async fn opened(
        mut self,
        shared: &Shared,
        snapshot: &Snapshot,
        open: &Open,
        app: Option<TcpStream>,
        record: &mut ConnectionRecord,
        handle: &ConnectionHandle,
    ) -> Result<Admitted, Failure> {
        if let Some(tunnel) = &mut self.channel.tunnel {
            tunnel.begin();
        }
        let app = match tunnel_server::adopt(shared, handle, record, open) {
            Ok(()) => self.admit(shared, snapshot, app, record, handle).await,
            Err(failure) => Err(failure),
        };
        match app {
            Ok(app) => match tunnel_server::accept(&mut self.channel) {
                Ok(()) => Ok(Admitted::Protected(self, app)),
                Err(error) => Err(self.broken(Broken::By(Side::Downstream, error))),
            },
            Err(failure) => self.refused(failure).await,
        }
    }

    /// Tells the peer's sidecar that its connection is refused, and why.
    async fn refused(mut self, failure: Failure) -> Result<Admitted, Failure> {
        tunnel_server::refuse(&self.tcp, &mut self.channel, failure.reason).await;
        Err(failure)
    }

    /// Tells the peer's sidecar that nothing was opened on this session, so that it tries a new one.
    async fn sent_elsewhere(mut self, failure: Failure) -> Result<Admitted, Failure> {
        let _ = tunnel_server::decline(&self.tcp, &mut self.channel, Outcome::NotOpened, Some(failure.reason));
        socket::linger_close(&self.tcp).await;
        Err(failure)
    }

    /// Authorizes the peer and dials the application, where that was not done before.
    async fn admit(
        &self,
        shared: &Shared,
        snapshot: &Snapshot,
        app: Option<TcpStream>,
        record: &mut ConnectionRecord,
        handle: &ConnectionHandle,
    ) -> Result<TcpStream, Failure> {
        authorize_client(snapshot, shared.settings.mode_of(self.to.port()), &self.channel.session, self.to, record)?;
        let session = &self.channel.session;
        admit(shared, handle, record, AdmissionBasis::Client { peer: session.peer.clone(), facts: session.facts.clone() })?;
        match app {
            Some(app) => Ok(app),
            None => dial_app(self.to, &shared.settings, record).await,
        }
    }

    fn broken(&mut self, broken: Broken) -> Failure {
        broken.failure(Direction::Inbound, Some((Side::Downstream, &mut self.channel, &self.tcp)), 0)
    }
}

/// A connection that comes on a session which has had others, or waited for one: its identity is verified and policy asked again.
async fn reopen(
    shared: &Shared,
    record: &mut ConnectionRecord,
    handle: &ConnectionHandle,
    client: Client,
    open: &Open,
    app: Option<TcpStream>,
) -> Result<Admitted, Failure> {
    let snapshot = shared.control.snapshot.load_full();
    record.generation = snapshot.generation;
    record.original_destination = Some(client.to);
    handle.set_destination(client.to);
    let tls = match tls_for(&snapshot, record) {
        Ok(tls) => tls,
        Err(failure) => return client.sent_elsewhere(failure).await,
    };
    let start = Instant::now();
    let verified = verify_again(&client.channel.session.peer, Role::Client, tls.context.trust(), unix_now());
    record.stages.verify = Some(Lap::since(start));
    match verified {
        Ok(revocation) => {
            establish(record, &client.channel.session);
            shared.telemetry.metrics.revocation(revocation);
            record.revocation = Some(revocation);
            client.opened(shared, &snapshot, open, app, record, handle).await
        }
        Err(refused) => {
            // It may have been verified in its handshake, by what held then.
            record.peer_id = None;
            record.claimed_id = refused.claimed_id;
            record.peer_certificate = refused.certificate;
            let failure = Failure::with(refused.reason, refused.detail);
            match record.tunnel {
                // With a new SVID it may be let in; else a new handshake tells it better why not.
                Some(TunnelUse::Reused) => client.sent_elsewhere(failure).await,
                _ => client.refused(failure).await,
            }
        }
    }
}

/// Says of a connection that it is not protected on the network.
fn plaintext(shared: &Shared, port: &Port, record: &mut ConnectionRecord, handle: &ConnectionHandle) -> Result<(), Failure> {
    record.transport = Some(Transport::Plaintext);
    admit(shared, handle, record, AdmissionBasis::Plaintext)?;
    shared.telemetry.metrics.plaintext(Direction::Inbound);
    // On a port of mode plaintext nothing else is expected: the start has said so.
    if port.mode == Mode::Permissive {
        tracing::warn!(
            event = event::CONNECTION_PLAINTEXT,
            connection_id = %record.connection_id,
            "plaintext connection from {} to a permissive port ({})",
            record.downstream,
            port.range,
        );
    }
    Ok(())
}

impl Admitted {
    /// Relays to the end. What is left can be used for the next connection.
    async fn carry(mut self, shared: &Shared, handle: &ConnectionHandle) -> Result<Option<Client>, Failure> {
        let (tcp, app, wire) = match &mut self {
            Self::Waiting(_) => return Box::pin(self.end(Ok(()))).await,
            Self::Protected(client, app) => (&client.tcp, &*app, Wire::PeerChannel(Side::Downstream, &mut client.channel)),
            Self::Plaintext { tcp, app, first, .. } => {
                (&*tcp, &*app, Wire::Plain(Box::new([Copier::starting_with(std::mem::take(first)), Copier::default()])))
            }
        };
        let result = relay(tcp, app, wire, &[], &shared.settings.timeouts, handle).await;
        // Boxed: what is only for the end is no burden of those who are open.
        Box::pin(self.end(result)).await
    }

    /// Ends what the relay has left. What can be used for the next connection is returned.
    async fn end(self, result: Result<(), Broken>) -> Result<Option<Client>, Failure> {
        match (self, result) {
            (Self::Protected(mut client, app), Err(broken)) => {
                // The application hears of it at once.
                drop(app);
                let told = broken.is_told(Side::Downstream);
                let failure = client.broken(broken);
                if told {
                    client.channel.linger_close(&client.tcp).await;
                }
                Err(failure)
            }
            (_, Err(broken)) => Err(broken.failure(Direction::Inbound, None, 0)),
            (Self::Plaintext { tcp, app, .. }, Ok(())) => {
                socket::end_in_order(&app);
                socket::end_in_order(&tcp);
                Ok(None)
            }
            (Self::Protected(mut client, app), Ok(())) => {
                socket::end_in_order(&app);
                if client.channel.tunnel.as_ref().is_some_and(|tunnel| tunnel.reusable && !tunnel.going) {
                    return Ok(Some(client));
                }
                tunnel_pool::close(&client.tcp, &mut client.channel);
                Ok(None)
            }
            (Self::Waiting(client), Ok(())) => Ok(Some(client)),
        }
    }
}
