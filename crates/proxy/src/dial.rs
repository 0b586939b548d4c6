//! TCP connect, with a deadline and a reason for every failure.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use sidegate_control::Settings;
use sidegate_core::{ClientAddr, DialAddr, Lap, Reason};
use sidegate_net::socket::{self, Facing};
use sidegate_net::{DialError, Dialing};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::own_dials::{OwnDial, OwnDials};
use crate::shared::Shared;

/// Connects to the application at `to`; the socket comes prepared. The record is told how long it took, also in vain.
pub(crate) async fn dial_app(connection: &mut Connection<'_>, to: DialAddr) -> Result<TcpStream, Failure> {
    let settings = &connection.shared.settings;
    timed(connection, connect(to, Facing::Workload, settings, None)).await.map(|(tcp, _)| tcp)
}

/// As [`dial_app`], to a peer. An outbound listener refuses this connection as long as the [`OwnDial`] is there: it must not be
/// captured. Of several tries the record is told how long all took.
pub(crate) async fn dial_peer(connection: &mut Connection<'_>, to: DialAddr) -> Result<(TcpStream, Option<OwnDial>), Failure> {
    let shared = connection.shared;
    timed(connection, connect(to, Facing::Mesh, &shared.settings, Some(&shared.own_dials))).await
}

/// As [`dial_peer`], for a connection that nobody has asked for yet; with our own address, as its client's.
pub(crate) async fn dial_in_advance(shared: &Shared, to: DialAddr) -> Result<(TcpStream, Option<OwnDial>, ClientAddr), Failure> {
    let (tcp, own) = connect(to, Facing::Mesh, &shared.settings, Some(&shared.own_dials)).await?;
    let from = tcp.local_addr().map_err(Failure::system)?;
    Ok((tcp, own, from.into()))
}

async fn timed<T>(connection: &mut Connection<'_>, dial: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let stages = &mut connection.record.stages;
    let start = stages.dial.map_or_else(Instant::now, |earlier| earlier.start);
    let result = dial.await;
    stages.dial = Some(Lap::since(start));
    result
}

async fn connect(
    to: DialAddr,
    facing: Facing,
    settings: &Settings,
    dials: Option<&Arc<OwnDials>>,
) -> Result<(TcpStream, Option<OwnDial>), Failure> {
    let local = |e: io::Error| Failure::with(Reason::DialFailed, format!("{to}: {e}"));
    let dialing = Dialing::begin(*to, settings.mark).map_err(|error| failed(to, error))?;
    // Its own port is known now. Only a worker that accepts within the next microsecond may not know of it; the one that is dialled
    // then does.
    let own = dials.map(|dials| Ok(dials.register(dialing.local_addr()?.into(), to))).transpose().map_err(local)?;
    let tcp = dialing.finish(settings.timeouts.dial.duration()).await.map_err(|error| failed(to, error))?;
    socket::prepare(&SockRef::from(&tcp), facing, &settings.timeouts).map_err(local)?;
    Ok((tcp, own))
}

fn failed(to: DialAddr, error: DialError) -> Failure {
    let error = match error {
        DialError::Local(error) => return Failure::with(Reason::DialFailed, format!("{to}: {error}")),
        DialError::NoAnswer(to, deadline) => {
            return Failure::with(Reason::DialTimeout, format!("{to} did not answer within {deadline:?}"));
        }
        DialError::Failed(error) => error,
    };
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::DialRefused,
        io::ErrorKind::ConnectionReset => Reason::DialReset,
        io::ErrorKind::TimedOut => Reason::DialTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => Reason::DialUnreachable,
        _ => Reason::DialFailed,
    };
    Failure::with(reason, format!("{to}: {error}"))
}
