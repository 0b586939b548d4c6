//! The load generator: one thread, non-blocking sockets, nothing allocated while it measures.

mod bulk;
mod churn;
mod closed;
mod histogram;
mod open;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub(crate) use bulk::{Download, Upload};
pub(crate) use churn::Churn;
pub(crate) use closed::ClosedLoop;
pub(crate) use histogram::Histogram;
pub(crate) use open::OpenLoop;

use crate::wire::{self, Kind};

/// For what should take no time: a connection, the last answers.
const DEADLINE: Duration = Duration::from_secs(30);

/// What [`probe`] sends.
pub(crate) const PROBE: [u8; 64] = [7; 64];

/// Connects and says hello. The connection does not block from here on.
fn dial(to: SocketAddr, kind: Kind, size: usize) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, DEADLINE).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.write_all(&wire::hello(kind, size)?)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Reads once, at most as much as the buffer holds; nothing if there is nothing yet. The end is an error.
fn read(stream: &TcpStream, buffer: &mut [u8]) -> Result<usize> {
    let mut stream = stream;
    match stream.read(buffer) {
        Ok(0) => bail!("the other side ended the connection"),
        Ok(count) => Ok(count),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Writes a small message, for which there is always room where only one is under way.
fn send(stream: &TcpStream, message: &[u8]) -> Result<()> {
    let mut stream = stream;
    Ok(stream.write_all(message)?)
}

/// One echo, with deadlines: whether the way to the server is there.
pub(crate) fn probe(to: SocketAddr) -> Result<()> {
    let patience = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(&wire::hello(Kind::Echo, PROBE.len())?)?;
    stream.write_all(&PROBE)?;
    Ok(stream.read_exact(&mut [0; PROBE.len()])?)
}

fn late(deadline: Instant) -> bool {
    Instant::now() >= deadline
}
