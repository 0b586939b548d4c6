//! An established TLS session: plaintext out, plaintext in, records on the socket.
//!
//! The session does not own its socket, so that a relay can watch both of its sockets while it moves bytes.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use sidegate_core::{HandshakeFacts, Lap, Reason};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::failure::{WireError, tls_reason};
use crate::verify::PeerIdentity;

/// A session after its handshake.
pub struct Session {
    pub(crate) connection: Connection,
    /// Who the peer is.
    pub peer: PeerIdentity,
    /// What the handshake found.
    pub facts: HandshakeFacts,
    /// When the peer's chain was verified and how long that took.
    pub verify: Lap,
    closing: bool,
}

impl Session {
    pub(crate) fn new(connection: Connection, peer: PeerIdentity, facts: HandshakeFacts, verify: Lap) -> Self {
        Self { connection, peer, facts, verify, closing: false }
    }

    /// Waits until there is plaintext to read; how much, or 0 after the peer's close_notify.
    ///
    /// # Errors
    /// How the session failed. An end of TCP without close_notify is [`WireError::Truncated`].
    pub fn poll_fill(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<usize, WireError>> {
        loop {
            match self.connection.reader().into_first_chunk() {
                Ok(chunk) => return Poll::Ready(Ok(chunk.len())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            ready!(tcp.poll_read_ready(cx))?;
            match self.connection.read_tls(&mut Socket(tcp)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            if let Err(error) = self.connection.process_new_packets() {
                // Tell the peer, as far as the socket takes it.
                let _ = self.connection.write_tls(&mut Socket(tcp));
                return Poll::Ready(Err(broken(&error)));
            }
        }
    }

    /// The plaintext that [`Session::poll_fill`] promised.
    pub fn chunk(&mut self) -> &[u8] {
        self.connection.reader().into_first_chunk().unwrap_or_default()
    }

    /// Marks `amount` bytes of [`Session::chunk`] as read.
    pub fn consume(&mut self, amount: usize) {
        io::BufRead::consume(&mut self.connection.reader(), amount);
    }

    /// Encrypts as much of `data` as may wait, and sends what the socket takes. Always more than 0 bytes.
    ///
    /// # Errors
    /// How the session failed.
    pub fn poll_write(&mut self, tcp: &TcpStream, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        loop {
            let taken = self.connection.writer().write(data)?;
            if taken > 0 {
                if let Poll::Ready(Err(error)) = self.poll_flush(tcp, cx) {
                    return Poll::Ready(Err(error));
                }
                return Poll::Ready(Ok(taken));
            }
            ready!(self.poll_flush(tcp, cx))?;
        }
    }

    /// Sends what is encrypted and waiting.
    ///
    /// # Errors
    /// How the session failed.
    pub fn poll_flush(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        while self.connection.wants_write() {
            ready!(tcp.poll_write_ready(cx))?;
            match self.connection.write_tls(&mut Socket(tcp)) {
                Ok(0) => return Poll::Ready(Err(WireError::Reset)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What a peer whose socket has failed said last: the alert that tells why, if one has arrived.
    ///
    /// A TLS 1.3 server judges its client after the client has finished the handshake, and what the client sends meanwhile
    /// is answered with a reset. The alert came before that, and the kernel still has it.
    pub fn last_words(&mut self, tcp: &TcpStream) -> Option<WireError> {
        // Past the runtime's readiness, which may not have heard of the reset yet.
        let socket = SockRef::from(tcp);
        // A bound: nobody delivers the plaintext that may come before.
        for _ in 0..64 {
            match self.connection.read_tls(&mut &*socket) {
                Ok(read) if read > 0 => {}
                _ => return None,
            }
            if let Err(error) = self.connection.process_new_packets() {
                return Some(broken(&error));
            }
            loop {
                match self.chunk().len() {
                    0 => break,
                    length => self.consume(length),
                }
            }
        }
        None
    }

    /// Half-closes: close_notify, then FIN. What the peer still sends can be read.
    ///
    /// # Errors
    /// How the session failed.
    pub fn poll_shutdown(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        if !self.closing {
            self.closing = true;
            self.connection.send_close_notify();
        }
        ready!(self.poll_flush(tcp, cx))?;
        Poll::Ready(SockRef::from(tcp).shutdown(Shutdown::Write).map_err(WireError::from))
    }
}

/// What an error of an established session means; that the peer speaks TLS is settled.
fn broken(error: &rustls::Error) -> WireError {
    let reason = match tls_reason(error) {
        Reason::NotTls => Reason::TlsProtocolError,
        reason => reason,
    };
    WireError::Tls(reason, error.to_string())
}

/// Lets rustls read and write a non-blocking socket.
pub(crate) struct Socket<'a>(pub(crate) &'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
