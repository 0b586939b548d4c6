//! The bytes that a socket has still to send.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// `SIOCOUTQNSD` (linux/sockios.h), for which libc has no name.
const SIOCOUTQNSD: libc::Ioctl = 0x894b;

/// How many bytes were written to a TCP socket and not sent for the first time yet; a FIN counts as one.
///
/// # Errors
/// The system's, such as for what is no TCP socket.
pub fn unsent(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the call writes one int, to where there is one.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) };
    if result == 0 { Ok(usize::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_the_peer_has_no_room_for_is_unsent() -> io::Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (_server, _) = listener.accept()?;
        client.write_all(b"x")?;
        assert_eq!(unsent(&client)?, 0);
        client.set_nonblocking(true)?;
        while client.write(&[7; 65_536]).is_ok() {}
        let before = unsent(&client)?;
        client.shutdown(Shutdown::Write)?;
        assert!(before > 0 && unsent(&client)? == before + 1);
        Ok(())
    }
}
