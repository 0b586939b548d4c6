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
    /// A writer that waits. A reader wakes it: only a reader notices the answer of the peer's sidecar, and a reader that flushes may
    /// have taken the writer's place at the socket.
    writer: Option<Waker>,
}

impl PeerStream {
    pub(crate) fn new(tcp: TcpStream, channel: Box<PeerChannel>) -> Self {
        Self { channel, tcp, failed: None, writer: None }
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
        self.wake_writer();
        kind.into()
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// What a write, flush or shutdown comes to. One that waits is remembered, and none goes on after a failure.
    fn poll_outwards<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut PeerChannel, &TcpStream, &mut Context<'_>) -> Poll<Result<T, ChannelError>>,
    ) -> Poll<io::Result<T>> {
        if self.failed.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let polled = poll(&mut self.channel, &self.tcp, cx).map_err(|error| self.fail(error));
        if polled.is_pending() {
            self.writer = Some(cx.waker().clone());
        }
        polled
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = this.channel.poll_fill(&this.tcp, cx);
        this.wake_writer();
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
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.get_mut().poll_outwards(cx, |channel, tcp, cx| {
            loop {
                if channel.session.is_full() || channel.is_held() {
                    ready!(channel.session.poll_flush(tcp, cx))?;
                }
                if channel.is_held() {
                    return Poll::Pending;
                }
                match channel.seal_from(|rooms| Ok(transfer::fill(rooms, &mut data))) {
                    Ok(Some(written)) => return Poll::Ready(Ok(written)),
                    Ok(None) => {}
                    Err(SealError::Read(error)) => return Poll::Ready(Err(error.into())),
                    Err(SealError::Session(error)) => return Poll::Ready(Err(error.into())),
                }
            }
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_outwards(cx, |channel, tcp, cx| channel.session.poll_flush(tcp, cx).map_err(ChannelError::from))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_outwards(cx, PeerChannel::poll_finish)
    }
}

#[cfg(test)]
mod tests;
