//! Inwards: records are opened where the socket wrote them, and what they hold is written on from there.

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::task::{Context, Poll};

use rustls::{AlertDescription, Error, HandshakeType};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{Filled, Kernel, Session, broken, ended_by};
use crate::failure::WireError;
use crate::record::{Content, HEADER, Opener, PLAINTEXT, Refused};
use sidegate_net::fairness::give_way;
use sidegate_net::transfer;
use sidegate_net::{Buffer, Size};

/// Key updates that a peer may ask for without sending data in between.
const MOST_UPDATES: u8 = 32;
/// A server's NewSessionTicket at most: a ticket has our chain in it, and ours are shorter by far. A longer one is no use to keep, and a
/// part of one is kept until the rest comes.
pub(crate) const LONGEST_TICKET: usize = 16 * 1024;
/// Reads in one go that bring nothing to pass on; then others get their turn.
const FRUITLESS: usize = 16;
/// Records and messages without data between them: who sends more only wants to keep us busy.
const MOST_FRUITLESS: u16 = 1024;
/// Shorter pieces of plaintext are moved together: that costs less than another part of a write.
const SHORT: u32 = 2048;
/// Parts of one write.
const PARTS: usize = 16;

impl Session {
    /// Waits until there is plaintext to take, or the peer has half-closed.
    ///
    /// # Errors
    /// How the session failed. An end of TCP without close_notify is [`WireError::Truncated`].
    pub fn poll_fill(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<Filled, WireError>> {
        for _ in 0..FRUITLESS {
            match self.opened() {
                Ok(Some(filled)) => return Poll::Ready(Ok(filled)),
                Ok(None) => {}
                Err(error) => {
                    // Tell the peer, as far as the socket takes it.
                    let _ = self.poll_flush(tcp, cx);
                    return Poll::Ready(Err(error));
                }
            }
            if tcp.poll_read_ready(cx)?.is_pending() {
                self.shrink();
                return Poll::Pending;
            }
            let result = self.read(|rooms| transfer::read(tcp, rooms));
            if let Some(0) = result? {
                return Poll::Ready(Err(WireError::Truncated));
            }
        }
        give_way(cx);
        Poll::Pending
    }

    /// As [`Session::poll_fill`], but looks only at what has come.
    ///
    /// # Errors
    /// How the session failed; also if records come faster than they are opened and hold nothing.
    pub fn try_fill(&mut self, tcp: &TcpStream) -> Result<Option<Filled>, WireError> {
        for _ in 0..FRUITLESS {
            if let Some(filled) = self.opened()? {
                return Ok(Some(filled));
            }
            match self.read(|rooms| transfer::read(tcp, rooms))? {
                None => {
                    self.shrink();
                    return Ok(None);
                }
                Some(0) => return Err(WireError::Truncated),
                Some(_) => {}
            }
        }
        Err(self.refuse((AlertDescription::UnexpectedMessage, "records without end that hold nothing")))
    }

    /// The bytes of the buffer, and which of them are plaintext that has not been taken, in order.
    pub fn plaintext(&mut self) -> Option<(&mut [u8], &mut Vec<Range<u32>>)> {
        self.inward.as_mut().map(|buffer| buffer.parts())
    }

    /// How many pieces of plaintext have not been taken.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.inward.as_ref().map_or(0, |buffer| buffer.pieces())
    }

    /// Writes plaintext, of the first `count` pieces at most, to the socket; how much it took.
    ///
    /// # Errors
    /// The socket's.
    pub fn write_plaintext(&mut self, tcp: &TcpStream, count: usize) -> io::Result<Option<usize>> {
        let Some(buffer) = &mut self.inward else { return Ok(Some(0)) };
        let (bytes, chunks) = buffer.parts();
        let empty: &[u8] = &[];
        let mut parts = [IoSlice::new(empty); PARTS];
        let count = count.min(chunks.len()).min(PARTS);
        for (part, chunk) in parts.iter_mut().zip(&chunks[..count]) {
            *part = IoSlice::new(&bytes[chunk.start as usize..chunk.end as usize]);
        }
        let written = transfer::write(tcp, &parts[..count])?;
        if let Some(written) = written {
            self.take(written);
        }
        Ok(written)
    }

    /// Marks the first `amount` bytes of plaintext as taken.
    pub fn take(&mut self, amount: usize) {
        let Some(buffer) = &mut self.inward else { return };
        let (_, chunks) = buffer.parts();
        let mut left = u32::try_from(amount).unwrap_or(u32::MAX);
        let mut done = 0;
        for chunk in chunks.iter_mut() {
            let length = chunk.end - chunk.start;
            if left < length {
                chunk.start += left;
                break;
            }
            left -= length;
            done += 1;
        }
        chunks.drain(..done);
    }

