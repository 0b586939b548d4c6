//! The audit log: where its records go, how long they stay, and what happens when they can't be written.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::telemetry::CollectorTls;
use crate::path_use::{AppendPath, FolderPath, SecretPath};
use crate::value::{AgeRecipient, HostPort, Span};

/// A tamper-evident record of every security event. Without `file` and `copies` there is none.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Audit {
    /// The log itself, in files of one folder.
    pub file: Option<LogFiles>,
    /// Where every record goes too, once it is in the file.
    pub copies: Vec<Destination>,
    /// Where every checkpoint goes too, and the beginning of every run: kept out of reach of this host, they prove that nothing
    /// was cut off or replaced.
    pub anchors: Vec<Destination>,
    /// Signed statements of how far the log is.
    pub checkpoint: Checkpoint,
    /// Public keys of auditors (`age1…`). To each the first key of every run is sealed, by which its records can be checked.
    pub auditors: Vec<AgeRecipient>,
    /// How many records may wait to be written. Default 8192. Where something blocks, new connections are refused when half of
    /// it is taken; the other half is for those that end.
    #[schemars(range(min = 16, max = 1_000_000))]
    pub queue: u32,
}

impl Default for Audit {
    fn default() -> Self {
        Self { file: None, copies: Vec::new(), anchors: Vec::new(), checkpoint: Checkpoint::default(), auditors: Vec::new(), queue: 8192 }
    }
}

impl Audit {
    /// Whether there is an audit log at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.file.is_some() || !self.copies.is_empty()
    }
}

/// The log itself.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogFiles {
    /// The folder; it is created if it is missing. No other user may write to it.
    #[schemars(with = "FolderPath")]
    pub folder: PathBuf,
    /// What a full disk means. Default: block-new-connections.
    #[serde(default = "block")]
    pub on_failure: OnFailure,
    /// When what is written is also on the disk.
    #[serde(default)]
    pub sync: Sync,
    /// When a new file begins.
    #[serde(default)]
    pub rotate: Rotate,
    /// When old files are deleted.
    #[serde(default)]
    pub retain: Retain,
    /// Whether the records are encrypted to the `auditors`, in age's format. The chain can be verified without a key.
    #[serde(default)]
    pub encrypt: bool,
}

fn block() -> OnFailure {
    OnFailure::BlockNewConnections
}

/// What it means that records can't be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// New connections are refused until records can be written again.
    BlockNewConnections,
    /// Records are dropped and counted, and the next one that is written says how many are missing.
    #[default]
    DropAndCount,
}

/// The unsynced window: what a power failure may cost.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sync {
    /// After this many records. Default 1024.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub records: u32,
    /// And after this long. Default 1s.
    pub interval: Span,
}

impl Default for Sync {
    fn default() -> Self {
        Self { records: 1024, interval: Span::seconds(1) }
    }
}

/// When a new file begins.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rotate {
    /// When the file is this large. Default 67108864: 64 MiB.
    #[schemars(range(min = 4096))]
    pub bytes: u64,
    /// When it is this old. Default 24h.
    pub age: Span,
}

impl Default for Rotate {
    fn default() -> Self {
        Self { bytes: 64 * 1024 * 1024, age: Span::seconds(86_400) }
    }
}

/// When old files are deleted; the first limit that is reached counts. The file that is being written stays, and the log says
/// what was deleted.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retain {
    /// As many files as this stay. Default: all.
    #[schemars(range(min = 1))]
    pub files: Option<u32>,
    /// As many bytes as this stay. Default: all.
    #[schemars(range(min = 4096))]
    pub bytes: Option<u64>,
    /// A file goes this long after it was last written. Default: never.
    pub age: Option<Span>,
}

/// Signed statements of how far the log is.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Checkpoint {
    /// How long records wait for one. Default 1m. One is also made with the first SVID, when a file ends, and at the end.
    pub interval: Span,
    /// PEM file with the private key that signs. Default: the key of our X.509-SVID, which goes along with its chain.
    #[schemars(with = "Option<SecretPath>")]
    pub key: Option<PathBuf>,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { interval: Span(Duration::from_secs(60)), key: None }
    }
}

/// Where copies go; exactly one of `file`, `stdout`, `syslog` and `otlp` is set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Destination {
    /// A file that is only ever appended to.
    #[schemars(with = "Option<AppendPath>")]
    pub file: Option<PathBuf>,
    /// Standard output; the access log must be off, or their lines would mix.
    pub stdout: bool,
    /// Syslog by RFC 5424 over TLS (RFC 5425), as SIEMs take it.
    pub syslog: Option<Syslog>,
    /// The collector of log records, `telemetry.logs`. What is lost on that way is counted there, so it can't block.
    pub otlp: bool,
    /// What it means that it takes no more. Default: drop-and-count.
    pub on_failure: OnFailure,
    /// How many records may wait for it. Default 8192, and 32 for anchors, which are few. Where it blocks, it does so when half
    /// of it is taken.
    #[schemars(range(min = 16, max = 1_000_000))]
    pub queue: Option<u32>,
}

/// A syslog collector.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Syslog {
    /// Its host and port, usually 6514.
    pub to: HostPort,
    /// TLS 1.3 towards it.
    #[serde(default)]
    pub tls: CollectorTls,
}
