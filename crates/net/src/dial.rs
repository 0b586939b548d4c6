//! Connecting to another host with a socket of the sidecar's.
//!
//! Every TCP connection that sidegate itself makes to another host begins here, so that no socket lacks what tells its packets from the
//! workload's, and no connect waits without a deadline. (Questions to DNS resolvers are the resolver library's, over UDP.)

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::libc::EINPROGRESS;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::claim::claim;

/// A connect that has begun: the socket has its own address and port already.
#[derive(Debug)]
pub struct Dialing {
    tcp: TcpStream,
    to: SocketAddr,
}

impl Dialing {
    /// Begins to connect, with `mark` as in [`claim`].
    ///
    /// # Errors
    /// [`DialError::Local`] if there is no socket or port left, or the mark can't be set; else what the kernel knows at once.
    pub fn begin(to: SocketAddr, mark: Option<u32>) -> Result<Self, DialError> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP)).map_err(DialError::Local)?;
        claim(&socket, mark).map_err(DialError::Local)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(DialError::Failed(error)),
            _ => {}
        }
        let tcp = TcpStream::from_std(socket.into()).map_err(DialError::Local)?;
        Ok(Self { tcp, to })
    }

    /// Its own address.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Waits until it is connected, for `deadline` at most.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn finish(self, deadline: Duration) -> Result<TcpStream, DialError> {
        match timeout(deadline, self.tcp.writable()).await {
            Ok(writable) => writable.map_err(DialError::Local)?,
            Err(_) => return Err(DialError::NoAnswer(self.to, deadline)),
        }
        match self.tcp.take_error() {
            Ok(None) => Ok(self.tcp),
            Ok(Some(error)) | Err(error) => Err(DialError::Failed(error)),
        }
    }
}

/// Why a connection was not made.
#[derive(Debug)]
pub enum DialError {
    /// This host has no socket or port for it, or may not mark it.
    Local(io::Error),
    /// There was no answer in time.
    NoAnswer(SocketAddr, Duration),
    /// It was refused or reset, or there is no way there.
    Failed(io::Error),
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Local(error) | DialError::Failed(error) => error,
            DialError::NoAnswer(to, deadline) => Self::new(io::ErrorKind::TimedOut, format!("{to} did not answer within {deadline:?}")),
        }
    }
}

/// Connects to the first address of `host` that answers. Each has an equal part of `within`, so that one that does not answer leaves
/// time for the others. The caller bounds the look-up of the name.
///
/// # Errors
/// That of the last address.
pub async fn dial_host(host: &str, port: u16, mark: Option<u32>, within: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::other(format!("`{host}` has no address"));
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let each = within / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
    for to in addresses {
        let connected = match Dialing::begin(to, mark) {
            Ok(dialing) => dialing.finish(each).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Err(error @ DialError::NoAnswer(..)) => last = error.into(),
            Err(error) => {
                let error = io::Error::from(error);
                last = io::Error::new(error.kind(), format!("{to}: {error}"));
            }
        }
    }
    Err(last)
}

/// As [`Dialing`], for a thread that may block: connects to `to` within `deadline`.
///
/// # Errors
/// Why it is not connected.
pub fn dial_blocking(to: SocketAddr, mark: Option<u32>, deadline: Duration) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    claim(&socket, mark)?;
    socket.connect_timeout(&SockAddr::from(to), deadline)?;
    Ok(socket.into())
}