    /// What a peer whose socket has failed said last: the alert that tells why, or what `look` finds in the plaintext.
    ///
    /// A TLS 1.3 server verifies its client after the client has finished the handshake, and what the client sends meanwhile
    /// is answered with a reset. The alert came before that, and the kernel still has it.
    pub fn last_words<E: From<WireError>>(
        &mut self,
        tcp: &TcpStream,
        mut look: impl FnMut(&mut [u8], &mut Vec<Range<u32>>) -> Option<E>,
    ) -> Option<E> {
        // A bound: nobody delivers the plaintext that may come before.
        for _ in 0..64 {
            match self.opened() {
                Err(error) => return Some(error.into()),
                Ok(Some(Filled::End)) => return None,
                Ok(_) => {}
            }
            if let Some((bytes, chunks)) = self.plaintext()
                && !chunks.is_empty()
            {
                if let Some(found) = look(bytes, chunks) {
                    return Some(found);
                }
                chunks.clear();
                continue;
            }
            // Past the runtime's readiness, which may not have heard of the reset yet.
            let socket = SockRef::from(tcp);
            let read = self.read(|rooms| io::Read::read_vectored(&mut &*socket, rooms).map(Some));
            if !matches!(read, Ok(Some(1..))) {
                return None;
            }
        }
        None
    }

    /// What there is once everything that has come is opened; none if more has to come.
    fn opened(&mut self) -> Result<Option<Filled>, WireError> {
        loop {
            if self.inward.as_mut().is_some_and(|buffer| !buffer.parts().1.is_empty()) {
                return Ok(Some(Filled::Data));
            }
            if let Some(error) = self.failed.take() {
                return Err(*error);
            }
            if self.ended {
                // What comes behind the end counts for nothing (RFC 8446 §6.1).
                self.inward = None;
                self.sealed = 0..0;
                return Ok(Some(Filled::End));
            }
            match self.open_all() {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // What was good before it goes first.
                Err(error) => self.failed = Some(Box::new(error)),
            }
        }
    }

