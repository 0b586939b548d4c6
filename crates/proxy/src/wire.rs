//! One end of a relayed connection: a socket's bytes as they are, or through TLS.

use std::io;
use std::task::{Context, Poll, ready};

use sidegate_tls::{Session, WireError};
use tokio::net::TcpStream;

use crate::socket;

/// One read of a plain socket. What a TLS record holds.
const READ: usize = 16 * 1024;

/// How bytes are read from and written to a socket.
pub(crate) enum Wire {
    /// As they are.
    Plain(Plain),
    /// Through TLS.
    Tls(Box<Session>),
}

/// Bytes that were read from a plain socket and not yet taken. An idle connection holds no buffer.
#[derive(Default)]
pub(crate) struct Plain {
    buffer: Vec<u8>,
    taken: usize,
}

impl Plain {
    /// A wire whose first bytes have already been read.
    pub(crate) fn starting_with(first: Vec<u8>) -> Self {
        Self { buffer: first, taken: 0 }
    }

    fn poll_fill(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<usize, WireError>> {
        while self.taken == self.buffer.len() {
            self.taken = 0;
            self.buffer.clear();
            if tcp.poll_read_ready(cx)?.is_pending() {
                self.buffer = Vec::new();
                return Poll::Pending;
            }
            self.buffer.reserve_exact(READ);
            match tcp.try_read_buf(&mut self.buffer) {
                Ok(0) => return Poll::Ready(Ok(0)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Poll::Ready(Ok(self.buffer.len() - self.taken))
    }
}

impl Wire {
    /// Waits for bytes; how many, or 0 at the end.
    pub(crate) fn poll_fill(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<usize, WireError>> {
        match self {
            Self::Plain(plain) => plain.poll_fill(tcp, cx),
            Self::Tls(session) => session.poll_fill(tcp, cx),
        }
    }

    /// The bytes that `poll_fill` promised.
    pub(crate) fn chunk(&mut self) -> &[u8] {
        match self {
            Self::Plain(plain) => &plain.buffer[plain.taken..],
            Self::Tls(session) => session.chunk(),
        }
    }

    /// Marks `amount` bytes of the chunk as taken.
    pub(crate) fn consume(&mut self, amount: usize) {
        match self {
            Self::Plain(plain) => plain.taken += amount,
            Self::Tls(session) => session.consume(amount),
        }
    }

    /// Writes some of `data`.
    pub(crate) fn poll_write(&mut self, tcp: &TcpStream, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        if let Self::Tls(session) = self {
            return session.poll_write(tcp, cx, data);
        }
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            match tcp.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written.map_err(WireError::from)),
            }
        }
    }

    /// Sends what is encrypted and waiting.
    pub(crate) fn poll_flush(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(session) => session.poll_flush(tcp, cx),
        }
    }

    /// Half-closes.
    pub(crate) fn poll_shutdown(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        match self {
            Self::Plain(_) => Poll::Ready(socket::shutdown_write(tcp).map_err(WireError::from)),
            Self::Tls(session) => session.poll_shutdown(tcp, cx),
        }
    }
}
