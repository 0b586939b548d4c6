//! Which running sidecar a command asks: by its socket, or by its configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use sidegate_admin::v1::admin_client::AdminClient;
use sidegate_config::schema;
use tonic::transport::Channel;

use crate::check::unusable;
use crate::cli;

/// Where a sidecar can be asked.
pub(crate) struct AdminAddresses {
    /// Its admin socket.
    pub(crate) socket: Option<PathBuf>,
    /// Its probes.
    pub(crate) listen: Option<SocketAddr>,
}

impl cli::TargetArgs {
    /// Where the sidecar that is meant can be asked.
    pub(crate) fn addresses(&self) -> Result<AdminAddresses> {
        let of = |admin: schema::Admin| AdminAddresses { socket: admin.socket, listen: admin.listen.map(|address| address.0) };
        if let Some(socket) = &self.socket {
            return Ok(AdminAddresses { socket: Some(socket.clone()), listen: None });
        }
        if let Some(file) = &self.config {
            let config = sidegate_config::load(file).map_err(|problems| unusable(&problems))?;
            return Ok(of(config.admin));
        }
        // Nobody has named it: it need not be there, nor be of use.
        let config = sidegate_config::load(Path::new(cli::DEFAULT_CONFIG)).unwrap_or_default();
        Ok(of(config.admin))
    }

    /// Runs `question` against the sidecar that is meant.
    pub(crate) fn ask<T>(&self, question: impl AsyncFnOnce(AdminClient<Channel>) -> Result<T>) -> Result<T> {
        let Some(socket) = self.addresses()?.socket else {
            bail!("this sidecar has no admin socket: `admin.socket` is null in its configuration")
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { question(sidegate_admin::connect(&socket).await?).await })
    }
}

/// What the sidecar says of a refusal, without gRPC's own words.
#[allow(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
pub(crate) fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}