    /// Opens every whole record; how many.
    fn open_all(&mut self) -> Result<usize, WireError> {
        let mut opened = 0;
        while !self.ended {
            let Some(buffer) = &mut self.inward else { break };
            let (bytes, chunks) = buffer.parts();
            let rest = &mut bytes[self.sealed.clone()];
            let length = match Opener::complete(rest) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                Err(refused) => return Err(self.refuse(refused)),
            };
            let start = self.sealed.start + HEADER;
            let result = self.opener.open(&mut rest[..length]);
            self.sealed.start += length;
            opened += 1;
            match result {
                Err(refused) => return Err(self.refuse(refused)),
                Ok((Content::Data, length)) if self.message.is_empty() && length > 0 => {
                    (self.updates, self.fruitless) = (0, 0);
                    add_chunk(bytes, chunks, start, length);
                }
                Ok((Content::Data, _)) if self.message.is_empty() => self.bear_with()?,
                Ok((Content::Data, _)) => return Err(self.refuse((AlertDescription::UnexpectedMessage, "data in the middle of a message"))),
                Ok((Content::Alert, length)) => {
                    let text = bytes[start..start + length].first_chunk().filter(|_| length == 2).copied();
                    self.alert(length, text)?;
                }
                Ok((Content::Handshake, 0)) => {
                    return Err(self.refuse((AlertDescription::UnexpectedMessage, "an empty part of a handshake message")));
                }
                Ok((Content::Handshake, length)) => {
                    self.message.extend_from_slice(&bytes[start..start + length]);
                    self.messages()?;
                }
            }
        }
        Ok(opened)
    }

    /// RFC 8446 §6: every alert but these two is the end. An alert is one record (§5.1), and stands in no message's middle.
    fn alert(&mut self, length: usize, text: Option<[u8; 2]>) -> Result<(), WireError> {
        let Some([_, description]) = text else {
            let alert = if length == 0 { AlertDescription::UnexpectedMessage } else { AlertDescription::DecodeError };
            return Err(self.refuse((alert, "an alert has the wrong length")));
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify | AlertDescription::UserCanceled if !self.message.is_empty() => {
                Err(self.refuse((AlertDescription::UnexpectedMessage, "an alert in the middle of a message")))
            }
            AlertDescription::CloseNotify => {
                self.ended = true;
                Ok(())
            }
            AlertDescription::UserCanceled => self.bear_with(),
            description => Err(ended_by(description)),
        }
    }

    /// Handles the handshake messages that have come whole: tickets and key updates (RFC 8446 §4.6). What is none, or too long for
    /// what it is, is refused by its header.
    fn messages(&mut self) -> Result<(), WireError> {
        while let Some((head, rest)) = self.message.split_first_chunk::<4>() {
            let length = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
            let kind = HandshakeType::from(head[0]);
            let fits = match (kind, &self.kernel) {
                (HandshakeType::NewSessionTicket, Kernel::Client(_)) => length <= LONGEST_TICKET,
                (HandshakeType::KeyUpdate, _) => length == 1,
                _ => return Err(self.refuse((AlertDescription::UnexpectedMessage, "a handshake message that nobody asked for"))),
            };
            if !fits {
                return Err(self.refuse((AlertDescription::DecodeError, "a handshake message has the wrong length")));
            }
            if rest.len() < length {
                return Ok(());
            }
            let alone = rest.len() == length;
            let message: Vec<u8> = self.message.drain(..4 + length).skip(4).collect();
            self.bear_with()?;
            if kind == HandshakeType::KeyUpdate {
                self.key_update(&message, alone)?;
            } else if let Kernel::Client(client) = &mut self.kernel
                && let Err(error) = client.handle_new_session_ticket(&message)
            {
                return Err(self.refuse_with(AlertDescription::DecodeError, &error));
            }
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(())
    }

    fn key_update(&mut self, message: &[u8], alone: bool) -> Result<(), WireError> {
        self.updates += 1;
        if !alone || self.updates > MOST_UPDATES {
            return Err(self.refuse((AlertDescription::UnexpectedMessage, "a key update in the wrong place, or one too many")));
        }
        let asked = match message {
            [0] => false,
            [1] => true,
            _ => return Err(self.refuse((AlertDescription::IllegalParameter, "a key update that can't be read"))),
        };
        let replaced = self.kernel.next_secret(false).and_then(|secret| self.opener.replace(&secret));
        replaced.map_err(|error| broken(&error))?;
        // One answer is enough for all that ask before it goes out (RFC 8446 §4.6.3).
        self.owes_key |= asked;
        Ok(())
    }

    /// Counts what brings no data.
    fn bear_with(&mut self) -> Result<(), WireError> {
        self.fruitless += 1;
        if self.fruitless > MOST_FRUITLESS {
            return Err(self.refuse((AlertDescription::UnexpectedMessage, "too many records that hold nothing")));
        }
        Ok(())
    }

    /// Tells the peer, as far as that is possible, and says why.
    pub(super) fn refuse(&mut self, (alert, why): Refused) -> WireError {
        self.refuse_with(alert, &Error::General(why.to_owned()))
    }

    fn refuse_with(&mut self, alert: AlertDescription, error: &Error) -> WireError {
        const FATAL: u8 = 2;
        let _ = self.sealer.append(&mut self.tail, &[FATAL, alert.into()], Content::Alert);
        self.closing = true;
        broken(error)
    }

    /// Nothing comes for now: a buffer is held only for the beginning of a record, and then a small one.
    fn shrink(&mut self) {
        if self.sealed.is_empty() {
            self.inward = None;
        } else if let Some(large) = self.inward.as_mut().filter(|buffer| buffer.size() == Size::Large)
            && self.sealed.len() < Size::Small.bytes()
        {
            let mut small = Buffer::take(Size::Small);
            small.bytes()[..self.sealed.len()].copy_from_slice(&large.bytes()[self.sealed.clone()]);
            self.sealed = 0..self.sealed.len();
            self.inward = Some(Box::new(small));
            self.in_size = Size::Small;
        }
    }

    /// Reads behind the sealed bytes that are there.
    fn read(&mut self, read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<Option<usize>>) -> io::Result<Option<usize>> {
        let size = if self.sealed.is_empty() {
            self.in_size
        } else {
            self.in_size.max(self.inward.as_ref().map_or(Size::Small, |buffer| buffer.size()))
        };
        match &mut self.inward {
            Some(buffer) if buffer.size() == size => {
                // No plaintext is left, so the beginning is free.
                buffer.bytes().copy_within(self.sealed.clone(), 0);
            }
            old => {
                let mut buffer = Buffer::take(size);
                if let Some(old) = old {
                    buffer.bytes()[..self.sealed.len()].copy_from_slice(&old.bytes()[self.sealed.clone()]);
                }
                *old = Some(Box::new(buffer));
            }
        }
        self.sealed = 0..self.sealed.len();
        let Some(buffer) = &mut self.inward else { return Ok(None) };
        let room = &mut buffer.bytes()[self.sealed.end..];
        let length = room.len();
        let read = read(&mut [IoSliceMut::new(room)])?;
        if let Some(read) = read {
            self.sealed.end += read;
            if read == length {
                self.in_size = Size::generous();
            } else if read < PLAINTEXT {
                self.in_size = Size::Small;
            }
        }
        Ok(read)
    }
}

/// Appends a piece of plaintext, close to the one before if it is short.
fn add_chunk(bytes: &mut [u8], chunks: &mut Vec<Range<u32>>, start: usize, length: usize) {
    let chunk = range32(start, start + length);
    match chunks.last_mut() {
        Some(last) if length as u32 <= SHORT => {
            bytes.copy_within(start..start + length, last.end as usize);
            last.end += length as u32;
        }
        _ => chunks.push(chunk),
    }
}

/// A range of a buffer, whose length fits by far.
fn range32(start: usize, end: usize) -> Range<u32> {
    start as u32..end as u32
}
