//! The command line of `sidegate audit`.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Subcommand, ValueEnum};
use sidegate_config::value::{Id, Span};
use sidegate_core::SpiffeIdPattern;
use sidegate_evidence::filter;

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) command: AuditCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Find every change, removal, insertion and reordering, and say what is proved
    ///
    /// The first line is the verdict: PROVED, PARTLY PROVED, NOTHING PROVED or NOT INTACT. Exit status: 0 if all records are
    /// proved, but for the end of a log that is still written; 1 if not, or if something was found; 2 if the log can't be read.
    Verify(VerifyArgs),
    /// Show records
    Show(ShowArgs),
    /// Put the two ends of each connection side by side
    ///
    /// Exit status: 0 if the two logs agree about every connection that they share, 1 if not. What can have no other end in
    /// them is counted apart: what is no connection between the two workloads, was refused before its handshake was done, or is
    /// in plaintext.
    Join(JoinArgs),
    /// A compliance report of a period, from proved records
    ///
    /// Exit status as that of `verify`.
    Report(ReportArgs),
}

/// Which log.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The log's folder, or one of its files
    #[arg(value_name = "LOG")]
    pub(crate) log: PathBuf,
    /// An auditor's private key, as age-keygen writes it: decrypts, and checks MACs
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
}

/// By what a log is verified. Give who signed it, what was exported of it, or both; an auditor's key adds to these.
#[derive(Debug, Args)]
pub(crate) struct ProofArgs {
    /// Trust bundle of the signer's trust domain, PEM
    #[arg(long, value_name = "FILE", requires = "signer")]
    pub(crate) bundle: Option<PathBuf>,
    /// The workload whose log it is
    #[arg(long, value_name = "SPIFFE-ID", requires = "bundle", value_parser = Id::parse)]
    pub(crate) signer: Option<Id>,
    /// The configured signer's public key, PEM
    #[arg(long, value_name = "FILE", conflicts_with = "bundle")]
    pub(crate) public_key: Option<PathBuf>,
    /// Checkpoints that were exported; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) anchor: Vec<PathBuf>,
    /// How old records without a checkpoint may be in a log that is still written; longer than `audit.checkpoint.interval`
    #[arg(long, value_name = "SPAN", value_parser = Span::parse, default_value = DEFAULT_TAIL)]
    pub(crate) tail: Span,
    /// Accept a log that is not or only partly proved, if nothing contradicts it: anyone who can write to its files may have
    /// made it
    #[arg(long)]
    pub(crate) allow_unproved: bool,
}

/// What `--tail` is if it is not given.
pub(crate) const DEFAULT_TAIL: &str = "1h";

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) proof: ProofArgs,
    /// Print all of it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// From when until when.
#[derive(Debug, Args)]
pub(crate) struct PeriodArgs {
    /// Only from here on: RFC 3339, or how long ago, such as 24h
    #[arg(long, value_name = "TIME", value_parser = filter::moment)]
    pub(crate) since: Option<SystemTime>,
    /// Only before this
    #[arg(long, value_name = "TIME", value_parser = filter::moment)]
    pub(crate) until: Option<SystemTime>,
}

impl PeriodArgs {
    /// Its bounds.
    pub(crate) fn times(&self) -> sidegate_evidence::Period {
        sidegate_evidence::Period { since: self.since, until: self.until }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) period: PeriodArgs,
    /// Only events whose name begins so, such as connection.refused or admin
    #[arg(long, value_name = "NAME", value_parser = filter::event)]
    pub(crate) event: Vec<String>,
    /// Only connections with such a SPIFFE ID at the other end: a pattern as in policies, such as spiffe://prod.example/ns/*/sa/web
    #[arg(long, value_name = "SPIFFE-ID", value_parser = filter::peer)]
    pub(crate) peer: Option<SpiffeIdPattern>,
    /// Only this connection; the beginning of its ID is enough
    #[arg(long, value_name = "ID", value_parser = filter::connection)]
    pub(crate) connection: Option<String>,
    /// Only connections that ended for this reason
    #[arg(long, value_name = "REASON", value_parser = filter::reason)]
    pub(crate) reason: Option<String>,
    /// Continue with what is written, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The log of one end
    #[arg(value_name = "A")]
    pub(crate) a: PathBuf,
    /// The log of the other
    #[arg(value_name = "B")]
    pub(crate) b: PathBuf,
    /// An auditor's private key, as age-keygen writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) period: PeriodArgs,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) proof: ProofArgs,
    #[command(flatten)]
    pub(crate) period: PeriodArgs,
    /// In which form
    #[arg(long, value_enum, default_value = "markdown")]
    pub(crate) format: ReportFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// A text to read
    Markdown,
    /// A page to read and to print, without scripts and other files
    Html,
    /// For tools
    Json,
}
