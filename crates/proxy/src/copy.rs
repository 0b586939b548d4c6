//! Bytes that are passed on as they came.

use std::task::{Context, Poll};

use tokio::net::TcpStream;

/// One read.
const READ: usize = 16 * 1024;

/// Bytes that were read and not yet taken. An idle connection holds no buffer.
#[derive(Default)]
pub(crate) struct Copier {
    buffer: Vec<u8>,
    taken: usize,
}

impl Copier {
    /// Begins with bytes that have already been read.
    pub(crate) fn starting_with(first: Vec<u8>) -> Self {
        Self { buffer: first, taken: 0 }
    }

    /// Waits for bytes; whether there are any, or the end has come.
    pub(crate) fn poll_fill(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        while self.taken == self.buffer.len() {
            self.taken = 0;
            self.buffer.clear();
            if tcp.poll_read_ready(cx)?.is_pending() {
                self.buffer = Vec::new();
                return Poll::Pending;
            }
            self.buffer.reserve_exact(READ);
            match tcp.try_read_buf(&mut self.buffer) {
                Ok(0) => return Poll::Ready(Ok(false)),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(true))
    }

    /// The bytes that were promised.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    /// Marks `amount` of them as taken.
    pub(crate) fn take(&mut self, amount: usize) {
        self.taken += amount;
    }
}
