//! What tells a packet of the sidecar from one of the workload.

use std::io;

use socket2::Socket;

/// Makes `socket` one of the sidecar's for the kernel rules, with `mark` (`redirect.exemptMark`) where packets are known by it and not
/// by their user. Call it before the socket connects or listens.
///
/// # Errors
/// If the system refuses; a mark needs CAP_NET_ADMIN, or CAP_NET_RAW since Linux 5.17.
pub fn claim(socket: &Socket, mark: Option<u32>) -> io::Result<()> {
    let Some(mark) = mark else { return Ok(()) };
    socket.set_mark(mark).map_err(|error| {
        let why = format!("the fwmark {mark:#x} can't be set: {error}; give the container CAP_NET_ADMIN, or use redirect.exemptUid");
        io::Error::new(error.kind(), why)
    })
}
