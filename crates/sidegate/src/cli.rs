//! The command line.

pub(crate) mod audit;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sidegate_checks::resolved_name;
use sidegate_config::value::{Id, Moment, Span, Target};
use sidegate_core::SpiffeIdPattern;

use self::audit::AuditArgs;
use sidegate_evidence::filter;

/// The default path of the configuration.
pub(crate) const DEFAULT_CONFIG: &str = "/etc/sidegate/sidegate.yaml";

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
    Run(RunArgs),
    /// Check a configuration and the files that it names, and report all problems at once
    ///
    /// Exit status: 0 if there is nothing to report, 1 if there is something to look at (a finding of `sidegate policy check`, or a
    /// warning), 2 if the sidecar would not start. Notes do not count.
    Check(CheckArgs),
    /// Check a policy, ask it, test it, and compare it with recorded connections
    ///
    /// Exit status: 0 if there is nothing to report, 1 if there is something to look at, 2 if the input can't be used.
    Policy(PolicyArgs),
    /// Wait until a sidecar is ready, for post-start hooks and scripts
    Wait(WaitArgs),
    /// The state of a running sidecar, on one screen
    Status(StatusArgs),
    /// The open connections of a running sidecar
    ///
    /// As a table that fits the terminal. --watch ends with the sidecar, and with exit status 0.
    Connections(ConnectionsArgs),
    /// Connections, refusals, identity and tunnels of a running sidecar, live in a terminal
    ///
    /// Keys: Tab or 1 to 4 for a view, arrows to select, Enter for all of one, / to filter, s to sort, r to reverse, q to quit. It ends
    /// with the sidecar.
    Top(TopArgs),
    /// Reset connections of a running sidecar
    ///
    /// Exit status 1 if no open connection matches, or the beginning of an ID matches several.
    Cut(CutArgs),
    /// Show or change what a running sidecar logs
    LogFilter(LogFilterArgs),
    /// Drain and end a running sidecar, as SIGTERM does
    Drain(DrainArgs),
    /// Verify, read and report on an audit log
    ///
    /// Exit status: 0 if nothing was found, 1 if something was, 2 if the question can't be answered.
    Audit(AuditArgs),
    /// The kernel rules that send the pod's traffic to the sidecar
    Redirect(RedirectArgs),
    /// Run the embedded SPIFFE authority alone (development only)
    Authority(AuthorityArgs),
    /// Show sidegate at work on this machine: two workloads, an intruder, rotation
    #[cfg(feature = "development")]
    Demo(DemoArgs),
    /// Print the JSON Schema of a file, or of what a command prints
    Schema(SchemaArgs),
    /// Print a reference that is made from the code, as in docs
    Reference(ReferenceArgs),
    /// Print the completions of this command line for a shell
    ///
    /// For bash: sidegate completions bash > /etc/bash_completion.d/sidegate
    #[cfg(feature = "packaging")]
    Completions(CompletionsArgs),
    /// Write the man pages, one for each command
    ///
    /// To install them: sidegate man /usr/local/share/man/man1
    #[cfg(feature = "packaging")]
    Man(ManArgs),
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file; SIDEGATE__SECTION__KEY in the environment overrides a key
    #[arg(short, long, value_name = "FILE", env = "SIDEGATE_CONFIG", default_value = DEFAULT_CONFIG)]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
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
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print the configuration as it is understood, defaults and overrides included
    #[arg(long)]
    pub(crate) print_config: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Report every mistake, and rules that never match, that others cover, or that allow everybody
    Check(PolicyCheckArgs),
    /// May A call B, and why? As the sidecar would decide with the configuration, or with policy files alone. Exit status 1 if not
    Explain(PolicyExplainArgs),
    /// Test a policy with a suite of expectations, for CI
    Test(PolicyTestArgs),
    /// Show which recorded connections would be decided differently
    Replay(PolicyReplayArgs),
    /// Print the smallest allow rules that cover the recorded connections
    Suggest(PolicySuggestArgs),
}

