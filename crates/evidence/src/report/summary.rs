//! What the records of a period add up to.

use std::collections::BTreeMap;

use serde::Serialize;
use sidegate_audit::{ConnectionEntry, Event, FileDigest};
use sidegate_core::counted;

use crate::read::Record;
use crate::sentence::done;

/// Names and how often each came.
pub(super) type Counts = BTreeMap<String, u64>;

/// Time, and two columns of text.
pub(super) type Row = [String; 3];

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    /// Times of the first and the last record.
    pub(super) from: String,
    pub(super) until: String,
    pub(super) records: u64,
    /// The number of the last one.
    pub(super) last_seq: u64,
    pub(super) connections: ConnectionCounts,
    /// Admitted, by what allowed it.
    pub(super) admissions: Counts,
    /// By reason.
    pub(super) refusals: Counts,
    /// By rule.
    pub(super) denials: Counts,
    pub(super) tls: TlsCounts,
    pub(super) local_ids: Counts,
    pub(super) peers: Counts,
    /// Peers' chains by whether they were looked up in revocation lists.
    pub(super) revocation: Counts,
    pub(super) identity: IdentityCounts,
    pub(super) policies: Vec<Row>,
    pub(super) starts: Vec<Row>,
    /// Whether at any time of the period it was not sure that the kernel sends the pod's traffic to the sidecar.
    pub(super) uncaptured: bool,
    pub(super) admin: Vec<Row>,
    pub(super) secrets: u64,
    pub(super) missing: u64,
    /// Lines that are no record.
    pub(super) unreadable: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConnectionCounts {
    /// Over mutual TLS, in plaintext, or neither.
    pub(super) admitted: u64,
    pub(super) refused: u64,
    /// Of those that were admitted, in this period or before it.
    pub(super) ended: u64,
    /// TLS sessions that were made before a connection needed one.
    pub(super) made_ahead: u64,
    /// Of the refused ones those that a decision has refused.
    pub(super) denied: u64,
    pub(super) plaintext: u64,
    /// Admitted over mutual TLS.
    pub(super) mtls: u64,
    /// Of these the ones of which the SPIFFE IDs of both ends are known.
    pub(super) authenticated: u64,
    /// Admitted with a decision about the peer: of policy, or of the destination's `spiffeIds`. That a port's mode lets plaintext
    /// pass is none.
    #[serde(rename = "judged")]
    pub(super) authorized: u64,
}

