//! `sidegate authority`: the embedded SPIFFE authority alone.

use anyhow::{Result, bail};

use crate::cli;

/// Runs the authority until it is told to end.
#[cfg(feature = "development")]
pub(crate) fn authority(arguments: &cli::AuthorityArgs) -> Result<()> {
    use anyhow::{Context, anyhow};
    use sidegate_config::file::{SMALL, read_text};
    use sidegate_devkit::authority::{Authority, AuthorityConfig};
    use tokio::signal::unix::{SignalKind, signal};

    refuse_production(arguments)?;
    let file = &arguments.config;
    let text = read_text(file, SMALL).with_context(|| format!("{} can't be read", file.display()))?;
    let (config, _) = sidegate_config::typed::<AuthorityConfig>(&file.display().to_string(), &text)
        .map_err(|p| anyhow!("the authority's configuration can't be used:\n{p}"))?;
    let _logs = sidegate_telemetry::start_logging("info", crate::output::log_format(), None).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let sockets = config.sockets.clone();
        let authority = Authority::start(config).await?;
        for socket in sockets {
            tracing::info!("SPIFFE_ENDPOINT_SOCKET=unix://{}", socket.display());
        }
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        authority.shutdown().await;
        Ok(())
    })
}

/// This build has none.
#[cfg(not(feature = "development"))]
pub(crate) fn authority(arguments: &cli::AuthorityArgs) -> Result<()> {
    refuse_production(arguments)?;
    bail!("this build has no embedded authority (feature `development` is off); use a SPIRE agent")
}

fn refuse_production(arguments: &cli::AuthorityArgs) -> Result<()> {
    if arguments.profile == cli::ProfileName::Production {
        bail!(
            "profile `production` refuses the embedded authority: it keeps its keys in memory and attests by uid only; use a SPIRE agent"
        );
    }
    Ok(())
}
