//! A connection to the workload: accept, original destination, (detect), handshake, authorize, dial, relay.

use std::sync::Arc;
use std::time::Instant;

use sidegate_config::schema::Mode;
use sidegate_control::{AppPreamble, Port, Preamble, Protocol};
use sidegate_core::{
    ClientAddr, ConnectionRecord, DialAddr, Direction, Lap, OriginalDst, Peer, ReachedAt, Reason, Transport, TunnelUse, event,
};
use sidegate_identity::unix_now;
use sidegate_net::canonical;
use sidegate_net::socket;
use sidegate_tls::{Role, Session, TUNNEL, verify_again};
use sidegate_tunnel::Tunnel;
use sidegate_tunnel::v1::{Open, Outcome};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::attempt::attempt;
use crate::authorize::{authorize_client, authorize_plaintext};
use crate::connection::Connection;
use crate::copy::Copier;
use crate::course::{not_reachable, out_of_bounds};
use crate::destination::{is_local, original_destination};
use crate::detect::{Detected, detect};
use crate::dial::dial_app;
use crate::failure::Failure;
use crate::handshake::{establish, shake_hands};
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

/// How an inbound connection's destination is known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route {
    /// The kernel redirected it and knows.
    Redirected,
    /// The listener hands on to this address.
    To(DialAddr),
}