/// Which policy is meant.
#[derive(Debug, Args)]
pub(crate) struct PolicyFilesArgs {
    /// Policy file, or directory of such; may be repeated. Instead of those of the configuration
    #[arg(short, long, value_name = "PATH")]
    pub(crate) policy: Vec<PathBuf>,
    /// Configuration file that names the policy files
    #[arg(short, long, value_name = "FILE", env = "SIDEGATE_CONFIG", default_value = DEFAULT_CONFIG)]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyCheckArgs {
    #[command(flatten)]
    pub(crate) files: PolicyFilesArgs,
    /// Print the findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyExplainArgs {
    #[command(flatten)]
    pub(crate) files: PolicyFilesArgs,
    /// Who connects; without it a client in plaintext. On a connection from the workload that is the workload
    #[arg(long, value_name = "SPIFFE-ID", value_parser = Id::parse)]
    pub(crate) from: Option<Id>,
    /// The address that they connect from
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from_address: Option<IpAddr>,
    /// Where they want to go, such as :5432 or 10.0.0.7:5432
    #[arg(long, value_name = "ADDRESS", value_parser = Target::parse)]
    pub(crate) to: Target,
    /// The server name that they ask for
    #[arg(long, value_name = "NAME")]
    pub(crate) sni: Option<String>,
    /// The connection is from the workload; by its address the configuration says which destination it meets
    #[arg(long)]
    pub(crate) outbound: bool,
    /// The configured destination or outbound listener, if the connection is from the workload
    #[arg(long, value_name = "NAME")]
    pub(crate) destination: Option<String>,
    /// Who answers, if the connection is from the workload
    #[arg(long, value_name = "SPIFFE-ID", value_parser = Id::parse)]
    pub(crate) server: Option<Id>,
    /// What a name in `dns` of a destination stands for, since nothing is resolved here; may be repeated
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = resolved_name)]
    pub(crate) resolved: Vec<(String, IpAddr)>,
    /// When, such as 2026-01-31T14:30:00Z; default now
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    pub(crate) at: Option<Moment>,
    /// Print the answer as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyTestArgs {
    /// Suites of expectations; see `sidegate schema policy-test`
    #[arg(value_name = "SUITE", required = true)]
    pub(crate) suites: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) files: PolicyFilesArgs,
    /// A rule that no expectation covers is a failure
    #[arg(long)]
    pub(crate) require_coverage: bool,
    /// Print the outcomes as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyReplayArgs {
    #[command(flatten)]
    pub(crate) recorded: RecordedArgs,
    #[command(flatten)]
    pub(crate) files: PolicyFilesArgs,
    /// Print the differences as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where connections were recorded.
#[derive(Debug, Args)]
pub(crate) struct RecordedArgs {
    /// An audit log, its folder or one of its files; or an access log in JSON; may be repeated
    #[arg(long, value_name = "PATH", required = true)]
    pub(crate) audit: Vec<PathBuf>,
    /// Key file of age, for encrypted audit logs
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PolicySuggestArgs {
    #[command(flatten)]
    pub(crate) recorded: RecordedArgs,
    /// Cover also what was denied since no rule allowed it
    #[arg(long)]
    pub(crate) include_denied: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    pub(crate) asked: TargetArgs,
    /// Its probes' address instead, where neither its socket nor its configuration can be seen
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin: Option<SocketAddr>,
    /// Give up after this long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = Span::parse)]
    pub(crate) timeout: Span,
}

/// Which running sidecar is meant.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Its configuration file, which says where it can be asked. Default: /etc/sidegate/sidegate.yaml where there is one
    #[arg(short, long, value_name = "FILE", env = "SIDEGATE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Its admin socket, instead of the one that the configuration names
    #[arg(short, long, value_name = "PATH", env = "SIDEGATE_ADMIN_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) asked: TargetArgs,
    /// Print all of it as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the configuration as it was loaded instead, secrets redacted
    #[arg(long, conflicts_with = "json")]
    pub(crate) print_config: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectionsArgs {
    #[command(flatten)]
    pub(crate) asked: TargetArgs,
    /// Continue with each connection that opens or ends, until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Show at most this many
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, conflicts_with = "watch")]
    pub(crate) limit: u32,
}

