//! The Unix socket of the admin API. Its file permissions are what guards it: only its owner and root may connect.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use sidegate_core::event;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::{Connected, UdsConnectInfo};

use crate::api::Api;
use crate::controls::Controls;
use crate::v1::admin_server::AdminServer;

/// Operators and their scripts need few.
const CONNECTIONS: usize = 16;
const REQUESTS: usize = 16;
/// Bytes of a request: a log filter and a SPIFFE ID are the longest texts.
const LONGEST_REQUEST: usize = 16 * 1024;
/// The HTTP/2 preface that every client sends first (RFC 9113 §3.4), and its timeout: a silent client does not occupy a place for
/// long. After the preface the keepalive detects dead clients.
const PREFACE: usize = 24;
const FIRST_BYTES: Duration = Duration::from_secs(5);
/// After this much silence a client is pinged, and has the same time to answer.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// The admin socket can't be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers there.
    #[error("{0} is served by another process; give each sidecar an `admin.socket` of its own")]
    Taken(PathBuf),
    /// The path is something else than a socket.
    #[error("{0} is not a socket; it is left alone")]
    NoSocket(PathBuf),
    /// The system refuses.
    #[error("the admin socket {0} can't be made: {1}; does its folder exist, and may this user write there?")]
    System(PathBuf, io::Error),
}

/// The admin socket, bound. Its file is removed at the end.
#[derive(Debug)]
pub struct AdminSocket {
    listener: Option<StdListener>,
    path: PathBuf,
    /// Which file it is: another sidecar may have put its own in its place.
    inode: u64,
}

impl AdminSocket {
    /// Binds `path`, for this user and root only. A socket that a dead process left is replaced. The umask changes for a
    /// moment: to be called before there are threads that make files.
    ///
    /// # Errors
    /// If it can't be bound.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let system = |e: io::Error| SocketError::System(path.to_owned(), e);
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty() && !f.exists()) {
            std::fs::create_dir(folder).map_err(system)?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
            Ok(_) => match StdStream::connect(path) {
                Ok(_) => return Err(SocketError::Taken(path.to_owned())),
                // No process listens there any more.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(system)?,
                Err(error) => return Err(system(error)),
            },
            Err(_) => {}
        }
        // Never open to others, not even for a moment.
        let before = umask(Mode::S_IXUSR | Mode::S_IRWXG | Mode::S_IRWXO);
        let listener = StdListener::bind(path);
        umask(before);
        let listener = listener.map_err(system)?;
        listener.set_nonblocking(true).map_err(system)?;
        let inode = std::fs::symlink_metadata(path).map_err(system)?.ino();
        Ok(Self { listener: Some(listener), path: path.to_owned(), inode })
    }

    /// Serves the admin API until dropped.
    pub async fn serve(mut self, controls: Arc<Controls>) {
        let Some(listener) = self.listener.take() else { return };
        let failed = |error: &dyn std::fmt::Display| {
            tracing::error!(event = event::ADMIN_UNAVAILABLE, "the admin socket can't be served: {error}");
        };
        let listener = match UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return failed(&error),
        };
        let (sender, accepted) = mpsc::channel(1);
        let served = Server::builder()
            .concurrency_limit_per_connection(REQUESTS)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(AdminServer::new(Api::new(controls)).max_decoding_message_size(LONGEST_REQUEST))
            .serve_with_incoming(ReceiverStream::new(accepted));
        tokio::select! {
            () = accept(&listener, &sender) => {}
            result = served => if let Err(error) = result {
                failed(&error);
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn accept(listener: &UnixListener, sender: &mpsc::Sender<io::Result<AdminStream>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // New clients wait in the kernel's queue meanwhile.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let preface = Some((PREFACE, Box::pin(sleep(FIRST_BYTES))));
                if sender.send(Ok(AdminStream { stream, preface, _place: place })).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(event = event::ACCEPT_FAILED, "accept on the admin socket failed, trying again: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// A connection that holds one of the bounded places.
struct AdminStream {
    stream: UnixStream,
    /// How many bytes of the preface are still to come, and until when.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    _place: OwnedSemaphorePermit,
}

impl Connected for AdminStream {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for AdminStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some((missing, deadline)) = &mut self.preface {
            *missing = missing.saturating_sub(buf.filled().len() - before);
            if *missing == 0 {
                self.preface = None;
            } else if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        result
    }
}

impl AsyncWrite for AdminStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_socket_is_its_owners_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::Taken(_))));
        drop(socket);
        assert!(!path.exists());
        // A dead process's socket is replaced; another kind of file is never removed.
        drop(StdListener::bind(&path).unwrap());
        drop(AdminSocket::bind(&path).unwrap());
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::NoSocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
    }
}
