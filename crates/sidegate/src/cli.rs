//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sidegate_config::value::Span;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SIDEGATE_BUILD"), ")");

/// A service-mesh sidecar: transparent mutual TLS with SPIFFE identities, and a reason for every handshake.
#[derive(Debug, Parser)]
#[command(version = VERSION, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the sidecar
    Run(Run),
    /// Check a configuration and its policy files, and say everything that is wrong with them
    Check(Check),
    /// Wait until a sidecar is ready, for post-start hooks and scripts
    Wait(Wait),
    /// The kernel rules that send the pod's traffic to the sidecar
    Redirect(Redirect),
    /// Run the embedded SPIFFE authority alone (development only)
    Authority(Authority),
    /// Show it all on this machine: two workloads, an intruder, rotation
    #[cfg(feature = "development")]
    Demo(Demo),
    /// Print the JSON Schema of a file
    Schema(Schema),
    /// Print the reference of metrics and reasons, as in docs/reference.md
    Reference,
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(crate) struct Config {
    /// Configuration file; SIDEGATE__SECTION__KEY in the environment overrides a key
    #[arg(short, long, value_name = "FILE", env = "SIDEGATE_CONFIG", default_value = "/etc/sidegate/sidegate.yaml")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) config: Config,
    /// Print the configuration as it is understood, defaults and overrides included, and exit
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Log level or filter, such as info or sidegate_identity=debug
    #[arg(long, value_name = "FILTER", env = "SIDEGATE_LOG", default_value = "info")]
    pub(crate) log: String,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) config: Config,
    /// Print the configuration as it is understood, defaults and overrides included
    #[arg(long)]
    pub(crate) print_config: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// The sidecar's admin address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15020")]
    pub(crate) admin: SocketAddr,
    /// Give up after this long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = span)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Redirect {
    /// What to do
    #[arg(value_enum)]
    pub(crate) action: RedirectAction,
    #[command(flatten)]
    pub(crate) config: Config,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RedirectAction {
    /// Put the rules in place, atomically; again changes nothing
    Apply,
    /// Print the rules for review; needs no privilege
    Show,
    /// Compare what the kernel has with what is wanted
    Verify,
    /// Take the rules away
    Remove,
}

#[derive(Debug, Args)]
pub(crate) struct Authority {
    /// Configuration file of the authority; see `sidegate schema authority`
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Which profile this is meant for; production refuses
    #[arg(long, value_enum, env = "SIDEGATE_PROFILE", default_value = "development")]
    pub(crate) profile: ProfileName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileName {
    /// Nobody depends on it
    Development,
    /// Somebody does
    Production,
}

#[cfg(feature = "development")]
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How pods are made
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) mode: DemoMode,
    /// Keep it running to play with, until Ctrl-C
    #[arg(long)]
    pub(crate) keep: bool,
    /// Show every handshake, not a choice of them
    #[arg(long)]
    pub(crate) all: bool,
    /// How long the traffic goes on
    #[arg(long, value_name = "TIME", default_value = "6s", value_parser = span)]
    pub(crate) time: Duration,
}

#[cfg(feature = "development")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoMode {
    /// The first of the following that works here
    Auto,
    /// Network namespaces and kernel rules, as root
    Root,
    /// The same in a user namespace, without root
    Userns,
    /// No namespaces: explicit listeners on loopback
    Loopback,
}

#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// Of which file
    #[arg(value_enum, default_value = "config")]
    pub(crate) of: SchemaOf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SchemaOf {
    /// The sidecar's configuration
    Config,
    /// A policy file
    Policy,
    /// The embedded authority's configuration
    Authority,
}

fn span(text: &str) -> Result<Duration, String> {
    Span::parse(text).map(|span| span.duration())
}
