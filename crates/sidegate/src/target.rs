//! The running sidecar that a command talks to, found by its socket or its configuration.

use std::path::Path;

use anyhow::Result;
use sidegate_admin::AdminAddresses;
use sidegate_admin::v1::admin_client::AdminClient;
use sidegate_checks::Unusable;
use sidegate_config::schema;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::cli;

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
        let addresses = self.addresses()?;
        runtime()?.block_on(async { question(addresses.connect().await?).await })
    }
}

/// What a question runs in.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
