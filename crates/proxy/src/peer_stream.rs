//! A peer's channel as a stream of bytes, for protocols that read and write what they carry. The relay does without: it moves bytes
//! between two sockets and copies none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use sidegate_net::transfer;
use sidegate_tls::{Filled, SealError, WireError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::peer_channel::{ChannelError, PeerChannel};

/// A peer's channel with its socket. Reading and writing may be done by two tasks.
pub(crate) struct PeerStream {
    channel: Box<PeerChannel>,
    tcp: TcpStream,
    /// The first failure: the error of a read or write can't say all of it.
    failed: Option<ChannelError>,
    /// A writer that waits until the peer's sidecar has answered, which only a reader can notice.
    held: Option<Waker>,
}

impl PeerStream {
    pub(crate) fn new(tcp: TcpStream, channel: Box<PeerChannel>) -> Self {
        Self { channel, tcp, failed: None, held: None }
    }

    /// The channel and its socket, and how the channel has failed, if it has.
    pub(crate) fn into_parts(self) -> (TcpStream, Box<PeerChannel>, Option<ChannelError>) {
        (self.tcp, self.channel, self.failed)
    }

    fn fail(&mut self, error: ChannelError) -> io::Error {
        let kind = match &error {
            ChannelError::Wire(WireError::Truncated) => io::ErrorKind::UnexpectedEof,
            ChannelError::Wire(WireError::Io(error)) => error.kind(),
            ChannelError::Wire(WireError::Tls(..)) | ChannelError::Malformed(_) => io::ErrorKind::InvalidData,
            ChannelError::Wire(WireError::Reset) | ChannelError::Refused(_) | ChannelError::Aborted(_) | ChannelError::NotOpened => {
                io::ErrorKind::ConnectionReset
            }
        };
        self.failed.get_or_insert(error);
        kind.into()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = this.channel.poll_fill(&this.tcp, cx);
        if !this.channel.is_held()
            && let Some(writer) = this.held.take()
        {
            writer.wake();
        }
        match ready!(filled) {
            Ok(Filled::Data) => this.channel.read_plaintext(into),
            Ok(Filled::End) => {}
            Err(error) => return Poll::Ready(Err(this.fail(error))),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, mut data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if this.channel.is_held() {
                this.held = Some(cx.waker().clone());
            }
            if this.channel.session.is_full() || this.channel.is_held() {
                let flushed = this.channel.session.poll_flush(&this.tcp, cx).map_err(|error| this.fail(error.into()));
                ready!(flushed)?;
                if this.channel.is_held() {
                    return Poll::Pending;
                }
            }
            match this.channel.seal_from(|rooms| Ok(transfer::fill(rooms, &mut data))) {
                Ok(Some(written)) => return Poll::Ready(Ok(written)),
                Ok(None) => {}
                Err(SealError::Read(error)) => return Poll::Ready(Err(error)),
                Err(SealError::Session(error)) => return Poll::Ready(Err(this.fail(error.into()))),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.channel.session.poll_flush(&this.tcp, cx).map_err(|error| this.fail(error.into()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.channel.poll_finish(&this.tcp, cx).map_err(|error| this.fail(error))
    }
}

#[cfg(test)]
mod tests;
