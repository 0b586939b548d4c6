//! The protected end of a relayed connection: a TLS session, alone or as a tunnel.

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll, ready};

use sidegate_core::{ConnectionRecord, DialAddr, ReachedAt, Reason};
use sidegate_tls::{Filled, SealError, Session, WireError};
use sidegate_tunnel::v1::Reset;
use sidegate_tunnel::{Control, Malformed, Opening, Tunnel, TunnelError, data};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use sidegate_net::socket;

/// The protected end.
pub(crate) struct PeerChannel {
    /// The TLS session with the peer.
    pub(crate) session: Session,
    /// None where the session is plain mutual TLS.
    pub(crate) tunnel: Option<Tunnel>,
    /// How it has failed, as long as data that came before is to be taken.
    failed: Option<Box<ChannelError>>,
}

/// How the protected end fails.
#[derive(Debug)]
pub(crate) enum ChannelError {
    Wire(WireError),
    /// The peer's sidecar does not speak the tunnel as it should.
    Malformed(Malformed),
    /// The peer's sidecar refuses the connection, for this reason of its record.
    Refused(String),
    /// The peer's sidecar has ended the connection, for this reason of its record.
    Aborted(String),
    /// Nothing was opened at the peer's side.
    NotOpened,
}

impl From<WireError> for ChannelError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        Self::Wire(error.into())
    }
}

impl From<Malformed> for ChannelError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<TunnelError> for ChannelError {
    fn from(error: TunnelError) -> Self {
        match error {
            TunnelError::Malformed(malformed) => Self::Malformed(malformed),
            TunnelError::Refused(reason) => Self::Refused(reason),
            TunnelError::Aborted(reason) => Self::Aborted(reason),
            TunnelError::NotOpened => Self::NotOpened,
        }
    }
}

impl PeerChannel {
    /// A session as it is.
    pub(crate) fn plain(session: Session) -> Self {
        Self { session, tunnel: None, failed: None }
    }

    /// Begins a connection in the tunnel as its client: OPEN goes out with what is sent next. `kept` says whether what the
    /// application sends is kept for another try.
    pub(crate) fn open(&mut self, record: &ConnectionRecord, kept: bool) -> Result<(), ChannelError> {
        let Some(tunnel) = &mut self.tunnel else { return Ok(()) };
        self.session.send(&tunnel.open(record, kept).encode()).map_err(ChannelError::from)
    }

    /// Says that the session to `to` is made in advance, and makes it one that waits.
    pub(crate) async fn warm(&mut self, to: DialAddr, renewal: u64, tcp: &TcpStream) -> Result<(), ChannelError> {
        self.tunnel = Some(Tunnel::waiting(ReachedAt::direct(to), renewal));
        self.session.send(&Control::Warm.encode())?;
        std::future::poll_fn(|cx| self.session.poll_flush(tcp, cx)).await.map_err(ChannelError::from)
    }

