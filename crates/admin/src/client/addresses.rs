//! Where a running sidecar can be asked.

use std::net::SocketAddr;
use std::path::PathBuf;

use tonic::transport::Channel;

use super::{ClientError, connect};
use crate::v1::admin_client::AdminClient;

/// The addresses of a running sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminAddresses {
    /// Its admin socket.
    pub socket: Option<PathBuf>,
    /// Its probes.
    pub listen: Option<SocketAddr>,
}

impl AdminAddresses {
    /// A client of its admin API.
    ///
    /// # Errors
    /// If it has no socket, or does not answer there.
    pub async fn connect(&self) -> Result<AdminClient<Channel>, ClientError> {
        let Some(socket) = &self.socket else { return Err(ClientError::NoSocket) };
        connect(socket).await
    }
}
