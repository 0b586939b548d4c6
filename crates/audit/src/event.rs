//! What is recorded: the events of the log, by which it is written and read, and of which its JSON Schema is made.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidegate_core::{CertificateFacts, ConnectionRecord, rfc3339};

use crate::admitted::Admitted;
use crate::connection::ConnectionEntry;

/// The version of the format. Within a version fields may be added, none changes or goes.
pub const VERSION: u32 = 1;

/// An event on its way into the log.
pub type NewEvent = Event<ConnectionFacts>;

/// What is known of a connection when its record is written.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum ConnectionFacts {
    /// When it is admitted.
    Admitted(Box<Admitted>),
    /// When it has ended.
    Ended(Arc<ConnectionRecord>),
}

/// A security event. `C` is what is told of a connection: [`ConnectionFacts`] to write, [`ConnectionEntry`] to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all_fields = "camelCase")]
pub enum Event<C = ConnectionEntry> {
    /// A connection was admitted: its handshake, its peer and the decision; or that it is plaintext.
    #[serde(rename = "connection.admitted")]
    ConnectionAdmitted {
        /// What is known of it so far.
        connection: C,
    },
    /// A connection that had been admitted has ended, or a session was made in advance.
    #[serde(rename = "connection.ended")]
    ConnectionEnded {
        /// All of it.
        connection: C,
        /// It was admitted only just before, and no record of its own says so: this one stands for both.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        admitted: bool,
    },
    /// A connection was not admitted: by its handshake, by policy, by a limit.
    #[serde(rename = "connection.refused")]
    ConnectionRefused {
        /// All of it; `reason` says why.
        connection: C,
    },
    /// The first X.509-SVID of this run, or the first after there was none.
    #[serde(rename = "identity.received")]
    IdentityReceived {
        /// The SVID.
        svid: SvidFacts,
    },
    /// Another X.509-SVID took the place of the last.
    #[serde(rename = "identity.rotated")]
    IdentityRotated {
        /// The SVID.
        svid: SvidFacts,
        /// Serial number of the last one.
        previous_serial: String,
    },
    /// There is no valid X.509-SVID any more.
    #[serde(rename = "identity.lost")]
    IdentityLost {
        /// The last one.
        svid: SvidFacts,
        /// Whether it has expired; else it was withdrawn.
        expired: bool,
    },
    /// The trust bundle of a trust domain came, changed or went.
    #[serde(rename = "bundle.changed")]
    BundleChanged {
        /// Whose.
        trust_domain: String,
        /// How many CA certificates it has now; 0 if it is gone.
        authorities: u64,
        /// SHA-256 of their DER, one after the other; none if it is gone.
        sha256: Option<String>,
    },
    /// The policy that is in force from now on.
    #[serde(rename = "policy.loaded")]
    PolicyLoaded {
        /// How many rules.
        rules: u64,
        /// Its files.
        files: Vec<FileDigest>,
    },
    /// Policy files that can't be used; the last good policy stays.
    #[serde(rename = "policy.refused")]
    PolicyRefused {
        /// The files, as far as they could be read.
        files: Vec<FileDigest>,
        /// Why.
        #[serde(default)]
        why: String,
    },
    /// Revocation lists or deny lists that are in force from now on.
    #[serde(rename = "revocation.changed")]
    RevocationChanged {
        /// How many revocation lists.
        lists: u64,
        /// How many entries the deny lists have.
        denied: u64,
        /// What was read and fetched.
        files: Vec<FileDigest>,
    },
    /// A revocation list or deny list that can't be used; what was known before stays in force.
    #[serde(rename = "revocation.refused")]
    RevocationRefused {
        /// Its file or URL.
        source: String,
        /// Why.
        why: String,
    },
    /// What an identity source offers can't be used; the last good SVID and bundles stay while they are valid.
    #[serde(rename = "identity.refused")]
    IdentityRefused {
        /// The source.
        source: String,
        /// Why.
        why: String,
    },
    /// The kernel rules of this configuration are in place: the pod's traffic goes through this sidecar.
    #[serde(rename = "capture.proven")]
    CaptureProven {},
    /// They are not: traffic may pass this sidecar by.
    #[serde(rename = "capture.missing")]
    CaptureMissing {
        /// Which, and what to do.
        why: String,
    },
    /// The process has started, with this configuration.
    #[serde(rename = "process.started")]
    ProcessStarted {
        /// sidegate's version.
        version: String,
        /// Its process ID.
        pid: u32,
        /// The configuration's profile.
        profile: String,
        /// The configuration file.
        config: FileDigest,
        /// SHA-256 of the configuration as it is understood, secrets redacted.
        effective_sha256: String,
    },
    /// The process was told to end, or ends by itself.
    #[serde(rename = "process.stopping")]
    ProcessStopping {
        /// Why: a signal, the admin API, an error.
        why: String,
    },
    /// Somebody did something over the admin API.
    #[serde(rename = "admin.action")]
    AdminAction {
        /// What: `cut`, `drain`, `log_filter` or `config_read`.
        action: AdminAction,
        /// User ID of who did it; -1 if the kernel did not say.
        uid: i64,
        /// Process ID.
        pid: i64,
        /// What exactly.
        detail: String,
    },
    /// A secret was read.
    #[serde(rename = "secret.accessed")]
    SecretAccessed {
        /// Which: what it is for.
        secret: String,
        /// Where it is: a file, a source, a key of the configuration.
        place: String,
    },
    /// A file with a secret that can't be read.
    #[serde(rename = "secret.refused")]
    SecretRefused {
        /// Which: what it is for.
        secret: String,
        /// The file.
        place: String,
        /// Why.
        why: String,
    },
    /// A file of the log begins: always its first record.
    #[serde(rename = "log.opened")]
    LogOpened {
        /// The file's name; none where the log is in no file.
        file: Option<String>,
        /// The run of the process, 16 random bytes.
        run: String,
        /// The epoch whose key authenticates this record.
        epoch: u64,
        /// The first key of the run in age's format, base64, for the auditors.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sealed_key: Option<String>,
        /// After how many records what is written is on the disk.
        sync_records: u64,
        /// And after how many milliseconds.
        sync_millis: u64,
    },
    /// The log goes on after a process that did not close it.
    #[serde(rename = "log.resumed")]
    LogResumed {
        /// The file that was not closed.
        file: String,
        /// The last record of it that is whole and linked.
        last_seq: u64,
        /// Bytes behind it that are no part of the log, and were moved to the side note.
        bytes_cut: u64,
        /// The file in which these bytes are now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        side_note: Option<String>,
        /// What else may be missing: what had not been written, or was not on the disk.
        note: String,
    },
    /// How far the log is, signed. The next record belongs to the next epoch.
    #[serde(rename = "log.checkpoint")]
    LogCheckpoint {
        /// The run of the process.
        run: String,
        /// The epoch that ends here.
        epoch: u64,
        /// Why now.
        cause: CheckpointCause,
        /// Whose signature ends this record; none before the first SVID.
        signer: Option<Signer>,
    },
    /// Records are missing here: they could not be written.
    #[serde(rename = "log.gap")]
    LogGap {
        /// How many.
        missing: u64,
    },
    /// A file of the log is deleted, as `retain` says.
    #[serde(rename = "log.retired")]
    LogRetired {
        /// Its name.
        file: String,
        /// Its last record.
        last_seq: u64,
        /// SHA-256 of that.
        last_hash: String,
    },
    /// Encrypted records. `seq` is the first one's; they follow each other.
    #[serde(rename = "log.sealed")]
    LogSealed {
        /// How many.
        records: u64,
        /// The records, one a line, in age's format, base64.
        age: String,
    },
}