    /// Waits for application data, or their end.
    pub(crate) fn poll_fill(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<Filled, ChannelError>> {
        loop {
            let Some(tunnel) = &mut self.tunnel else {
                return self.session.poll_fill(tcp, cx).map_err(ChannelError::from);
            };
            if tunnel.data > 0 {
                return Poll::Ready(Ok(Filled::Data));
            }
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Err(*error));
            }
            if tunnel.peer_ended {
                return Poll::Ready(Ok(Filled::End));
            }
            match ready!(self.session.poll_fill(tcp, cx))? {
                // The session ends, but the connection in it has not.
                Filled::End => return Poll::Ready(Err(WireError::Truncated.into())),
                Filled::Data => {
                    if let Err(error) = tunnel.receive(self.session.plaintext()) {
                        self.failed = Some(Box::new(error.into()));
                    }
                }
            }
        }
    }

    /// Writes application data to the socket; how much it took.
    pub(crate) fn write_plaintext(&mut self, tcp: &TcpStream) -> io::Result<Option<usize>> {
        let Some(tunnel) = &mut self.tunnel else { return self.session.write_plaintext(tcp, usize::MAX) };
        let before = self.session.pieces();
        let written = self.session.write_plaintext(tcp, tunnel.data)?;
        tunnel.data -= before - self.session.pieces();
        Ok(written)
    }

    /// Copies application data that has come, as much as there is room for.
    pub(crate) fn read_plaintext(&mut self, into: &mut ReadBuf<'_>) {
        let most = self.tunnel.as_ref().map_or(usize::MAX, |tunnel| tunnel.data);
        let before = self.session.pieces();
        let Some((bytes, pieces)) = self.session.plaintext() else { return };
        let room = into.remaining();
        for piece in pieces.iter().take(most) {
            let piece = &bytes[piece.start as usize..piece.end as usize];
            into.put_slice(&piece[..piece.len().min(into.remaining())]);
        }
        self.session.take(room - into.remaining());
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.data -= before - self.session.pieces();
        }
    }

    /// Seals what `read` finds. Not while the session is full.
    pub(crate) fn seal_from(
        &mut self,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<Option<usize>>,
    ) -> Result<Option<usize>, SealError> {
        let Some(tunnel) = &mut self.tunnel else { return self.session.seal_from(None, read) };
        let Some(Opening { kept: Some(kept) }) = &mut tunnel.opening else { return self.session.seal_from(Some(data), read) };
        let free = Opening::KEPT.saturating_sub(kept.len());
        self.session.seal_from(Some(data), |rooms| {
            let Some(room) = rooms.first_mut() else { return Ok(None) };
            let free = free.min(room.len());
            let room = &mut room[..free];
            let read = read(&mut [IoSliceMut::new(room)])?;
            kept.extend_from_slice(&room[..read.unwrap_or(0)]);
            Ok(read)
        })
    }

    /// Whether the peer's sidecar has not answered yet.
    pub(crate) fn is_opening(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.opening.is_some())
    }

    /// What the application has sent, if the peer's sidecar has not answered and that was kept.
    pub(crate) fn take_kept(&mut self) -> Option<Vec<u8>> {
        self.tunnel.as_mut()?.opening.take()?.kept
    }

    /// Whether no more may be sealed before the peer's sidecar has answered: what was sent is kept for another try.
    pub(crate) fn is_held(&self) -> bool {
        let opening = self.tunnel.as_ref().and_then(|tunnel| tunnel.opening.as_ref());
        opening.is_some_and(|opening| opening.kept.as_ref().is_some_and(|kept| kept.len() >= Opening::KEPT))
    }

    /// Ends our direction.
    pub(crate) fn poll_finish(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        match &mut self.tunnel {
            None => self.session.poll_shutdown(tcp, cx).map_err(ChannelError::from),
            Some(tunnel) => {
                if !tunnel.ended {
                    tunnel.ended = true;
                    self.session.send(&Control::End.encode())?;
                }
                self.session.poll_flush(tcp, cx).map_err(ChannelError::from)
            }
        }
    }

    /// Tells the peer's sidecar why the connection ends here, as far as the socket takes it.
    pub(crate) fn abort(&mut self, tcp: &TcpStream, reason: Reason) {
        if let Some(tunnel) = &self.tunnel {
            // It names its connection: for the peer that may be over already, and the next one under way.
            let reset = Control::Reset(Reset { reason: reason.label().to_owned(), opened: tunnel.opened });
            let _ = self.session.send(&reset.encode());
            let _ = self.session.try_flush(tcp);
            // What follows is a reset, and often one from the peer too. A connection that the kernel has seen only resets of swallows
            // the next one from the same port for ten seconds; after a FIN it does not. RESET says what this end is.
            let _ = socket::shutdown_write(tcp);
        }
    }

    /// Closes after a failure of the session, so that the peer sees the alert.
    pub(crate) async fn linger_close(&mut self, tcp: &TcpStream) {
        socket::linger_close_after(tcp, || self.session.try_flush(tcp).is_err() || !self.session.has_unsent()).await;
    }

    /// What a peer whose socket has failed said last.
    pub(crate) fn last_words(&mut self, tcp: &TcpStream) -> Option<ChannelError> {
        // It may have said it behind data that nobody has taken.
        if let Some(error) = self.failed.take() {
            return Some(*error);
        }
        let Self { session, tunnel, .. } = self;
        let Some(tunnel) = tunnel else { return session.last_words(tcp, |_, _| None) };
        let mut look = tunnel.last_words();
        session.last_words(tcp, |bytes, chunks| look(bytes, chunks).map(ChannelError::from))
    }
}
