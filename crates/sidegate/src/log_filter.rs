//! `sidegate log-filter`.

use anyhow::Result;
use sidegate_admin::{ClientError, v1};

use crate::cli;
use crate::output::say;

/// Prints what a running sidecar logs, or changes it.
pub(crate) fn log_filter(arguments: &cli::LogFilterArgs) -> Result<()> {
    let Some(filter) = &arguments.filter else {
        let status = v1::GetStatusRequest {};
        return say(&arguments
            .asked
            .ask(async |mut client| Ok(client.get_status(status).await.map_err(ClientError::from)?.into_inner().log_filter))?);
    };
    let request = v1::SetLogFilterRequest { filter: filter.clone() };
    let previous = arguments
        .asked
        .ask(async |mut client| Ok(client.set_log_filter(request).await.map_err(ClientError::from)?.into_inner().previous))?;
    err!("{filter} (it was {previous})");
    Ok(())
}
