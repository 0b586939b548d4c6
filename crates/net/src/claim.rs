//! What tells a packet of the sidecar from one of the workload.

use std::io;

use socket2::Socket;

/// The `SO_PRIORITY` of the sidecar's sockets. A packet that the kernel sends for a closed socket has no owner any more, but it
/// has the socket's priority: by it the kernel rules find the connection that it belongs to. It exempts nothing, for any
/// process may set it. It is queued like the default priority, and it does not leave the pod.
pub const SOCKET_PRIORITY: u32 = 4;

/// Makes `socket` one of the sidecar's for the kernel rules, with `mark` (`redirect.exemptMark`) where packets are known by it.
/// Call it before the socket connects or listens.
///
/// # Errors
/// If the system refuses; a mark needs CAP_NET_ADMIN, or CAP_NET_RAW since Linux 5.17.
pub fn claim(socket: &Socket, mark: Option<u32>) -> io::Result<()> {
    socket.set_priority(SOCKET_PRIORITY)?;
    let Some(mark) = mark else { return Ok(()) };
    socket.set_mark(mark).map_err(|error| {
        let why = format!("the fwmark {mark:#x} can't be set: {error}; give the container CAP_NET_ADMIN, or use redirect.exemptUid");
        io::Error::new(error.kind(), why)
    })
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Type};

    use super::*;

    #[test]
    fn a_claimed_socket_has_the_priority() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        claim(&socket, None).unwrap();
        assert_eq!(socket.priority().unwrap(), SOCKET_PRIORITY);
    }
}
