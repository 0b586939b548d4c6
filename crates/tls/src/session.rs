//! An established TLS session: records in, records out, each sealed and opened where it lies.
//!
//! The session owns no socket, so that a relay can watch both of its sockets while it moves bytes.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error, ExtractedSecrets, HandshakeType};
use sidegate_core::{HandshakeFacts, Lap, Reason};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::buffer::{Buffer, RECORDS, Size};
use crate::failure::{WireError, tls_reason};
use crate::pace::give_way;
use crate::record::{Content, HEADER, Opener, PLAINTEXT, Refused, SEALED, Sealer};
use crate::socket;
use crate::verify::PeerIdentity;

/// Key updates that a peer may ask for without sending data in between.
const MOST_UPDATES: u8 = 32;
/// A handshake message after the handshake, such as a ticket, at most.
const LONGEST_MESSAGE: usize = 0xffff;
/// Reads in one go that bring nothing to pass on; then others get their turn.
const FRUITLESS: usize = 16;
/// Records and messages in one read that bring no data: who sends more only wants to keep us busy.
const MOST_FRUITLESS: u8 = 64;
/// Shorter pieces of plaintext are moved together: that costs less than another part of a write.
const SHORT: u32 = 2048;
/// Parts of one write.
const PARTS: usize = 16;

/// What rustls still does for an established session.
pub(crate) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Kernel {
    fn next_secret(&mut self, ours: bool) -> Result<ConnectionTrafficSecrets, Error> {
        let secret = match (self, ours) {
            (Self::Client(client), true) => client.update_tx_secret(),
            (Self::Client(client), false) => client.update_rx_secret(),
            (Self::Server(server), true) => server.update_tx_secret(),
            (Self::Server(server), false) => server.update_rx_secret(),
        };
        secret.map(|(_, secret)| secret)
    }

    fn key_limit(&self) -> u64 {
        let suite = match self {
            Self::Client(client) => client.negotiated_cipher_suite(),
            Self::Server(server) => server.negotiated_cipher_suite(),
        };
        suite.tls13().map_or(1 << 20, |suite| suite.common.confidentiality_limit)
    }
}

/// What a session's end of the handshake leaves for it.
#[derive(Default)]
pub(crate) struct Remains {
    /// Records that have been made and not sent.
    pub(crate) out: Vec<u8>,
    /// What came behind the handshake.
    pub(crate) sealed: Vec<u8>,
}

/// What there is to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// Plaintext.
    Data,
    /// The peer has half-closed.
    End,
}

/// What lies in front of the payload of each record that is sealed, by the payload's length.
pub type Prefix = fn(usize) -> [u8; 4];

/// A session after its handshake.
pub struct Session {
    /// Who the peer is.
    pub peer: PeerIdentity,
    /// What the handshake found.
    pub facts: HandshakeFacts,
    /// When the peer's chain was verified and how long that took.
    pub verify: Lap,
    kernel: Kernel,
    // Outwards: first the head, then what lies in the buffer, then the tail.
    sealer: Sealer,
    head: Vec<u8>,
    out: Option<Buffer>,
    unsent: Range<usize>,
    tail: Vec<u8>,
    out_size: Size,
    /// The peer has asked for a new key of ours.
    owes_key: bool,
    closing: bool,
    // Inwards: sealed bytes of the buffer that have not been opened, behind the plaintext that has not been taken.
    opener: Opener,
    inward: Option<Buffer>,
    sealed: Range<usize>,
    in_size: Size,
    ended: bool,
    failed: Option<Box<WireError>>,
    message: Vec<u8>,
    updates: u8,
    /// Records and messages of the last read that brought no data.
    fruitless: u8,
}

impl Session {
    pub(crate) fn new(
        (secrets, kernel): (ExtractedSecrets, Kernel),
        peer: PeerIdentity,
        facts: HandshakeFacts,
        verify: Lap,
        remains: Remains,
    ) -> Result<Self, Error> {
        let mut inward = None;
        let behind = remains.sealed.len();
        if behind > 0 {
            let mut buffer = Buffer::take(if behind > Size::Small.bytes() { Size::Large } else { Size::Small });
            let Some(room) = buffer.bytes().get_mut(..behind) else {
                return Err(Error::General("too much came with the handshake".to_owned()));
            };
            room.copy_from_slice(&remains.sealed);
            inward = Some(buffer);
        }
        Ok(Self {
            peer,
            facts,
            verify,
            sealer: Sealer::new(secrets.tx.0, &secrets.tx.1, kernel.key_limit())?,
            opener: Opener::new(secrets.rx.0, &secrets.rx.1)?,
            kernel,
            head: Vec::new(),
            out: None,
            unsent: 0..0,
            tail: remains.out,
            out_size: Size::Small,
            owes_key: false,
            closing: false,
            inward,
            sealed: 0..behind,
            in_size: Size::Small,
            ended: false,
            failed: None,
            message: Vec::new(),
            updates: 0,
            fruitless: 0,
        })
    }

    // --- inwards ---

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
            let result = self.read(|rooms| socket::read(tcp, rooms));
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
            match self.read(|rooms| socket::read(tcp, rooms))? {
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
        self.inward.as_mut().map(Buffer::parts)
    }