/// By what an admitted connection was allowed.
fn decided_by(connection: &ConnectionEntry) -> &'static str {
    match connection.decision.as_ref().map(|decision| decision.rule.as_str()) {
        None => "nothing",
        Some(rule) if rule.starts_with("mode ") && !rule.ends_with(')') => "the port's mode",
        Some(rule) if rule.starts_with("outbound.otherwise") && !rule.ends_with(')') => "outbound.otherwise",
        // A rule of policy has its place behind its name.
        Some(rule) if rule.starts_with("destination ") && !rule.ends_with(')') => "the destination's spiffeIds",
        Some(_) => "policy",
    }
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TlsCounts {
    pub(super) versions: Counts,
    pub(super) ciphers: Counts,
    pub(super) groups: Counts,
    /// Handshakes with a key exchange of their own.
    pub(super) exchanges: u64,
    pub(super) post_quantum: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IdentityCounts {
    pub(super) received: u64,
    pub(super) rotated: u64,
    pub(super) lost: u64,
    pub(super) expired: u64,
    pub(super) bundles: u64,
}

impl TlsCounts {
    /// How many key exchanges were post-quantum, in words.
    pub(super) fn said(&self) -> String {
        let share = (self.post_quantum * 100).checked_div(self.exchanges).map_or_else(String::new, |percent| format!(" ({percent} %)"));
        format!("{} of {} post-quantum{share}", self.post_quantum, counted(self.exchanges, "key exchange"))
    }
}

impl Summary {
    fn admitted(&mut self, connection: &ConnectionEntry) {
        self.connections.admitted += 1;
        let mtls = connection.transport.as_deref() == Some("mtls");
        let both = connection.local_id.is_some() && connection.peer_id.is_some();
        self.connections.plaintext += u64::from(connection.transport.as_deref() == Some("plaintext"));
        self.connections.mtls += u64::from(mtls);
        self.connections.authenticated += u64::from(mtls && both);
        let by = decided_by(connection);
        self.connections.authorized += u64::from(matches!(by, "policy" | "the destination's spiffeIds"));
        count(&mut self.admissions, by);
        self.who(connection);
        self.handshake(connection);
    }

    /// Takes a record from before the period: only how things stood at its beginning counts.
    pub(super) fn before(&mut self, record: &Record) {
        match &record.event {
            Event::CaptureMissing { .. } => self.uncaptured = true,
            // A process that has to prove it says so at its first look.
            Event::CaptureProven {} | Event::ProcessStarted { .. } => self.uncaptured = false,
            _ => {}
        }
    }

    /// Takes one record more, in the order of the log.
    pub(super) fn add(&mut self, record: &Record) {
        if self.from.is_empty() {
            self.from.clone_from(&record.time);
        }
        self.until.clone_from(&record.time);
        self.records += 1;
        self.last_seq = self.last_seq.max(record.seq);
        let row = |what: String, more: String| [record.time.clone(), what, more];
        match &record.event {
            Event::ConnectionAdmitted { connection } => self.admitted(connection),
            Event::ConnectionEnded { connection, admitted } => {
                if !*admitted && connection.reason.as_deref() == Some("prepared") {
                    // It was never admitted as a connection.
                    self.connections.made_ahead += 1;
                    self.handshake(connection);
                    return;
                }
                self.connections.ended += 1;
                if *admitted {
                    self.admitted(connection);
                }
            }
            Event::ConnectionRefused { connection } => {
                self.connections.refused += 1;
                count(&mut self.refusals, connection.reason.as_deref().unwrap_or("unknown"));
                if let Some(decision) = connection.decision.as_ref().filter(|decision| !decision.allowed) {
                    self.connections.denied += 1;
                    count(&mut self.denials, &decision.rule);
                }
                self.handshake(connection);
            }
            Event::IdentityReceived { .. } => self.identity.received += 1,
            Event::IdentityRotated { .. } => self.identity.rotated += 1,
            Event::IdentityLost { expired, .. } => {
                self.identity.lost += 1;
                self.identity.expired += u64::from(*expired);
            }
            Event::BundleChanged { .. } => self.identity.bundles += 1,
            Event::PolicyLoaded { rules, files } => {
                self.policies.push(row(format!("in force: {}", counted(*rules, "rule")), digests(files)));
            }
            Event::PolicyRefused { files, why } => self.policies.push(row("refused".to_owned(), format!("{}: {why}", digests(files)))),
            Event::RevocationChanged { lists, denied, files } => {
                self.policies
                    .push(row(format!("revocation in force: {}, {}", counted(*lists, "list"), counted(*denied, "denial")), digests(files)));
            }
            Event::RevocationRefused { source, why } => {
                self.policies.push(row("revocation refused".to_owned(), format!("{source}: {why}")));
            }
            Event::IdentityRefused { source, why } => self.policies.push(row("identity refused".to_owned(), format!("{source}: {why}"))),
            Event::CaptureProven {} => self.starts.push(row("capture proven".to_owned(), String::new())),
            Event::CaptureMissing { why } => {
                self.uncaptured = true;
                self.starts.push(row("capture missing".to_owned(), why.clone()));
            }
            Event::ProcessStarted { version, profile, config, .. } => {
                self.starts.push(row(format!("started: version {version}, profile {profile}"), digests(std::slice::from_ref(config))));
            }
            Event::ProcessStopping { why } => self.starts.push(row(format!("stopping: {why}"), String::new())),
            Event::AdminAction { action, uid, detail, .. } => {
                self.admin.push(row(uid.to_string(), format!("{} {detail}", done(*action)).trim_end().to_owned()));
            }
            Event::SecretAccessed { .. } => self.secrets += 1,
            Event::SecretRefused { secret, place, why } => {
                self.policies.push(row("secret refused".to_owned(), format!("{secret}, {place}: {why}")));
            }
            Event::LogGap { missing } => self.missing = self.missing.saturating_add(*missing),
            Event::LogOpened { .. }
            | Event::LogResumed { .. }
            | Event::LogCheckpoint { .. }
            | Event::LogRetired { .. }
            | Event::LogSealed { .. } => {}
        }
    }

    fn who(&mut self, connection: &ConnectionEntry) {
        if let Some(id) = &connection.local_id {
            count(&mut self.local_ids, id);
        }
        count(&mut self.peers, connection.peer_id.as_deref().unwrap_or("none: plaintext"));
    }

    fn handshake(&mut self, connection: &ConnectionEntry) {
        // One that came on a session of another had no handshake.
        if connection.tunnel.as_deref() == Some("reused") {
            return;
        }
        let Some(tls) = &connection.tls else { return };
        // A peer that was refused after its handshake has no status any more.
        if connection.peer_id.is_some() {
            count(&mut self.revocation, connection.revocation.as_deref().unwrap_or("unknown"));
        }
        count(&mut self.tls.versions, &format!("TLS {}", tls.version));
        count(&mut self.tls.ciphers, &tls.cipher);
        if let Some(group) = &tls.group {
            count(&mut self.tls.groups, group);
            self.tls.exchanges += 1;
            self.tls.post_quantum += u64::from(group.contains("MLKEM"));
        }
    }
}

fn count(counts: &mut Counts, name: &str) {
    *counts.entry(name.to_owned()).or_default() += 1;
}

fn digests(files: &[FileDigest]) -> String {
    let all: Vec<String> = files.iter().map(|file| format!("{} SHA-256 {}", file.file, file.sha256)).collect();
    all.join("; ")
}
