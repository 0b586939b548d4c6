//! The sidecar: everything wired together, and its life from start to drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sidegate_admin::Admin;
use sidegate_config::Config;
use sidegate_config::schema::Profile;
use sidegate_core::Reason;
use sidegate_identity::Identity;
use sidegate_proxy::{Listeners, Phase, PolicySource, Publisher, Settings, Shared, Workers, cpu_quota, raise_descriptor_limit};
use sidegate_telemetry::Telemetry;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::check::warnings;
use crate::{cli, logging, redirect, yaml};

/// Runs the sidecar until it is told to end.
pub(crate) fn run(arguments: &cli::Run) -> Result<()> {
    let file = &arguments.config.config;
    let config = sidegate_config::load(file).map_err(|problems| anyhow::anyhow!("the configuration can't be used:\n{problems}"))?;
    if arguments.print_config {
        print!("{}", yaml::to_yaml(&serde_json::to_value(&config)?));
        return Ok(());
    }
    let _logs = logging::start(&arguments.log)?;
    harden(arguments.with_parent);
    if config.profile == Profile::Development {
        tracing::warn!("profile `development`: what weakens protection is only a warning");
    }
    check_user(&config)?;
    if let Err(error) = raise_descriptor_limit() {
        tracing::warn!("the limit of descriptors could not be raised: {error}");
    }
    let policy = PolicySource::load(config.policy.files.clone(), config.profile).context("the policy can't be used")?;
    warnings(&config, policy.rules()).for_each(|warning| tracing::warn!("{warning}"));
    let settings = Settings::new(&config);
    let workers = config.workers.map_or_else(cpu_quota, usize::from);
    // Bound before anything that may wait, so that an application that starts at once is queued and not refused.
    let listeners = Listeners::bind(&config, &settings, workers)?;
    let admin = config.admin.listen.as_ref().map(|address| Admin::bind(address.0)).transpose()?;
    let (telemetry, log) = Telemetry::start(config.access_log.format).context("the access log can't be started")?;
    let shared = Shared::new(settings, Arc::new(telemetry));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let workers = Workers::start(&shared, listeners)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %file.display(), "started; waiting for the first SVID");
    let controlled = runtime.block_on(control(&config, &shared, policy, admin));
    shared.advance(Phase::Ending);
    workers.join();
    drop(runtime);
    drop(shared);
    log.join();
    controlled
}

/// The kernel's rules exempt one user. As another, sidegate's own connections would be captured, by itself.
fn check_user(config: &Config) -> Result<()> {
    let captures = config.outbound.listen.is_some() || config.outbound.listen6.is_some();
    let (uid, exempt) = (nix::unistd::geteuid().as_raw(), redirect::exempt_uid(config));
    if !captures || config.redirect.exempt_mark.is_some() || uid == exempt {
        return Ok(());
    }
    let message = format!(
        "sidegate runs as user {uid}, but `redirect.exemptUid` is {exempt}: its own connections would be captured again; run it as {exempt}, or correct the key"
    );
    match config.profile {
        Profile::Production => anyhow::bail!(message),
        Profile::Development => {
            tracing::warn!("{message}");
            Ok(())
        }
    }
}

/// What the process may not do: leave its memory, which holds keys, in a core file, or be looked into by others.
fn harden(with_parent: bool) {
    use nix::sys::{prctl, resource};
    if let Err(error) = prctl::set_dumpable(false).and_then(|()| resource::setrlimit(resource::Resource::RLIMIT_CORE, 0, 0)) {
        tracing::warn!("core dumps could not be turned off: {error}");
    }
    if with_parent && let Err(error) = prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM) {
        tracing::warn!("this process will outlive its parent: {error}");
    }
}

/// The control plane: identity, snapshots, admin, signals. Returns when everything has drained.
async fn control(config: &Config, shared: &Arc<Shared>, policy: PolicySource, admin: Option<Admin>) -> Result<()> {
    let mut signals = Signals::new()?;
    let identity = Identity::start(&config.identity, config.profile)?;
    let _publisher = Publisher::start(shared, identity.subscribe(), policy);
    // Ended with the runtime.
    let _admin = admin.map(|admin| tokio::spawn(admin.serve(shared.clone())));
    let mut phase = shared.phase.subscribe();
    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, "draining"),
        _ = phase.wait_for(|p| *p == Phase::Ending) => anyhow::bail!("the data plane could not go on"),
    }
    tokio::select! {
        () = drain(config, shared) => {}
        name = signals.next() => {
            tracing::warn!(signal = name, open = shared.registry.open(), "second signal: ending at once");
            shared.registry.cut_all(Reason::Cancelled);
        }
    }
    Ok(())
}

/// Not ready any more; then no inbound; outbound until the deadline, or until nothing has been open for a while.
async fn drain(config: &Config, shared: &Shared) {
    let deadline = Instant::now() + config.drain.deadline.duration();
    let settle = Instant::now() + config.drain.settle.duration();
    let quiet = config.drain.quiet.duration();
    shared.advance(Phase::Settling);
    let mut last_open = Instant::now();
    loop {
        let now = Instant::now();
        if now >= settle {
            shared.advance(Phase::Draining);
        }
        if shared.registry.open() > 0 {
            last_open = now;
        }
        if now >= settle && now.duration_since(last_open) >= quiet {
            tracing::info!("drained");
            return;
        }
        if now >= deadline {
            tracing::warn!(open = shared.registry.open(), "the drain deadline has passed; what is open is cut");
            shared.registry.cut_all(Reason::Drained);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