    /// How many pieces of plaintext have not been taken.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.inward.as_ref().map_or(0, Buffer::pieces)
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
        let written = socket::write(tcp, &parts[..count])?;
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
    /// A TLS 1.3 server judges its client after the client has finished the handshake, and what the client sends meanwhile
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
                    self.updates = 0;
                    add_chunk(bytes, chunks, start, length);
                }
                Ok((Content::Data, _)) if self.message.is_empty() => self.bear_with()?,
                Ok((Content::Data, _)) => return Err(self.refuse((AlertDescription::UnexpectedMessage, "data in the middle of a message"))),
                Ok((Content::Alert, length)) => {
                    let text = [bytes.get(start).copied().unwrap_or(0), bytes.get(start + 1).copied().unwrap_or(0)];
                    self.alert(if length == 2 { Some(text[1]) } else { None })?;
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

    /// RFC 8446 §6: every alert but these two is the end.
    fn alert(&mut self, description: Option<u8>) -> Result<(), WireError> {
        let Some(description) = description else {
            return Err(self.refuse((AlertDescription::DecodeError, "an alert has the wrong length")));
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => self.ended = true,
            AlertDescription::UserCanceled => self.bear_with()?,
            description => return Err(broken(&Error::AlertReceived(description))),
        }
        Ok(())
    }

    /// Handles the handshake messages that have come whole: tickets and key updates (RFC 8446 §4.6).
    fn messages(&mut self) -> Result<(), WireError> {
        while let Some((head, rest)) = self.message.split_first_chunk::<4>() {
            let length = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
            if length > LONGEST_MESSAGE {
                return Err(self.refuse((AlertDescription::DecodeError, "a handshake message is too long")));
            }
            if rest.len() < length {
                return Ok(());
            }
            let kind = HandshakeType::from(head[0]);
            let alone = rest.len() == length;
            let message: Vec<u8> = self.message.drain(..4 + length).skip(4).collect();
            self.bear_with()?;
            match (kind, &mut self.kernel) {
                (HandshakeType::NewSessionTicket, Kernel::Client(client)) => {
                    if let Err(error) = client.handle_new_session_ticket(&message) {
                        return Err(self.refuse_with(AlertDescription::DecodeError, &error));
                    }
                }
                (HandshakeType::KeyUpdate, _) => self.key_update(&message, alone)?,
                _ => return Err(self.refuse((AlertDescription::UnexpectedMessage, "a handshake message that nobody asked for"))),
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
    fn refuse(&mut self, (alert, why): Refused) -> WireError {
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
            self.inward = Some(small);
            self.in_size = Size::Small;
        }
    }

    /// Reads behind the sealed bytes that are there.
    fn read(&mut self, read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<Option<usize>>) -> io::Result<Option<usize>> {
        let size =
            if self.sealed.is_empty() { self.in_size } else { self.in_size.max(self.inward.as_ref().map_or(Size::Small, Buffer::size)) };
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
                *old = Some(buffer);
            }
        }
        self.sealed = 0..self.sealed.len();
        let Some(buffer) = &mut self.inward else { return Ok(None) };
        let room = &mut buffer.bytes()[self.sealed.end..];
        let length = room.len();
        let read = read(&mut [IoSliceMut::new(room)])?;
        if let Some(read) = read {
            self.fruitless = 0;
            self.sealed.end += read;
            if read == length {
                self.in_size = Size::Large;
            } else if read < PLAINTEXT {
                self.in_size = Size::Small;
            }
        }
        Ok(read)
    }

    // --- outwards ---

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
                    [[], one, []] | [one, [], []] | [[], [], one] => socket::write(tcp, &[IoSlice::new(one)])?,
                    all => socket::write(tcp, &all.map(IoSlice::new))?,
                };
                match written {
                    None => {}
                    Some(0) => return Poll::Ready(Err(WireError::Reset)),
                    Some(written) => self.sent(written),
                }
            }
            let worn = self.sealer.left() <= RECORDS as u64;
            if self.closing || !(worn || self.owes_key) {
                return Poll::Ready(Ok(()));
            }
            self.owes_key = false;
            self.replace_key()?;
        }
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
        let size = self.out_size;
        let buffer = match &mut self.out {
            Some(buffer) if buffer.size() == size => buffer,
            out => out.insert(Buffer::take(size)),
        };
        let bytes = buffer.bytes();
        let front = HEADER + prefix.map_or(0, |_| 4);
        let whole = HEADER + PLAINTEXT - front;
        let mut records = bytes.chunks_exact_mut(SEALED);
        let mut rooms: [IoSliceMut<'_>; RECORDS] =
            std::array::from_fn(|_| IoSliceMut::new(records.next().map_or(&mut [], |record| &mut record[front..HEADER + PLAINTEXT])));
        let count = if size == Size::Large { RECORDS } else { 1 };
        let read = match read(&mut rooms[..count]) {
            Ok(Some(read @ 1..)) => read,
            other => {
                self.out = None;
                return other.map_err(SealError::Read);
            }
        };
        self.out_size = if read == whole * count || (size == Size::Large && read > PLAINTEXT) { Size::Large } else { Size::Small };
        let (mut left, mut sealed) = (read, 0);
        for record in bytes.chunks_exact_mut(SEALED) {
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
        let _ = self.poll_flush(tcp, &mut Context::from_waker(std::task::Waker::noop()));
    }

    /// Tells the peer of a new key, and uses it from now on.
    fn replace_key(&mut self) -> Result<(), WireError> {
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

/// What an error of an established session means; that the peer speaks TLS is settled.
fn broken(error: &Error) -> WireError {
    let reason = match tls_reason(error) {
        Reason::NotTls => Reason::TlsProtocolError,
        reason => reason,
    };
    WireError::Tls(reason, error.to_string())
}
