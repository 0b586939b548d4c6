//! `sidegate drain`.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, Result};
use sidegate_admin::Draining;
use sidegate_core::counted;

use crate::cli;
use crate::target::runtime;

/// Begins the drain; with `--wait` comes back when the sidecar has ended.
pub(crate) fn drain(arguments: &cli::DrainArgs) -> Result<()> {
    let socket = arguments.asked.addresses()?.socket.context("this sidecar has no admin socket")?;
    runtime()?.block_on(async {
        let draining = Draining::begin(&socket).await?;
        if !arguments.wait {
            err!("draining; it ends by {} at the latest", draining.ends);
            return Ok(());
        }
        err!("draining; waiting for its end, by {} at the latest", draining.ends);
        let tell = |open| {
            if stderr().is_terminal() {
                err!("{} open", counted(open, "connection"));
            }
        };
        draining.wait(tell).await?;
        err!("it has ended");
        Ok(())
    })
}
