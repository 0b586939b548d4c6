//! A connection to the workload: accept, original destination, (detect), handshake, authorize, dial, relay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use sidegate_config::schema::Mode;
use sidegate_core::{ConnectionRecord, Direction, Lap, Reason, Transport, event};
use sidegate_tls::Session;
use tokio::net::TcpStream;

use crate::attempt::{Failure, attempt};
use crate::authorize::{authorize_client, authorize_plaintext};
use crate::detect::{Detected, detect};
use crate::dial::dial;
use crate::handshake::shake_hands;
use crate::limits::{Place, Wait};
use crate::original_destination::{is_local, original_destination};
use crate::registry::Live;
use crate::relay::{End, relay};
use crate::settings::Port;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::socket::{self, Facing};
use crate::wire::{Plain, Wire};

/// How an inbound connection's destination is known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route {
    /// The kernel redirected it and knows.
    Redirected,
    /// The listener hands on to this address.
    To(SocketAddr),
}

/// Serves one connection to its end.
pub(crate) async fn inbound(shared: Arc<Shared>, tcp: TcpStream, from: SocketAddr, route: Route) {
    attempt(shared, Direction::Inbound, from, async |shared, record, live| serve(shared, record, live, tcp, route).await).await;
}

async fn serve(shared: &Shared, record: &mut ConnectionRecord, live: &Live, tcp: TcpStream, route: Route) -> Result<(), Failure> {
    let settings = &*shared.settings;
    socket::prepare(&tcp, Facing::Mesh, &settings.timeouts).map_err(Failure::system)?;
    let to = match route {
        Route::To(address) => address,
        Route::Redirected => own_address(shared, &tcp)?,
    };
    record.original_destination = Some(to);
    live.heads_for(to);
    let snapshot = shared.snapshot.load_full();
    record.generation = snapshot.generation;
    let from = record.downstream.ip();
    let index = settings.port_index(to.port());
    let port = &settings.ports[index];
    match port.mode {
        Mode::Strict => {
            let session = handshake(shared, &snapshot, index, &tcp, &[], record).await?;
            authorize_client(&snapshot, &session, from, to, record)?;
            live.admit(record);
            let app = dial(to, Facing::Workload, settings, record).await?;
            relay_mtls(shared, session, tcp, app, live).await
        }
        Mode::Permissive => permissive(shared, index, tcp, to, record, live).await,
        Mode::Plaintext => {
            authorize_plaintext(&snapshot, from, to, "mode plaintext", record)?;
            let app = dial(to, Facing::Workload, settings, record).await?;
            plaintext(shared, port, tcp, app, Vec::new(), record, live).await
        }
    }
}

/// The original destination, if it is an address of this pod and none of sidegate's own ports.
fn own_address(shared: &Shared, tcp: &TcpStream) -> Result<SocketAddr, Failure> {
    let to = original_destination(tcp)?;
    if shared.settings.own_ports.contains(&to.port()) {
        return Err(Failure::with(Reason::OwnPort, format!("{to} is sidegate itself")));
    }
    // Redirection can't bring loopback from outside; and what listens on localhost only is to stay private.
    if to.ip().is_loopback() || !is_local(to.ip()) {
        return Err(Failure::with(Reason::OwnPort, format!("{to} is not an address of this pod that others may reach")));
    }
    Ok(to)
}

async fn handshake(
    shared: &Shared,
    snapshot: &Snapshot,
    port: usize,
    tcp: &TcpStream,
    first: &[u8],
    record: &mut ConnectionRecord,
) -> Result<Session, Failure> {
    let tls = snapshot.valid_tls().ok_or(Failure::new(Reason::NotReady))?;
    record.local_id = Some(tls.local_id.clone());
    record.local_certificate = Some(tls.local_certificate.clone());
    shake_hands(shared, tcp, record, sidegate_tls::accept(tcp, first, &tls.servers[port])).await
}

/// A port where clients without a sidecar may still come. The application is dialled first, for it may speak first.
async fn permissive(
    shared: &Shared,
    index: usize,
    tcp: TcpStream,
    to: SocketAddr,
    record: &mut ConnectionRecord,
    live: &Live,
) -> Result<(), Failure> {
    let settings = &*shared.settings;
    let port = &settings.ports[index];
    let place = Place::take(shared, Wait::Detection)?;
    let app = dial(to, Facing::Workload, settings, record).await?;
    let start = Instant::now();
    let detected = detect(&tcp, &app, port.server_first, &settings.timeouts).await;
    record.stages.detect = Some(Lap::since(start));
    drop(place);
    // The wait may have been long: what counts is what holds now.
    let snapshot = &shared.snapshot.load_full();
    record.generation = snapshot.generation;
    let from = record.downstream.ip();
    match detected? {
        Detected::Tls(first) => {
            let session = handshake(shared, snapshot, index, &tcp, &first, record).await?;
            authorize_client(snapshot, &session, from, to, record)?;
            live.admit(record);
            relay_mtls(shared, session, tcp, app, live).await
        }
        Detected::Plaintext(first) => {
            authorize_plaintext(snapshot, from, to, "mode permissive", record)?;
            plaintext(shared, port, tcp, app, first, record, live).await
        }
    }
}

async fn relay_mtls(shared: &Shared, session: Session, tcp: TcpStream, app: TcpStream, live: &Live) -> Result<(), Failure> {
    let downstream = End { tcp, wire: Wire::Tls(Box::new(session)) };
    relay(downstream, End { tcp: app, wire: Wire::Plain(Plain::default()) }, &shared.settings.timeouts, live).await
}

async fn plaintext(
    shared: &Shared,
    port: &Port,
    tcp: TcpStream,
    app: TcpStream,
    first: Vec<u8>,
    record: &mut ConnectionRecord,
    live: &Live,
) -> Result<(), Failure> {
    record.transport = Some(Transport::Plaintext);
    live.admit(record);
    shared.telemetry.metrics.plaintext(Direction::Inbound);
    tracing::warn!(
        event = event::CONNECTION_PLAINTEXT,
        connection_id = %record.connection_id,
        "plaintext connection from {} to port range {} ({:?})",
        record.downstream,
        port.range,
        port.mode
    );
    let downstream = End { tcp, wire: Wire::Plain(Plain::starting_with(first)) };
    relay(downstream, End { tcp: app, wire: Wire::Plain(Plain::default()) }, &shared.settings.timeouts, live).await
}
