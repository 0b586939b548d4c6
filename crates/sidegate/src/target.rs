//! The running sidecar that a command talks to, found by its socket or its configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use sidegate_admin::v1::admin_client::AdminClient;
use sidegate_checks::Unusable;
use sidegate_config::schema;
use tonic::transport::Channel;

use crate::cli;

/// The addresses of a running sidecar.
pub(crate) struct AdminAddresses {
    /// Its admin socket.
    pub(crate) socket: Option<PathBuf>,
    /// Its probes.
    pub(crate) listen: Option<SocketAddr>,
}

impl cli::TargetArgs {
    /// The addresses of the sidecar that the arguments name.
    pub(crate) fn addresses(&self) -> Result<AdminAddresses> {
        let of = |admin: schema::Admin| AdminAddresses { socket: admin.socket, listen: admin.listen.map(|address| address.0) };
        if let Some(socket) = &self.socket {
            return Ok(AdminAddresses { socket: Some(socket.clone()), listen: None });
        }
        if let Some(file) = &self.config {
            let config = sidegate_config::load(file).map_err(Unusable)?;
            return Ok(of(config.admin));
        }
        // No configuration is named: the default one may be missing or invalid.
        let config = sidegate_config::load(Path::new(cli::DEFAULT_CONFIG)).unwrap_or_default();
        Ok(of(config.admin))
    }

    /// Runs `question` against the sidecar that the arguments name.
    pub(crate) fn ask<T>(&self, question: impl AsyncFnOnce(AdminClient<Channel>) -> Result<T>) -> Result<T> {
        let Some(socket) = self.addresses()?.socket else {
            bail!("this sidecar has no admin socket: `admin.socket` is null in its configuration")
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { question(sidegate_admin::connect(&socket).await?).await })
    }
}

/// The sidecar's message of a refusal, without gRPC's wrapping.
#[allow(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
pub(crate) fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}
