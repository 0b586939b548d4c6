//! `sidegate wait`: blocks until a sidecar says that it is ready.

use anyhow::Result;
use sidegate_admin::AdminAddresses;

use crate::cli;
use crate::target::runtime;

/// Waits for the sidecar that the arguments name.
pub(crate) fn wait(arguments: &cli::WaitArgs) -> Result<()> {
    let addresses = match arguments.admin {
        Some(address) => AdminAddresses { socket: None, listen: Some(address) },
        None => arguments.asked.addresses()?,
    };
    Ok(runtime()?.block_on(addresses.wait_until_ready(arguments.timeout.duration()))?)
}
