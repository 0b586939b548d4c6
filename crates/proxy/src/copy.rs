//! Bytes that are passed on as they came.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::task::{Context, Poll};

use sidegate_net::{Buffer, Size, transfer};
use tokio::net::TcpStream;

/// Bytes that were read and not yet taken. An idle connection holds no buffer.
#[derive(Default)]
pub(crate) struct Copier {
    /// What had been read before; it goes out first.
    first: Vec<u8>,
    taken: usize,
    buffer: Option<Buffer>,
    filled: Range<usize>,
    size: Size,
}

impl Copier {
    /// Begins with bytes that have already been read.
    pub(crate) fn starting_with(first: Vec<u8>) -> Self {
        Self { first, ..Self::default() }
    }

    /// Waits for bytes; whether there are any, or the end has come.
    pub(crate) fn poll_fill(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.rest().is_empty() {
            self.first = Vec::new();
            if tcp.poll_read_ready(cx)?.is_pending() {
                self.buffer = None;
                return Poll::Pending;
            }
            let buffer = match &mut self.buffer {
                Some(buffer) if buffer.size() == self.size => buffer,
                other => {
                    self.filled = 0..0;
                    other.insert(Buffer::take(self.size))
                }
            };
            let room = buffer.bytes();
            match transfer::read(tcp, &mut [IoSliceMut::new(room)])? {
                Some(0) => return Poll::Ready(Ok(false)),
                Some(read) => {
                    self.size = if read == room.len() || read > Size::Small.bytes() { Size::generous() } else { Size::Small };
                    self.filled = 0..read;
                }
                None => {}
            }
        }
        Poll::Ready(Ok(true))
    }

    /// The bytes that were promised.
    pub(crate) fn rest(&mut self) -> &[u8] {
        if self.taken < self.first.len() {
            return &self.first[self.taken..];
        }
        self.buffer.as_mut().map_or(&[], |buffer| &buffer.bytes()[self.filled.clone()])
    }

    /// Marks `amount` of them as taken.
    pub(crate) fn take(&mut self, amount: usize) {
        if self.taken < self.first.len() {
            self.taken += amount;
        } else {
            self.filled.start += amount;
        }
    }
}