/// The names of all events, as they stand in the log.
pub const NAMES: &[&str] = &[
    "connection.admitted",
    "connection.ended",
    "connection.refused",
    "identity.received",
    "identity.rotated",
    "identity.lost",
    "bundle.changed",
    "policy.loaded",
    "policy.refused",
    "revocation.changed",
    "revocation.refused",
    "identity.refused",
    "capture.proven",
    "capture.missing",
    "process.started",
    "process.stopping",
    "admin.action",
    "secret.accessed",
    "secret.refused",
    "log.opened",
    "log.resumed",
    "log.checkpoint",
    "log.gap",
    "log.retired",
    "log.sealed",
];

impl<C> Event<C> {
    /// The name by which it stands in the log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::ConnectionAdmitted { .. } => "connection.admitted",
            Self::ConnectionEnded { .. } => "connection.ended",
            Self::ConnectionRefused { .. } => "connection.refused",
            Self::IdentityReceived { .. } => "identity.received",
            Self::IdentityRotated { .. } => "identity.rotated",
            Self::IdentityLost { .. } => "identity.lost",
            Self::BundleChanged { .. } => "bundle.changed",
            Self::PolicyLoaded { .. } => "policy.loaded",
            Self::PolicyRefused { .. } => "policy.refused",
            Self::RevocationChanged { .. } => "revocation.changed",
            Self::RevocationRefused { .. } => "revocation.refused",
            Self::IdentityRefused { .. } => "identity.refused",
            Self::CaptureProven {} => "capture.proven",
            Self::CaptureMissing { .. } => "capture.missing",
            Self::ProcessStarted { .. } => "process.started",
            Self::ProcessStopping { .. } => "process.stopping",
            Self::AdminAction { .. } => "admin.action",
            Self::SecretAccessed { .. } => "secret.accessed",
            Self::SecretRefused { .. } => "secret.refused",
            Self::LogOpened { .. } => "log.opened",
            Self::LogResumed { .. } => "log.resumed",
            Self::LogCheckpoint { .. } => "log.checkpoint",
            Self::LogGap { .. } => "log.gap",
            Self::LogRetired { .. } => "log.retired",
            Self::LogSealed { .. } => "log.sealed",
        }
    }

    /// Whether it tells of the log itself. Such records are never encrypted, so that the chain can be verified without a key.
    #[must_use]
    pub fn is_of_the_log(&self) -> bool {
        self.name().starts_with("log.")
    }

    /// The connection that it tells of.
    #[must_use]
    pub fn connection(&self) -> Option<&C> {
        match self {
            Self::ConnectionAdmitted { connection } | Self::ConnectionEnded { connection, .. } | Self::ConnectionRefused { connection } => {
                Some(connection)
            }
            _ => None,
        }
    }
}

