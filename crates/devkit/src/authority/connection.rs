//! The connections of callers: attested when they are accepted, and cut on demand.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::attest::Caller;
use super::fault::Fault;
use super::feed::Shared;

/// How long to wait where accepting failed, most likely for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A caller's connection, which fails as soon as it is cut. That ends the tasks that serve it, too, so that none
/// outlives the authority.
pub(crate) struct Connection {
    stream: UnixStream,
    caller: Caller,
    cut: CancellationToken,
    when_cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// The connections to a socket.
pub(crate) fn incoming(listener: UnixListener, socket: Arc<Path>, state: Shared) -> impl Stream<Item = io::Result<Connection>> {
    stream::unfold((listener, socket, state), |(listener, socket, state)| async move {
        loop {
            match accept(&listener, &socket, &state).await {
                Ok(Some(connection)) => return Some((Ok(connection), (listener, socket, state))),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(?socket, %error, "cannot accept a Workload API connection; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}

/// The next connection; none where it was reset at once.
async fn accept(listener: &UnixListener, socket: &Arc<Path>, state: &Shared) -> io::Result<Option<Connection>> {
    let (stream, _) = listener.accept().await?;
    let caller = Caller::attest(&stream, socket.clone())?;
    let cut = {
        let state = state.borrow();
        if state.fault == Fault::Reset {
            return Ok(None);
        }
        state.connections.clone()
    };
    let when_cut = Box::pin(cut.clone().cancelled_owned());
    Ok(Some(Connection { stream, caller, cut, when_cut }))
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.when_cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // No waker: a server always reads as well, and that wakes it.
        if self.cut.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
