//! Outwards: what is read is sealed where it lies, and sent at once.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::task::{Context, Poll, Waker, ready};

use rustls::AlertDescription;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{Prefix, Session, broken};
use crate::failure::WireError;
use crate::record::{Content, HEADER, PLAINTEXT, SEALED};
use sidegate_net::budget;
use sidegate_net::transfer;
use sidegate_net::{Buffer, RECORDS, Size};

impl Session {
    /// Sends what is sealed and waiting.
    ///
    /// # Errors
    /// How the session failed.
    pub fn poll_flush(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        loop {
            while self.has_unsent() {
                ready!(tcp.poll_write_ready(cx))?;
                let middle = self.out.as_mut().map_or(&[][..], |buffer| &buffer.bytes()[self.unsent.clone()]);
                let parts = [&self.head[..], middle, &self.tail];
                let written = match parts {
                    [[], one, []] | [one, [], []] | [[], [], one] => transfer::write(tcp, &[IoSlice::new(one)])?,
                    all => transfer::write(tcp, &all.map(IoSlice::new))?,
                };
                match written {
                    None => {}
                    Some(0) => return Poll::Ready(Err(WireError::Reset)),
                    Some(written) => self.sent(written),
                }
            }
            // A key that has done its work is replaced as if the peer had asked.
            self.owes_key |= self.sealer.left() <= RECORDS as u64;
            if self.closing || !self.owes_key {
                return Poll::Ready(Ok(()));
            }
            self.pay_key()?;
        }
    }

    /// As [`Session::poll_flush`], as far as the socket takes it now.
    ///
    /// # Errors
    /// How the session failed.
    pub fn try_flush(&mut self, tcp: &TcpStream) -> Result<(), WireError> {
        match self.poll_flush(tcp, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Answers a key update before the next data (RFC 8446 §4.6.3).
    fn pay_key(&mut self) -> Result<(), WireError> {
        if self.owes_key && !self.closing {
            self.owes_key = false;
            self.replace_key()?;
        }
        Ok(())
    }

    fn sent(&mut self, mut written: usize) {
        let of_head = written.min(self.head.len());
        self.head.drain(..of_head);
        written -= of_head;
        let of_out = written.min(self.unsent.len());
        self.unsent.start += of_out;
        self.tail.drain(..written - of_out);
        // What is idle holds no memory.
        if self.head.is_empty() {
            self.head = Vec::new();
        }
        if self.unsent.is_empty() {
            self.out = None;
        }
        if self.tail.is_empty() {
            self.tail = Vec::new();
        }
    }

    /// Whether something is sealed and waiting.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.is_full() || !self.tail.is_empty()
    }

    /// Whether what waits has to be flushed before more data can be sealed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.unsent.is_empty() || !self.head.is_empty()
    }

    /// Seals what `read` puts into the rooms that it is given, each a record with `prefix` before it. Not to be called
    /// when [`Session::is_full`]. Hands on what `read` says.
    ///
    /// # Errors
    /// `read`'s as [`SealError::Read`], or the session's.
    pub fn seal_from(
        &mut self,
        prefix: Option<Prefix>,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<Option<usize>>,
    ) -> Result<Option<usize>, SealError> {
        self.pay_key().map_err(SealError::Session)?;
        // Where memory is tight, what a peer does not take is not to be much.
        let size = if budget::is_tight() { Size::Tiny } else { self.out_size };
        let buffer = match &mut self.out {
            Some(buffer) if buffer.size() == size => buffer,
            out => out.insert(Box::new(Buffer::take(size))),
        };
        let bytes = buffer.bytes();
        let front = HEADER + prefix.map_or(0, |_| 4);
        let sealed_length = SEALED.min(bytes.len());
        let plaintext = sealed_length - (SEALED - PLAINTEXT);
        let whole = HEADER + plaintext - front;
        let mut records = bytes.chunks_exact_mut(sealed_length);
        let mut rooms: [IoSliceMut<'_>; RECORDS] =
            std::array::from_fn(|_| IoSliceMut::new(records.next().map_or(&mut [], |record| &mut record[front..HEADER + plaintext])));
        let count = if size == Size::Large { RECORDS } else { 1 };
        let read = match read(&mut rooms[..count]) {
            Ok(Some(read @ 1..)) => read,
            other => {
                self.out = None;
                return other.map_err(SealError::Read);
            }
        };
        self.out_size = if read == whole * count || (size == Size::Large && read > PLAINTEXT) { Size::generous() } else { Size::Small };
        let (mut left, mut sealed) = (read, 0);
        for record in bytes.chunks_exact_mut(sealed_length) {
            let length = left.min(whole);
            if length == 0 {
                break;
            }
            if let Some(prefix) = prefix {
                record[HEADER..front].copy_from_slice(&prefix(length));
            }
            sealed += self.sealer.seal(record, front - HEADER + length, Content::Data).map_err(|e| SealError::Session(broken(&e)))?;
            left -= length;
        }
        self.unsent = 0..sealed;
        // What was sealed before goes before.
        self.head = std::mem::take(&mut self.tail);
        Ok(Some(read))
    }

    /// Seals `data` behind all that waits. Not for much.
    ///
    /// # Errors
    /// How the session failed.
    pub fn send(&mut self, data: &[u8]) -> Result<(), WireError> {
        self.pay_key()?;
        data.chunks(PLAINTEXT).try_for_each(|part| self.sealer.append(&mut self.tail, part, Content::Data)).map_err(|e| broken(&e))
    }

    /// Half-closes: close_notify, then FIN. What the peer still sends can be read.
    ///
    /// # Errors
    /// How the session failed.
    pub fn poll_shutdown(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        const WARNING: u8 = 1;
        if !self.closing {
            self.closing = true;
            let alert = [WARNING, AlertDescription::CloseNotify.into()];
            self.sealer.append(&mut self.tail, &alert, Content::Alert).map_err(|e| broken(&e))?;
        }
        ready!(self.poll_flush(tcp, cx))?;
        Poll::Ready(SockRef::from(tcp).shutdown(Shutdown::Write).map_err(WireError::from))
    }

    /// Tells the peer that it is refused (alert access_denied), as far as the socket takes it.
    pub fn reject(&mut self, tcp: &TcpStream) {
        let _ = self.refuse((AlertDescription::AccessDenied, "refused"));
        let _ = self.try_flush(tcp);
    }

    /// Tells the peer of a new key, and uses it from now on.
    pub(super) fn replace_key(&mut self) -> Result<(), WireError> {
        const UPDATE_NOT_REQUESTED: [u8; 5] = [24, 0, 0, 1, 0];
        let appended = self.sealer.append(&mut self.tail, &UPDATE_NOT_REQUESTED, Content::Handshake);
        let replaced = appended.and_then(|()| self.kernel.next_secret(true)).and_then(|secret| self.sealer.replace(&secret));
        replaced.map_err(|error| broken(&error))
    }
}

/// How sealing fails.
#[derive(Debug)]
pub enum SealError {
    /// Reading what was to be sealed.
    Read(io::Error),
    /// The session.
    Session(WireError),
}
