//! Where a redirected connection was meant to go, and whether that is here.

use std::net::{IpAddr, SocketAddr};

use sidegate_core::{OriginalDst, Reason};
use tokio::net::TcpStream;

use crate::failure::Failure;

/// The socket's own address, and the one before redirection.
pub(crate) fn original_destination(tcp: &TcpStream) -> Result<(SocketAddr, OriginalDst), Failure> {
    let found = sidegate_net::original_destination(tcp);
    found.map(|(local, to)| (local, to.into())).map_err(|e| Failure::with(Reason::OriginalDestinationUnknown, e.to_string()))
}

/// Whether `ip` is this pod's.
pub(crate) fn is_local(ip: IpAddr) -> Result<bool, Failure> {
    sidegate_net::is_local(ip).map_err(Failure::system)
}
