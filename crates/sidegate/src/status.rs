//! `sidegate status`.

use anyhow::Result;
use sidegate_admin::{ClientError, screen, v1};

use crate::cli;
use crate::output::{say_lines, say_pretty_json, say_verdicts};

/// Prints how a running sidecar is doing, or its configuration.
pub(crate) fn status(arguments: &cli::StatusArgs) -> Result<()> {
    arguments.asked.ask(async |mut client| {
        if arguments.print_config {
            return say_lines(&client.get_config(v1::GetConfigRequest {}).await.map_err(ClientError::from)?.into_inner().yaml);
        }
        let status = client.get_status(v1::GetStatusRequest {}).await.map_err(ClientError::from)?.into_inner();
        if arguments.json { say_pretty_json(&status) } else { say_verdicts(&screen(&status)) }
    })
}
