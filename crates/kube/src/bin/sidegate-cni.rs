//! `sidegate-cni`: a CNI plugin that makes the kernel rules of injected pods, and its installer.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use sidegate_config::value::{Span, Url};
use sidegate_kube::cni::{Installation, NetworkConfig, run};
use tokio::signal::unix::{SignalKind, signal};

/// Makes the kernel rules of injected pods before their containers run. Runtimes call it as a CNI plugin, by CNI_COMMAND.
#[derive(Debug, Parser)]
#[command(name = "sidegate-cni", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put the plugin on this node and keep it there, until SIGTERM; then all stays as it is
    Install(InstallArgs),
    /// Say what of the plugin is not in place on this node
    Check(NodeArgs),
    /// Take the plugin out of the chain; pods keep their rules
    Uninstall(UninstallArgs),
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// The runtime's folder of plugins, by the path that it has on the node
    #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The runtime's folder of network configurations, by the path that it has on the node
    #[arg(long, value_name = "FOLDER", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// The API server, as nodes reach it [default: that of KUBERNETES_SERVICE_HOST and _PORT]
    #[arg(long, value_name = "URL", value_parser = url)]
    api_server: Option<Url>,
    /// The CA of the API server
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")]
    ca_file: PathBuf,
    /// The token with which the plugin asks the API server
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token")]
    token_file: PathBuf,
    /// Namespaces whose pods are left alone, without asking the API server; repeat it
    #[arg(long, value_name = "NAMESPACE", default_values = ["kube-system", "sidegate-system", "sidegate-cni"])]
    exclude_namespace: Vec<String>,
    /// How many seconds a call of the plugin may take
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
}

#[derive(Debug, Args)]
struct InstallArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Which events are logged
    #[arg(long, value_name = "FILTER", env = "SIDEGATE_LOG", default_value = "info")]
    log: String,
}

#[derive(Debug, Args)]
struct UninstallArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Remove the binary too. Some runtimes call it when a pod ends that was started with it
    #[arg(long)]
    binary: bool,
    /// Wait for SIGTERM afterwards, in a DaemonSet
    #[arg(long)]
    hold: bool,
}

fn main() -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok();
    if variable("CNI_COMMAND").is_some() {
        let (text, code) = match run(&variable, &mut io::stdin().lock()) {
            Ok(text) => (text, ExitCode::SUCCESS),
            Err(text) => (text, ExitCode::FAILURE),
        };
        // An answer that does not reach the runtime is none.
        return if io::stdout().write_all(text.as_bytes()).is_ok() { code } else { ExitCode::FAILURE };
    }
    match command(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(command: Command) -> Result<()> {
    match command {
        Command::Install(arguments) => install(&arguments),
        Command::Check(node) => {
            let missing = node.installation()?.missing()?;
            if missing.is_empty() { Ok(()) } else { bail!("{}", missing.join("\n")) }
        }
        Command::Uninstall(arguments) => {
            for path in arguments.node.installation()?.remove(arguments.binary)? {
                writeln!(io::stderr(), "{}: changed or removed", path.display())?;
            }
            if arguments.hold {
                runtime()?.block_on(async {
                    stopped()?.await;
                    anyhow::Ok(())
                })?;
            }
            Ok(())
        }
    }
}

fn install(arguments: &InstallArgs) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::builder().with_regex(false).parse(&arguments.log).context("--log")?;
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(io::stderr).init();
    let installation = arguments.node.installation()?;
    runtime()?.block_on(async { installation.follow(stopped()?).await.context("the plugin can't be installed") })
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Ends at SIGTERM or SIGINT.
fn stopped() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

impl NodeArgs {
    fn installation(&self) -> Result<Installation> {
        for folder in [&self.bin_dir, &self.conf_dir] {
            if !folder.is_absolute() {
                bail!("{} is no absolute path", folder.display());
            }
        }
        let api_server = match &self.api_server {
            Some(url) => url.clone(),
            None => {
                let variable =
                    |name: &str| std::env::var(name).with_context(|| format!("{name} is not set: name the API server by --api-server"));
                let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
                let host = if host.contains(':') { format!("[{host}]") } else { host };
                url(&format!("https://{host}:{port}")).map_err(anyhow::Error::msg)?
            }
        };
        Ok(Installation {
            // Of this very process, also if its file was replaced.
            program: PathBuf::from("/proc/self/exe"),
            bin_dir: self.bin_dir.clone(),
            conf_dir: self.conf_dir.clone(),
            ca_file: self.ca_file.clone(),
            token_file: self.token_file.clone(),
            config: NetworkConfig {
                api_server,
                ca_file: self.ca_file.clone(),
                token_file: self.token_file.clone(),
                exclude_namespaces: self.exclude_namespace.clone(),
                timeout: Span(Duration::from_secs(self.timeout)),
            },
        })
    }
}

fn url(text: &str) -> Result<Url, String> {
    let url: Url = serde_json::from_value(text.into()).map_err(|error| error.to_string())?;
    if text.starts_with("https://") { Ok(url) } else { Err("it has to be https".to_owned()) }
}