/// Serves one connection to its end, and then those that come after it on the same session. `accepted` is boxed, for a task keeps
/// the room of its arguments to its end.
pub(crate) async fn inbound(shared: Arc<Shared>, accepted: Box<(TcpStream, ClientAddr, Route)>) {
    let (tcp, from, route) = *accepted;
    let mut arrival = Arrival::Accepted(tcp, route);
    loop {
        let serve = async |shared: &Shared, record: &mut ConnectionRecord, handle: &ConnectionHandle| {
            // Boxed: to admit a connection takes more room than one that is open for hours shall hold.
            Box::pin(arrival.admit(shared, handle, record)).await?.carry(shared, handle).await
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
    async fn admit(self, shared: &Shared, handle: &ConnectionHandle, record: &mut ConnectionRecord) -> Result<Admitted, Failure> {
        let latest = shared.control.latest();
        let mut connection = Connection::new(shared, handle, record, &latest);
        match self {
            Self::Accepted(tcp, route) => accepted(&mut connection, tcp, route).await,
            Self::Reopened(client, open) => {
                connection.record.tunnel = Some(TunnelUse::Reused);
                reopen(&mut connection, client, &open, None).await
            }
        }
    }
}

/// A client after its handshake, and where it wants to go.
struct Client {
    tcp: TcpStream,
    /// The session with it, with its tunnel where it has one.
    channel: Box<PeerChannel>,
    /// Where all connections of the session go.
    to: OriginalDst,
}

/// A connection that was admitted.
enum Admitted {
    /// From a client to the application.
    Protected(Client, TcpStream),
    /// As it is, from the network to the application; what was read already.
    Plaintext { tcp: TcpStream, app: TcpStream, first: Vec<u8>, _guard: Option<Box<UnidentifiedGuard>> },
    /// None yet: the session was made in advance.
    Waiting(Client),
}

/// All but the relay of a connection that arrives at a listener.
async fn accepted(connection: &mut Connection<'_>, tcp: TcpStream, route: Route) -> Result<Admitted, Failure> {
    let (shared, handle) = (connection.shared, connection.handle);
    let (to, reached_at): (OriginalDst, ReachedAt) = match route {
        Route::To(address) => (address.wanted(), canonical(tcp.local_addr().map_err(Failure::system)?).into()),
        Route::Redirected => {
            let to = own_address(shared, &tcp)?;
            (to, ReachedAt::redirected(to))
        }
    };
    connection.record.original_destination = Some(to);
    handle.set_destination(to);
    let index = shared.settings.port_index(to.port());
    let port = &shared.settings.ports[index];
    let guard = shared.registry.find(handle.key()).map(|handle| shared.limits.unidentified.enter(handle)).transpose()?.map(Box::new);
    match port.mode {
        Mode::Strict => {
            match port.preamble {
                Preamble::None => {}
            }
            first_byte(connection, &tcp).await?;
            handle.touch(Instant::now());
            let session = handshake(connection, index, &tcp, &[]).await?;
            drop(guard);
            let client = Client { tcp, channel: Box::new(PeerChannel::plain(session)), to };
            client.established(connection, reached_at, None).await
        }
        Mode::Permissive => permissive(connection, index, tcp, to, reached_at, guard).await,
        Mode::Plaintext => {
            authorize_plaintext(connection, port.mode, to)?;
            let app = dial_app(connection, to.dialled()).await?;
            plaintext(connection, port)?;
            Ok(Admitted::Plaintext { tcp, app, first: Vec::new(), _guard: guard })
        }
    }
}

/// The original destination, if it is an address of this pod and none of sidegate's own ports.
fn own_address(shared: &Shared, tcp: &TcpStream) -> Result<OriginalDst, Failure> {
    let (_, to) = original_destination(tcp)?;
    if let Some(detail) = out_of_bounds(&shared.settings, Direction::Inbound, *to) {
        return Err(Failure::with(Reason::OwnPort, detail));
    }
    if !is_local(to.ip())? {
        return Err(Failure::with(Reason::OwnPort, not_reachable(*to)));
    }
    Ok(to)
}

/// Waits for the client's first byte: as long as it is silent it holds no permit to shake hands, and no buffer.
async fn first_byte(connection: &mut Connection<'_>, tcp: &TcpStream) -> Result<(), Failure> {
    let (start, deadline) = (Instant::now(), connection.shared.settings.timeouts.handshake.duration());
    match timeout(deadline, tcp.readable()).await {
        Ok(readable) => readable.map_err(Failure::system),
        Err(_) => {
            let lap = Lap::since(start);
            connection.record.stages.handshake = Some(lap);
            let metrics = &connection.shared.telemetry.metrics;
            metrics.handshake_failed(Direction::Inbound, Reason::HandshakeTimeout, lap.took);
            Err(Failure::with(Reason::HandshakeTimeout, format!("the client said nothing within {deadline:?}")))
        }
    }
}

/// Shakes hands with a client whose first bytes, already read, are `first`.
async fn handshake(connection: &mut Connection<'_>, port: usize, tcp: &TcpStream, first: &[u8]) -> Result<Session, Failure> {
    let tls = connection.tls()?;
    let permit = HandshakePermit::take(connection, PermitKind::InboundHandshake, connection.record.downstream.ip()).await?;
    shake_hands(connection, tcp, permit, sidegate_tls::accept(tcp, first, &tls.servers[port])).await
}

/// A port where clients without a sidecar may still come. The application is dialled first where it may speak first.
async fn permissive(
    connection: &mut Connection<'_>,
    index: usize,
    tcp: TcpStream,
    to: OriginalDst,
    reached_at: ReachedAt,
    guard: Option<Box<UnidentifiedGuard>>,
) -> Result<Admitted, Failure> {
    let shared = connection.shared;
    let port = &shared.settings.ports[index];
    let permit = HandshakePermit::take(connection, PermitKind::Detection, connection.record.downstream.ip()).await?;
    // An application that is told who its client is has to be dialled when that is known.
    let app = match port.app_preamble {
        AppPreamble::None => dial_app(connection, to.dialled()).await?,
    };
    let start = Instant::now();
    let detected = detect(&tcp, &app, port.server_first, &shared.settings.timeouts).await;
    connection.record.stages.detect = Some(Lap::since(start));
    drop(permit);
    // The wait may have been long: the latest snapshot decides.
    let latest = shared.control.latest();
    let connection = &mut connection.renewed(&latest);
    match detected? {
        Detected::Tls(first) => {
            let session = handshake(connection, index, &tcp, &first).await?;
            drop(guard);
            let client = Client { tcp, channel: Box::new(PeerChannel::plain(session)), to };
            client.established(connection, reached_at, Some(app)).await
        }
        Detected::Plaintext(first) => {
            authorize_plaintext(connection, port.mode, to)?;
            plaintext(connection, port)?;
            Ok(Admitted::Plaintext { tcp, app, first, _guard: guard })
        }
    }
}

impl Client {
    /// Waits for the next connection. None at the end of the session.
    async fn next(mut self, shared: &Arc<Shared>, from: ClientAddr) -> Option<Arrival> {
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
        connection: &mut Connection<'_>,
        reached_at: ReachedAt,
        app: Option<TcpStream>,
    ) -> Result<Admitted, Failure> {
        if self.channel.session.facts.alpn.as_deref() != Some(TUNNEL) {
            let app = self.admit(connection, app).await?;
            return Ok(Admitted::Protected(self, app));
        }
        let settings = &connection.shared.settings;
        let tunnel = self.channel.tunnel.insert(Tunnel::new(reached_at, connection.renewal));
        tunnel.reusable = settings.keeps_tunnels();
        connection.record.tunnel = Some(TunnelUse::New);
        let deadline = settings.timeouts.handshake.duration();
        match timeout(deadline, tunnel_server::first(&self.tcp, &mut self.channel)).await {
            Ok(Ok(First::Open(open))) if connection.renewal == *connection.shared.control.renewals.borrow() => {
                self.opened(connection, &open, app).await
            }
            // Identity or policy has changed since the handshake: the latest snapshot decides.
            Ok(Ok(First::Open(open))) => {
                let latest = connection.shared.control.latest();
                reopen(&mut connection.renewed(&latest), self, &open, app).await
            }
            Ok(Ok(First::Warm)) => {
                // A client that may not use a session may not keep one either.
                authorize_client(connection, &self.channel.session, self.to)?;
                connection.record.reason = Reason::Prepared;
                // On a permissive port it was dialled for a client that turns out to have nothing to say yet.
                app.iter().for_each(socket::end_in_order);
                Ok(Admitted::Waiting(self))
            }
            Ok(Err(error)) => Err(self.broken(Broken::By(Side::Downstream, error))),
            Err(_) => Err(Failure::with(Reason::HandshakeTimeout, "neither OPEN nor WARM came after the handshake")),
        }
    }

    /// After OPEN.
    async fn opened(mut self, connection: &mut Connection<'_>, open: &Open, app: Option<TcpStream>) -> Result<Admitted, Failure> {
        if let Some(tunnel) = &mut self.channel.tunnel {
            tunnel.begin();
        }
        let app = match tunnel_server::adopt(connection, open) {
            Ok(()) => self.admit(connection, app).await,
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
    async fn admit(&self, connection: &mut Connection<'_>, app: Option<TcpStream>) -> Result<TcpStream, Failure> {
        let session = &self.channel.session;
        authorize_client(connection, session, self.to)?;
        admit(connection, AdmissionBasis::Client { peer: session.peer.clone(), facts: session.facts.clone() })?;
        let app = match app {
            Some(app) => app,
            None => dial_app(connection, self.to.dialled()).await?,
        };
        match connection.shared.settings.port(self.to).app_preamble {
            AppPreamble::None => Ok(app),
        }
    }

    fn broken(&mut self, broken: Broken) -> Failure {
        broken.failure(Direction::Inbound, Some((Side::Downstream, &mut self.channel, &self.tcp)), 0)
    }
}

/// A connection that comes on a session which has had others, or waited for one: its peer is verified and authorized again.
async fn reopen(connection: &mut Connection<'_>, client: Client, open: &Open, app: Option<TcpStream>) -> Result<Admitted, Failure> {
    connection.record.original_destination = Some(client.to);
    connection.handle.set_destination(client.to);
    let tls = match connection.tls() {
        Ok(tls) => tls,
        Err(failure) => return client.sent_elsewhere(failure).await,
    };
    let start = Instant::now();
    let verified = verify_again(&client.channel.session.peer, Role::Client, tls.context.trust(), unix_now());
    connection.record.stages.verify = Some(Lap::since(start));
    match verified {
        Ok(status) => {
            establish(connection, &client.channel.session, status);
            client.opened(connection, open, app).await
        }
        Err(refused) => {
            // It may have been verified in its handshake, by an earlier snapshot.
            connection.record.peer = Peer::unverified(refused.claimed_id, refused.certificate);
            let failure = Failure::with(refused.reason, refused.detail);
            match connection.record.tunnel {
                // With a new SVID it may be admitted; else a new handshake tells it better why not.
                Some(TunnelUse::Reused) => client.sent_elsewhere(failure).await,
                _ => client.refused(failure).await,
            }
        }
    }
}

/// Admits a connection that is not protected on the network, and says so.
fn plaintext(connection: &mut Connection<'_>, port: &Port) -> Result<(), Failure> {
    connection.record.transport = Some(Transport::Plaintext);
    admit(connection, AdmissionBasis::Plaintext)?;
    connection.shared.telemetry.metrics.plaintext(Direction::Inbound);
    // On a port of mode plaintext nothing else is expected: the start has said so.
    if port.mode == Mode::Permissive {
        tracing::warn!(
            event = event::CONNECTION_PLAINTEXT,
            connection_id = %connection.record.connection_id,
            "plaintext connection from {} to a permissive port ({})",
            connection.record.downstream,
            port.range,
        );
    }
    Ok(())
}

impl Admitted {
    /// Relays to the end. What is left can be used for the next connection.
    async fn carry(mut self, shared: &Shared, handle: &ConnectionHandle) -> Result<Option<Client>, Failure> {
        let (tcp, app, wire, protocol) = match &mut self {
            Self::Waiting(_) => return Box::pin(self.end(Ok(()))).await,
            Self::Protected(client, app) => {
                let protocol = shared.settings.port(client.to).protocol;
                (&client.tcp, &*app, Wire::PeerChannel(Side::Downstream, &mut client.channel), protocol)
            }
            Self::Plaintext { tcp, app, first, .. } => {
                let copiers = [Copier::starting_with(std::mem::take(first)), Copier::default()];
                (&*tcp, &*app, Wire::Plain(Box::new(copiers)), Protocol::Tcp)
            }
        };
        let result = match protocol {
            Protocol::Tcp => relay(tcp, app, wire, &[], &shared.settings.timeouts, handle).await,
        };
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