/// Why a checkpoint is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointCause {
    /// It was time.
    Timer,
    /// The first SVID is there, so that what came before is signed.
    Identity,
    /// The file ends.
    Rotation,
    /// Old files are about to be deleted, as the records before it say.
    Retention,
    /// The log is closed.
    Shutdown,
}

/// What somebody did over the admin API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdminAction {
    /// Connections were cut.
    Cut,
    /// The drain was started.
    Drain,
    /// The log filter was changed.
    LogFilter,
    /// The configuration was read, secrets redacted.
    ConfigRead,
}

/// Whose signature a checkpoint has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Signer {
    /// The SPIFFE ID, where the key is an X.509-SVID's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// The SVID's chain, leaf first, DER in base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// The public key, where it is a configured one: SubjectPublicKeyInfo, DER in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// The signature scheme by its IANA number (RFC 8446 §4.2.3).
    pub scheme: u16,
}

impl Signer {
    /// Its name: the SPIFFE ID, or the digest of the bare key. What it says, not what is proved.
    #[must_use]
    pub fn name(&self) -> String {
        match (&self.spiffe_id, &self.public_key) {
            (Some(id), _) => id.clone(),
            (None, Some(key)) => format!("key with SHA-256 {}", crate::hex::sha256_hex(key.as_bytes())),
            (None, None) => "nobody".to_owned(),
        }
    }
}

/// An X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SvidFacts {
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// SHA-256 of its DER.
    pub sha256: String,
    /// Since when it is valid, RFC 3339; null for a time before 1970.
    pub not_before: Option<String>,
    /// Until when it is valid.
    pub not_after: Option<String>,
}

impl SvidFacts {
    /// Of a certificate.
    #[must_use]
    pub fn new(spiffe_id: String, facts: &CertificateFacts) -> Self {
        let (not_before, not_after) = (rfc3339(facts.not_before), rfc3339(facts.not_after));
        Self { spiffe_id, serial: facts.serial.clone(), sha256: facts.sha256(), not_before, not_after }
    }
}

/// A file by what it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileDigest {
    /// Its path.
    pub file: String,
    /// SHA-256 of its text.
    pub sha256: String,
}

impl FileDigest {
    /// Of a file with this text.
    #[must_use]
    pub fn new(file: &str, text: &[u8]) -> Self {
        Self { file: file.to_owned(), sha256: crate::hex::sha256_hex(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_its_name() {
        let schema = serde_json::to_value(schemars::schema_for!(Event)).unwrap();
        let of_schema: Vec<&str> =
            schema["oneOf"].as_array().unwrap().iter().map(|event| event["properties"]["event"]["const"].as_str().unwrap()).collect();
        assert_eq!(NAMES, of_schema);
    }
}
