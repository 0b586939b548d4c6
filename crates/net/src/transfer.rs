//! Reading from and writing to a socket by the fewest system calls.
//!
//! tokio learns that a socket is drained by a call that finds nothing. When less was read than there was room for, or less
//! was written than there was, that is known without asking again: the kernel will tell of whatever comes next.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads what has come: 0 at the end, none if nothing has.
///
/// # Errors
/// The socket's.
pub fn read(tcp: &TcpStream, rooms: &mut [IoSliceMut<'_>]) -> io::Result<Option<usize>> {
    let room = rooms.iter().map(|room| room.len()).sum();
    once(tcp, Interest::READABLE, room, |mut socket| match rooms {
        [one] => socket.read(one),
        many => socket.read_vectored(many),
    })
}

/// Writes what the socket takes; none if that is nothing.
///
/// # Errors
/// The socket's.
pub fn write(tcp: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
    let length = parts.iter().map(|part| part.len()).sum();
    once(tcp, Interest::WRITABLE, length, |mut socket| match parts {
        [one] => socket.write(one),
        many => socket.write_vectored(many),
    })
}

/// Moves what fits from `bytes` into the rooms, as [`read`] does from a socket.
pub fn fill(rooms: &mut [IoSliceMut<'_>], bytes: &mut &[u8]) -> Option<usize> {
    let mut filled = 0;
    for room in rooms {
        let (now, later) = bytes.split_at(room.len().min(bytes.len()));
        room[..now.len()].copy_from_slice(now);
        filled += now.len();
        *bytes = later;
    }
    Some(filled)
}

fn once(
    tcp: &TcpStream,
    interest: Interest,
    wanted: usize,
    call: impl FnOnce(&socket2::Socket) -> io::Result<usize>,
) -> io::Result<Option<usize>> {
    let mut moved = None;
    let result = tcp.try_io(interest, || {
        let length = call(&SockRef::from(tcp))?;
        moved = Some(length);
        // At the end of the stream there is nothing to wait for.
        if length == wanted || length == 0 { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(moved),
    }
}
