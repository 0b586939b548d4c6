//! `sidegate log-filter`.

use anyhow::Result;
use sidegate_admin::{ClientError, v1};

use crate::cli;
use crate::output::say;

/// Prints what a running sidecar logs, or changes it.
pub(crate) fn log_filter(arguments: &cli::LogFilterArgs) -> Result<()> {
    let asked = &arguments.asked;
    let Some(filter) = &arguments.filter else {
        let status = asked.ask(async |mut client| Ok(client.get_status(v1::GetStatusRequest {}).await.map_err(ClientError::from)?))?;
        return say(&status.into_inner().log_filter);
    };
    let request = v1::SetLogFilterRequest { filter: filter.clone() };
    let answer = asked.ask(async |mut client| Ok(client.set_log_filter(request).await.map_err(ClientError::from)?))?;
    err!("{filter} (it was {})", answer.into_inner().previous);
    Ok(())
}
