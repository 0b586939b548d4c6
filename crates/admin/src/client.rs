//! The operator's side of the admin API: its client, and what it answers as text. The command line uses it.

mod addresses;
pub mod connections;
mod draining;
mod ready;
mod status;
mod table;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::v1::admin_client::AdminClient;

pub use addresses::AdminAddresses;
pub use draining::{DrainError, Draining};
pub use ready::NotReadyError;
pub use status::{expires, screen, span};
pub use table::{Keep, shortened};

/// How long a connection to the socket may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take to begin; a watch then lasts for as long as its client wants.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A sidecar does not answer a question.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It can't be reached.
    #[error(
        "no sidecar answers on {path}: {error}; name its configuration with --config or its `admin.socket` with --socket, and be its user or root"
    )]
    Unreachable {
        /// By this socket.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It has no socket to ask by.
    #[error("this sidecar has no admin socket: `admin.socket` is null in its configuration")]
    NoSocket,
    /// It refuses: its message, without gRPC's wrapping.
    #[error("{}", .0.message())]
    Refused(Box<tonic::Status>),
}

impl From<tonic::Status> for ClientError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// A client of the sidecar that serves `path`.
///
/// # Errors
/// If no sidecar answers there.
pub async fn connect(path: &Path) -> Result<AdminClient<Channel>, ClientError> {
    let failed = |error| ClientError::Unreachable { path: path.to_owned(), error };
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await {
        Ok(stream) => stream.map_err(failed)?,
        Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
    };
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted)) }
    });
    let endpoint = Endpoint::from_static("http://admin.invalid").timeout(ANSWER_TIMEOUT);
    let channel = endpoint.connect_with_connector(connector).await.map_err(|e| failed(io::Error::other(e)))?;
    // One answer lists all connections, and there may be many.
    Ok(AdminClient::new(channel).max_decoding_message_size(64 * 1024 * 1024))
}