/// A length of time that is neither a burden for the sidecar nor longer than anyone looks.
fn interval(text: &str) -> Result<Span, String> {
    let span = Span::parse(text).map_err(|error| error.to_string())?;
    if (100..=3_600_000).contains(&span.0.as_millis()) { Ok(span) } else { Err("must be between 100ms and 1h".to_owned()) }
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) asked: TargetArgs,
    /// How often the sidecar is asked, from 100ms to 1h
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Span,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false, id = "which")]
pub(crate) struct CutWhichArgs {
    /// ID of the connection, as `sidegate connections` shows it, or a unique beginning of it
    #[arg(value_name = "ID", value_parser = filter::connection)]
    pub(crate) connection: Option<String>,
    /// All connections with such a SPIFFE ID at the other end: a pattern as in policies, such as spiffe://prod.example/ns/*/sa/web
    #[arg(long, value_name = "SPIFFE-ID", value_parser = filter::peer)]
    pub(crate) peer: Option<SpiffeIdPattern>,
}

#[derive(Debug, Args)]
pub(crate) struct CutArgs {
    #[command(flatten)]
    pub(crate) which: CutWhichArgs,
    #[command(flatten)]
    pub(crate) asked: TargetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LogFilterArgs {
    /// Level or filter, such as info or info,sidegate_identity=debug; without it the present one is printed
    #[arg(value_name = "FILTER")]
    pub(crate) filter: Option<String>,
    #[command(flatten)]
    pub(crate) asked: TargetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub(crate) asked: TargetArgs,
    /// Return only when the sidecar has ended, as a preStop hook must
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {
    /// Of what
    #[arg(value_enum, default_value = "config")]
    pub(crate) of: ReferenceOf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ReferenceOf {
    /// Every key of the configuration: docs/reference/configuration.md
    Config,
    /// Every metric, span, attribute, event and reason: docs/reference/telemetry.md
    Telemetry,
    /// Every command and option: docs/reference/command-line.md
    CommandLine,
}

#[cfg(feature = "packaging")]
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum, value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(feature = "packaging")]
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder, which has to exist
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RedirectArgs {
    /// What to do
    #[arg(value_enum)]
    pub(crate) action: RedirectAction,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RedirectAction {
    /// Put the rules in place, atomically; again changes nothing
    Apply,
    /// Print the rules for review; needs no privilege
    Show,
    /// Compare what the kernel has with what is wanted: exit status 1 if it differs, 2 if that can't be found out
    Verify,
    /// Take the rules away
    Remove,
}

#[derive(Debug, Args)]
pub(crate) struct AuthorityArgs {
    /// Configuration file of the authority; see `sidegate schema authority`
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Which profile this is meant for; production refuses
    #[arg(long, value_enum, env = "SIDEGATE_PROFILE", default_value = "development")]
    pub(crate) profile: ProfileName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileName {
    /// For development and tests
    Development,
    /// For production
    Production,
}

#[cfg(feature = "development")]
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How to create pods
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) mode: DemoMode,
    /// Keep it running to play with, until Ctrl-C
    #[arg(long)]
    pub(crate) keep: bool,
    /// Show every handshake, not a selection
    #[arg(long)]
    pub(crate) all: bool,
    /// How long the traffic runs
    #[arg(long, value_name = "TIME", default_value = "6s", value_parser = Span::parse)]
    pub(crate) time: Span,
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
pub(crate) struct SchemaArgs {
    /// Of what
    #[arg(value_enum, default_value = "config")]
    pub(crate) of: SchemaOf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SchemaOf {
    /// The sidecar's configuration
    Config,
    /// A policy file
    Policy,
    /// A deny list of peers
    DenyList,
    /// A suite of expectations for `sidegate policy test`
    PolicyTest,
    /// A record of the audit log
    Audit,
    /// A line of the access log in JSON: the record of a connection
    AccessLog,
    /// A line of `sidegate connections --json`, with --watch or without
    Connections,
    /// What `sidegate status --json` prints
    Status,
    /// The embedded authority's configuration
    Authority,
}
