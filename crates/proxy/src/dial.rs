//! TCP connect, with a deadline and a reason for every failure.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use nix::libc::EINPROGRESS;
use sidegate_core::{ConnectionRecord, Lap, Reason};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::own_dials::{OwnDial, OwnDials};
use crate::shared::Shared;
use crate::socket::{self, Facing};
use sidegate_control::Settings;

/// Connects to the application at `to`; the socket comes prepared. The record is told how long it took, also in vain.
pub(crate) async fn dial_app(to: SocketAddr, settings: &Settings, record: &mut ConnectionRecord) -> Result<TcpStream, Failure> {
    timed(record, connect(to, Facing::Workload, settings, None)).await.map(|(tcp, _)| tcp)
}

/// As [`dial_app`], to a peer. An outbound listener refuses this connection as long as the [`OwnDial`] is there: it must not be
/// captured. Of several tries the record is told how long all took.
pub(crate) async fn dial_peer(
    to: SocketAddr,
    shared: &Shared,
    record: &mut ConnectionRecord,
) -> Result<(TcpStream, Option<OwnDial>), Failure> {
    timed(record, connect(to, Facing::Mesh, &shared.settings, Some(&shared.own_dials))).await
}

/// As [`dial_peer`], for a connection that nobody has asked for yet; with our own address.
pub(crate) async fn dial_in_advance(to: SocketAddr, shared: &Shared) -> Result<(TcpStream, Option<OwnDial>, SocketAddr), Failure> {
    let (tcp, own) = connect(to, Facing::Mesh, &shared.settings, Some(&shared.own_dials)).await?;
    let from = tcp.local_addr().map_err(Failure::system)?;
    Ok((tcp, own, from))
}

async fn timed<T>(record: &mut ConnectionRecord, dial: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let start = record.stages.dial.map_or_else(Instant::now, |earlier| earlier.start);
    let result = dial.await;
    record.stages.dial = Some(Lap::since(start));
    result
}

async fn connect(
    to: SocketAddr,
    facing: Facing,
    settings: &Settings,
    dials: Option<&Arc<OwnDials>>,
) -> Result<(TcpStream, Option<OwnDial>), Failure> {
    let local = |e: io::Error| Failure::with(Reason::DialFailed, format!("{to}: {e}"));
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP)).map_err(local)?;
    sidegate_net::claim(&socket, settings.mark).map_err(local)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(failed(to, &error)),
        _ => {}
    }
    let tcp = TcpStream::from_std(socket.into()).map_err(local)?;
    // Its own port is known now. Only a worker that accepts within the next microsecond may not know of it; the one that is dialled
    // then does.
    let own = dials.map(|dials| Ok(dials.register(tcp.local_addr()?, to))).transpose().map_err(local)?;
    let deadline = settings.timeouts.dial.duration();
    match timeout(deadline, tcp.writable()).await {
        Ok(writable) => writable.map_err(local)?,
        Err(_) => return Err(Failure::with(Reason::DialTimeout, format!("{to} did not answer within {deadline:?}"))),
    }
    match tcp.take_error() {
        Ok(None) => {}
        Ok(Some(error)) | Err(error) => return Err(failed(to, &error)),
    }
    socket::prepare(&SockRef::from(&tcp), facing, &settings.timeouts).map_err(local)?;
    Ok((tcp, own))
}

fn failed(to: SocketAddr, error: &io::Error) -> Failure {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::DialRefused,
        io::ErrorKind::ConnectionReset => Reason::DialReset,
        io::ErrorKind::TimedOut => Reason::DialTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => Reason::DialUnreachable,
        _ => Reason::DialFailed,
    };
    Failure::with(reason, format!("{to}: {error}"))
}
