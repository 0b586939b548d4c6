//! TCP connect, with a deadline and a reason for every failure.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use sidegate_core::{ConnectionRecord, Lap, Reason};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::attempt::Failure;
use crate::settings::Settings;
use crate::socket::{self, Facing};

/// Connects to `to`; the socket comes prepared. The record is told how long it took, also in vain; of several tries, all.
pub(crate) async fn dial(to: SocketAddr, facing: Facing, settings: &Settings, record: &mut ConnectionRecord) -> Result<TcpStream, Failure> {
    let start = record.stages.dial.map_or_else(Instant::now, |earlier| earlier.start);
    let result = connect(to, facing, settings).await;
    record.stages.dial = Some(Lap::since(start));
    result
}

async fn connect(to: SocketAddr, facing: Facing, settings: &Settings) -> Result<TcpStream, Failure> {
    let local = |e: io::Error| Failure::with(Reason::DialFailed, format!("{to}: {e}"));
    let tcp = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(local)?;
    if let Some(mark) = settings.mark {
        // Without its mark our own packet would be captured again.
        SockRef::from(&tcp)
            .set_mark(mark)
            .map_err(|e| Failure::with(Reason::DialFailed, format!("the fwmark {mark} can't be set (CAP_NET_ADMIN is needed): {e}")))?;
    }
    let deadline = settings.timeouts.dial.duration();
    let stream = match timeout(deadline, tcp.connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(refused(to, &error)),
        Err(_) => return Err(Failure::with(Reason::DialTimeout, format!("{to} did not answer within {deadline:?}"))),
    };
    socket::prepare(&SockRef::from(&stream), facing, &settings.timeouts).map_err(local)?;
    Ok(stream)
}

fn refused(to: SocketAddr, error: &io::Error) -> Failure {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Reason::DialRefused,
        io::ErrorKind::TimedOut => Reason::DialTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => Reason::DialUnreachable,
        _ => Reason::DialFailed,
    };
    Failure::with(reason, format!("{to}: {error}"))
}
