//! A connection from the workload: accept, original destination, match, dial, handshake, authorize the peer, relay.

use std::net::SocketAddr;
use std::sync::Arc;

use sidegate_config::schema::Otherwise;
use sidegate_config::value::HostAndPort;
use sidegate_core::{ConnectionRecord, Decision, Direction, Reason, Transport, event};
use sidegate_tls::ServerName;
use tokio::net::TcpStream;

use crate::attempt::{Failure, attempt, canonical};
use crate::authorize::authorize_server;
use crate::dial::dial;
use crate::handshake::shake_hands;
use crate::original_destination::original_destination;
use crate::registry::Live;
use crate::relay::{End, relay};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::socket::{self, Facing};
use crate::wire::{Plain, Wire};

/// How an outbound connection's destination is known.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// The kernel redirected it and knows.
    Redirected,
    /// The listener leads to this peer, whose destination has this index.
    To(HostAndPort, usize),
}

/// Serves one connection to its end.
pub(crate) async fn outbound(shared: Arc<Shared>, tcp: TcpStream, from: SocketAddr, route: Route) {
    attempt(shared, Direction::Outbound, from, async |shared, record, live| serve(shared, record, live, tcp, route).await).await;
}

async fn serve(shared: &Shared, record: &mut ConnectionRecord, live: &Live, tcp: TcpStream, route: Route) -> Result<(), Failure> {
    let settings = &*shared.settings;
    socket::prepare(&tcp, Facing::Workload, &settings.timeouts).map_err(Failure::system)?;
    let snapshot = shared.snapshot.load_full();
    record.generation = snapshot.generation;
    let (named, redirected);
    let (candidates, index) = match route {
        Route::To(host, index) => {
            named = choose_addresses(&host, &snapshot)?;
            (named.as_slice(), index)
        }
        Route::Redirected => {
            redirected = not_ourselves(shared, &tcp)?;
            record.original_destination = Some(redirected);
            live.heads_for(redirected);
            match settings.destination_index(redirected, &snapshot.resolved) {
                Some(index) => (std::slice::from_ref(&redirected), index),
                None => return not_in_mesh(shared, &snapshot, tcp, redirected, record, live).await,
            }
        }
    };
    let destination = &settings.destinations[index];
    record.destination = Some(destination.name.clone());
    let tls = snapshot.valid_tls().ok_or(Failure::new(Reason::NotReady))?;
    record.local_id = Some(tls.local_id.clone());
    record.local_certificate = Some(tls.local_certificate.clone());
    let (peer, to) = dial_one(candidates, settings, record).await?;
    live.heads_for(to);
    // An address as name makes rustls send no server name.
    let name = destination.sni.clone().unwrap_or_else(|| ServerName::IpAddress(to.ip().into()));
    let session = shake_hands(shared, &peer, record, sidegate_tls::connect(&peer, tls.clients[index].clone(), name)).await?;
    authorize_server(destination, tls, &session, record)?;
    live.admit(record);
    let downstream = End { tcp, wire: Wire::Plain(Plain::default()) };
    relay(downstream, End { tcp: peer, wire: Wire::Tls(Box::new(session)) }, &settings.timeouts, live).await
}

/// The original destination, if it is not sidegate itself: to relay there would be an endless loop.
fn not_ourselves(shared: &Shared, tcp: &TcpStream) -> Result<SocketAddr, Failure> {
    let to = original_destination(tcp)?;
    let ourselves = tcp.local_addr().is_ok_and(|local| canonical(local) == to);
    if ourselves || (to.ip().is_loopback() && shared.settings.own_ports.contains(&to.port())) {
        return Err(Failure::with(Reason::OwnPort, format!("{to} is sidegate itself")));
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
    settings: &Settings,
    record: &mut ConnectionRecord,
) -> Result<(TcpStream, SocketAddr), Failure> {
    let mut last = Failure::new(Reason::DialFailed);
    for to in candidates {
        record.original_destination = Some(*to);
        match dial(*to, Facing::Mesh, settings, record).await {
            Ok(tcp) => return Ok((tcp, *to)),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

async fn not_in_mesh(
    shared: &Shared,
    snapshot: &Snapshot,
    tcp: TcpStream,
    to: SocketAddr,
    record: &mut ConnectionRecord,
    live: &Live,
) -> Result<(), Failure> {
    if let Some(name) = shared.settings.unresolved(to, &snapshot.resolved) {
        let detail = format!("`{name}` has not been resolved yet, so it is not known whether {to} is in the mesh");
        return Err(Failure::with(Reason::NotReady, detail));
    }
    if shared.settings.otherwise == Otherwise::Refuse {
        record.decision = Some(Decision { allowed: false, rule: "outbound.otherwise: refuse".into() });
        return Err(Failure::with(Reason::NotInMesh, format!("no destination covers {to}")));
    }
    record.decision = Some(Decision { allowed: true, rule: "outbound.otherwise: passthrough".into() });
    record.transport = Some(Transport::Plaintext);
    live.admit(record);
    shared.telemetry.metrics.plaintext(Direction::Outbound);
    tracing::warn!(
        event = event::CONNECTION_PLAINTEXT,
        connection_id = %record.connection_id,
        "connection to {to} leaves the mesh in plaintext"
    );
    let peer = dial(to, Facing::Mesh, &shared.settings, record).await?;
    let end = |tcp| End { tcp, wire: Wire::Plain(Plain::default()) };
    relay(end(tcp), end(peer), &shared.settings.timeouts, live).await
}
