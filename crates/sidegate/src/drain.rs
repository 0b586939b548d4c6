//! `sidegate drain`.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use sidegate_admin::v1;
use sidegate_admin::v1::admin_client::AdminClient;
use tonic::transport::Channel;

use crate::asked::refused;
use crate::cli;
use sidegate_core::counted;

const STEP: Duration = Duration::from_millis(200);
/// Beyond the time at which the sidecar itself would have ended.
const MARGIN: Duration = Duration::from_secs(5);

/// Begins the drain; with `--wait` comes back when the sidecar has ended.
pub(crate) fn drain(arguments: &cli::Drain) -> Result<()> {
    arguments.asked.ask(async |mut client| {
        let ends = client.drain(v1::DrainRequest {}).await.map_err(refused)?.into_inner().ends;
        if !arguments.wait {
            err!("draining; it ends by {ends} at the latest");
            return Ok(());
        }
        err!("draining; waiting for its end, by {ends} at the latest");
        let until = humantime::parse_rfc3339(&ends)? + MARGIN;
        wait(&mut client, until).await?;
        err!("it has ended");
        Ok(())
    })
}

/// Until the sidecar answers no more.
async fn wait(client: &mut AdminClient<Channel>, until: SystemTime) -> Result<()> {
    let (mut open, mut told) = (0, None);
    while SystemTime::now() < until {
        let Ok(status) = client.get_status(v1::GetStatusRequest {}).await else { return Ok(()) };
        open = status.into_inner().traffic.iter().map(|traffic| traffic.open).sum();
        if told != Some(open) && stderr().is_terminal() {
            err!("{} open", counted(open, "connection"));
            told = Some(open);
        }
        tokio::time::sleep(STEP).await;
    }
    bail!(
        "it has not ended by its own deadline, with {} open; read its log, and end it by SIGKILL if it hangs",
        counted(open, "connection")
    )
}
