//! Where a redirected connection was meant to go.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use sidegate_core::Reason;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::attempt::{Failure, canonical};

/// The socket's own address, and the one before redirection, which the kernel knows (`SO_ORIGINAL_DST`). On a dual-stack socket
/// an IPv4 connection has an IPv4-mapped address, and its original destination is known to the IPv4 side only.
pub(crate) fn original_destination(tcp: &TcpStream) -> Result<(SocketAddr, SocketAddr), Failure> {
    let unknown = |e: std::io::Error| Failure::with(Reason::OriginalDestinationUnknown, e.to_string());
    let local = canonical(tcp.local_addr().map_err(unknown)?);
    let socket = SockRef::from(tcp);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    match original.map_err(unknown)?.as_socket() {
        Some(address) => Ok((local, canonical(address))),
        None => Err(Failure::new(Reason::OriginalDestinationUnknown)),
    }
}

thread_local! {
    /// Addresses that have been found to be the pod's own.
    static LOCAL: RefCell<HashSet<IpAddr>> = RefCell::new(HashSet::new());
}

/// A pod has a handful of addresses; more than this is not a pod, and not worth memory.
const REMEMBERED: usize = 64;

/// Whether `ip` is this pod's: only those can be bound. Without this check a neighbour who routes its packets through
/// the pod could use it as a relay.
pub(crate) fn is_local(ip: IpAddr) -> bool {
    if LOCAL.with_borrow(|known| known.contains(&ip)) {
        return true;
    }
    let local = UdpSocket::bind((ip, 0)).is_ok();
    if local {
        LOCAL.with_borrow_mut(|known| {
            if known.len() < REMEMBERED {
                known.insert(ip);
            }
        });
    }
    local
}
