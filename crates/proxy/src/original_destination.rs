//! Where a redirected connection was meant to go.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use sidegate_core::Reason;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::attempt::canonical;
use crate::failure::Failure;

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

/// Whether `ip` is this pod's: only those can be bound. Without this check a neighbour who routes its packets through
/// the pod could use it as a relay.
///
/// It is asked each time, which costs some 5 µs: an address that has left the pod must not stay its own. That all its ports are
/// taken says that it is here.
pub(crate) fn is_local(ip: IpAddr) -> Result<bool, Failure> {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(true),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Ok(false),
        Err(error) => Err(Failure::system(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// In a network namespace of its own, which ends with the thread.
    #[test]
    fn an_address_that_has_left_the_pod_is_not_its_own() {
        let looked = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).ok()?;
            let ip = |arguments: &str| Command::new("ip").args(arguments.split(' ')).status().is_ok_and(|status| status.success());
            if !(ip("link set lo up") && ip("address add 10.9.8.7/32 dev lo") && ip("address add fd00::9/128 dev lo nodad")) {
                return None;
            }
            let addresses: [IpAddr; 2] = [[10, 9, 8, 7].into(), "fd00::9".parse().ok()?];
            let look = || addresses.map(|address| is_local(address).unwrap());
            let before = look();
            ip("address del 10.9.8.7/32 dev lo");
            ip("address del fd00::9/128 dev lo");
            Some((before, look()))
        });
        match looked.join().unwrap() {
            Some(looked) => assert_eq!(looked, ([true; 2], [false; 2])),
            None => eprintln!("skipped: only root with `ip` can make a network namespace"),
        }
    }
}
