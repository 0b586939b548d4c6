//! Where a redirected connection was meant to go.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use socket2::SockRef;
use tokio::net::TcpStream;

/// An IPv4 peer of a dual-stack socket as IPv4.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The socket's own address, and the one before redirection, which the kernel knows (`SO_ORIGINAL_DST`). On a dual-stack socket
/// an IPv4 connection has an IPv4-mapped address, and its original destination is known to the IPv4 side only.
///
/// # Errors
/// The system's: it tracks no such connection.
pub fn original_destination(tcp: &TcpStream) -> io::Result<(SocketAddr, SocketAddr)> {
    let local = canonical(tcp.local_addr()?);
    let socket = SockRef::from(tcp);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let address = original?.as_socket().ok_or_else(|| io::Error::other("it is no address of the Internet Protocol"))?;
    Ok((local, canonical(address)))
}

/// Whether `ip` is this pod's: only those can be bound. Without this check a neighbour who routes its packets through
/// the pod could use it as a relay.
///
/// It is asked each time, which costs some 5 µs: an address that has left the pod must not stay its own. That all its ports are
/// taken says that it is here.
///
/// # Errors
/// The system's.
pub fn is_local(ip: IpAddr) -> io::Result<bool> {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(true),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Ok(false),
        Err(error) => Err(error),
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
