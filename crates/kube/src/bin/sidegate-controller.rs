//! `sidegate-controller`: gives pods of a Kubernetes cluster their sidecar, as an admission webhook or in manifests.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use sidegate_config::file;
use sidegate_core::event;
use sidegate_identity::Identity;
use sidegate_kube::directory::{DirectoryServer, Subscriptions, watch_cluster};
use sidegate_kube::{ControllerConfig, Directory, WebhookServer, check_sidecar, inject_manifest, uninject_manifest};
use sidegate_net::Backoff;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Gives memory back: a list of a whole cluster is needed for a moment only.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives pods of a Kubernetes cluster their sidegate sidecar.
#[derive(Debug, Parser)]
#[command(name = "sidegate-controller", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the admission webhook, until SIGTERM
    Run(RunArgs),
    /// Check a configuration file
    Check(ConfigArgs),
    /// Write a manifest whose pods have a sidecar; comments are lost
    Inject(InjectArgs),
    /// Write a manifest whose pods have no sidecar any more
    Uninject(ManifestArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The controller's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/sidegate/controller.yaml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Which events are logged
    #[arg(long, value_name = "FILTER", env = "SIDEGATE_LOG", default_value = "info")]
    log: String,
}

#[derive(Debug, Args)]
struct ManifestArgs {
    /// A manifest in YAML or JSON; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    filename: PathBuf,
}

#[derive(Debug, Args)]
struct InjectArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    #[command(flatten)]
    config: ConfigArgs,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Run(arguments) => serve(&arguments),
        Command::Check(arguments) => {
            load(&arguments.config)?;
            Ok(writeln!(io::stderr(), "{}: good", arguments.config.display())?)
        }
        Command::Inject(arguments) => {
            let config = load(&arguments.config.config)?;
            let (manifest, warnings) = inject_manifest(&read(&arguments.manifest.filename)?, &config.sidecar)?;
            for warning in warnings {
                writeln!(io::stderr(), "warning: {warning}")?;
            }
            write(&manifest)
        }
        Command::Uninject(arguments) => write(&uninject_manifest(&read(&arguments.filename)?)?),
    }
}

fn load(path: &Path) -> Result<ControllerConfig> {
    let text = file::read_text(path, file::SMALL).with_context(|| format!("{} can't be read", path.display()))?;
    let config = match sidegate_config::typed::<ControllerConfig>(&path.display().to_string(), &text) {
        Ok((config, _)) => config,
        Err(problems) => bail!("the configuration can't be used:\n{problems}"),
    };
    check_sidecar(&config.sidecar).with_context(|| format!("{}: no pod can be injected", path.display()))?;
    Ok(config)
}

/// Threads that serve.
const MOST_WORKERS: usize = 4;

/// A manifest may be as long as a list of all that a namespace has.
const LONGEST_MANIFEST: usize = 64 * 1024 * 1024;

fn read(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().take(LONGEST_MANIFEST as u64).read_to_string(&mut text).context("standard input can't be read")?;
        return Ok(text);
    }
    file::read_text(path, LONGEST_MANIFEST).with_context(|| format!("{} can't be read", path.display()))
}

fn write(manifest: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(manifest.as_bytes()).and_then(|()| out.flush()) {
        // The reader has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("standard output can't be written"),
    }
}

fn serve(arguments: &RunArgs) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::builder().with_regex(false).parse(&arguments.log).context("--log")?;
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(io::stderr).init();
    let config = load(&arguments.config.config)?;
    // Handshakes of all sidecars at once, after a restart, are work for more than one.
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MOST_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    if config.webhook.is_none() && config.directory.is_none() {
        bail!("the configuration has neither `webhook` nor `directory`; there is nothing to serve");
    }
    runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // Ends with this function.
        let mut tasks = JoinSet::new();
        if let Some(directory) = config.directory.clone() {
            // Pods are injected also while the directory can't be served.
            tasks.spawn(keep_directory(directory));
        }
        let server = config.webhook.is_some().then(|| WebhookServer::bind(config)).transpose()?;
        if let Some(server) = &server {
            tracing::info!(event = event::WEBHOOK_SERVED, address = %server.local_addr()?, "the webhook is served");
        }
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => Ok(()),
                _ = interrupt.recv() => Ok(()),
                Some(Err(error)) = tasks.join_next() => Err(anyhow::Error::from(error).context("the directory can't be served")),
            }
        };
        let Some(server) = server else { return stop.await };
        let stopped = Cell::new(Ok(()));
        server.serve(async { stopped.set(stop.await) }).await.context("the webhook can't be served")?;
        stopped.into_inner()
    })
}

/// Serves the directory, again and again where that ends.
async fn keep_directory(config: Directory) {
    let mut backoff = Backoff::new(Duration::from_secs(1));
    loop {
        if let Err(error) = serve_directory(config.clone()).await {
            tracing::error!(event = event::DIRECTORY_UNAVAILABLE, "the directory can't be served, trying again: {error:#}");
        }
        tokio::time::sleep(backoff.next(Duration::from_secs(60))).await;
    }
}

/// Serves the directory as soon as the API server has listed everything.
async fn serve_directory(config: Directory) -> Result<()> {
    let identity = Identity::start(&config.identity, config.profile).context("directory.identity")?;
    let client = kube::Client::try_default().await.context("the API server can't be asked")?;
    let subscriptions = Arc::new(Subscriptions::default());
    let (listed, mut count) = watch::channel(0);
    let watching = watch_cluster(client, config.spiffe_id.clone(), subscriptions.clone(), listed);
    let serving = async {
        count.wait_for(|count| *count == 3).await.context("the API server can't be followed")?;
        let server = DirectoryServer::bind(config, subscriptions)?;
        tracing::info!(event = event::DIRECTORY_SERVED, address = %server.local_addr()?, "the directory is served");
        server.serve(identity.subscribe()).await.context("its listener can't be used")
    };
    tokio::select! {
        () = watching => anyhow::bail!("the API server is not followed any more"),
        served = serving => served,
    }
}
