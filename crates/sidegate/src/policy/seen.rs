//! Connections that were recorded: in an audit log, or in an access log, whose lines are JSON.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use sidegate_audit::Event;
use sidegate_core::{Direction, Reason, SpiffeId, counted, parse_canonical, without_controls};
use sidegate_evidence::Records;
use sidegate_policy::{PeerCertificate, Query, TlsFacts};

use crate::audit::keys;
use crate::cli::RecordedArgs;
use crate::output::complain;

/// A longer line is no record.
const MAX_LINE: u64 = 1 << 20;
/// How many unreadable lines are named.
const NAMED: usize = 5;

/// A connection that policy has decided.
#[derive(Debug)]
pub(super) struct RecordedConnection {
    id: String,
    pub(super) direction: Direction,
    pub(super) client: Option<SpiffeId>,
    client_address: IpAddr,
    pub(super) server: Option<SpiffeId>,
    pub(super) to: SocketAddr,
    sni: Option<String>,
    pub(super) destination: Option<String>,
    tls: Option<TlsFields>,
    /// Serial number of the peer's certificate, and its end in seconds since the epoch.
    certificate: Option<(String, i64)>,
    pub(super) time: SystemTime,
    /// What was decided.
    pub(super) allowed: bool,
    /// By which rule.
    pub(super) rule: String,
    /// Whether it was denied since no rule allowed it.
    pub(super) denied_by_default: bool,
}

/// What was found in files of records.
#[derive(Debug, Default)]
pub(super) struct ReadCounts {
    /// Connections that policy had decided.
    pub(super) seen: u64,
    /// Connections that did not get so far, or that the configuration alone decides about.
    pub(super) undecided: u64,
    /// Lines of JSON that are something else.
    pub(super) others: u64,
    /// Lines that can't be read.
    pub(super) unreadable: u64,
}

/// The parts of a record that matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordFields {
    connection_id: String,
    time: String,
    direction: String,
    downstream: SocketAddr,
    original_destination: Option<SocketAddr>,
    destination: Option<String>,
    local_id: Option<String>,
    peer_id: Option<String>,
    peer_certificate: Option<CertificateFields>,
    tls: Option<TlsFields>,
    decision: Option<DecisionFields>,
    /// None while it goes on.
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct DecisionFields {
    allowed: bool,
    rule: String,
}

#[derive(Debug, Deserialize)]
struct TlsFields {
    version: String,
    group: Option<String>,
    sni: Option<String>,
    resumed: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CertificateFields {
    serial: String,
    not_after: Option<String>,
}

/// What a line is.
enum LineContent {
    Connection(Box<RecordedConnection>),
    Undecided,
    Other,
}

/// Passes each recorded connection to `take`. Unreadable lines are counted and named.
///
/// # Errors
/// A file can't be read, or there is no connection in any.
pub(super) fn read(recorded: &RecordedArgs, mut take: impl FnMut(RecordedConnection)) -> Result<ReadCounts> {
    let mut reading = ReadCounts::default();
    let mut known = HashSet::new();
    let keys = keys(recorded.identity.as_deref())?;
    for path in &recorded.audit {
        let mut count = |number: u64, line: Result<LineContent>| match line {
            // An audit log has a connection when it is admitted and when it ends, and two logs may both have it. The ID is chosen
            // by the peer: another peer may use the same.
            Ok(LineContent::Connection(seen)) => {
                if known.insert((seen.id.clone(), seen.direction == Direction::Inbound, seen.client.clone(), seen.server.clone())) {
                    reading.seen += 1;
                    take(*seen);
                }
            }
            Ok(LineContent::Undecided) => reading.undecided += 1,
            Ok(LineContent::Other) => reading.others += 1,
            Err(error) => {
                reading.unreadable += 1;
                if reading.unreadable <= NAMED as u64 {
                    complain(&without_controls(&format!("warning: {}:{number}: left out: {error:#}", path.display())));
                }
            }
        };
        if is_audit_log(path)? {
            for (number, record) in (1..).zip(Records::of(path, &keys)?) {
                count(number, record.map_err(anyhow::Error::from).and_then(|record| audited(&record.event)));
            }
        } else {
            each_line(path, |number, text| count(number, text.and_then(|text| line(&text))))?;
        }
    }
    if reading.unreadable > NAMED as u64 {
        err!("warning: {} further lines are left out", reading.unreadable - NAMED as u64);
    }
    if reading.seen == 0 {
        bail!(
            "there is no connection that policy had decided among what was read: {reading}; see that it is an audit log (with `--identity` if it is encrypted) or an access log in JSON"
        );
    }
    Ok(reading)
}

impl std::fmt::Display for ReadCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seen, undecided, others, unreadable } = self;
        let (seen, others) = (counted(*seen, "connection"), counted(*others, "other line"));
        write!(f, "{seen}, {undecided} that policy had not decided, {others}, {unreadable} unreadable")
    }
}

/// Whether there is an audit log at `path`: a folder, or a file whose first line is a record of one.
fn is_audit_log(path: &Path) -> Result<bool> {
    let unreadable = || format!("{} can't be read", path.display());
    if std::fs::metadata(path).with_context(unreadable)?.is_dir() {
        return Ok(true);
    }
    let mut first = Vec::new();
    BufReader::new(File::open(path).with_context(unreadable)?).take(MAX_LINE).read_until(b'\n', &mut first).with_context(unreadable)?;
    let value: Value = serde_json::from_slice(&first).unwrap_or_default();
    Ok(value["seq"].is_u64() && value["event"].is_string())
}

/// What an audit record is.
fn audited(event: &Event) -> Result<LineContent> {
    match event {
        Event::ConnectionAdmitted { connection } | Event::ConnectionEnded { connection, .. } | Event::ConnectionRefused { connection } => {
            connected(serde_json::to_value(connection)?)
        }
        _ => Ok(LineContent::Other),
    }
}

fn each_line(path: &Path, mut take: impl FnMut(u64, Result<String>)) -> Result<()> {
    let unreadable = || format!("{} can't be read", path.display());
    let mut reader = BufReader::new(File::open(path).with_context(unreadable)?);
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).with_context(unreadable)?;
        if read == 0 {
            break;
        }
        if bytes.last() != Some(&b'\n') && read as u64 == MAX_LINE {
            // The rest of the line is passed over, as bounded as its beginning was.
            while bytes.last() != Some(&b'\n') && !bytes.is_empty() {
                bytes.clear();
                reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).with_context(unreadable)?;
            }
            take(number, Err(anyhow::anyhow!("the line has more than {MAX_LINE} bytes")));
        } else if !bytes.trim_ascii().is_empty() {
            take(number, String::from_utf8(bytes.clone()).context("the line is not UTF-8"));
        }
    }
    Ok(())
}

fn line(text: &str) -> Result<LineContent> {
    let mut value: Value = serde_json::from_str(text).context("the line is not JSON")?;
    // A line of an audit log, as a collector stores it.
    connected(if value["connection"].is_object() { value["connection"].take() } else { value })
}

fn connected(record: Value) -> Result<LineContent> {
    if record.get("connectionId").is_none() || record.get("direction").is_none() {
        return Ok(LineContent::Other);
    }
    let record: RecordFields = serde_json::from_value(record).context("it is not a connection's record")?;
    Ok(record.decided()?.map_or(LineContent::Undecided, |seen| LineContent::Connection(Box::new(seen))))
}

fn time(text: &str) -> Result<SystemTime> {
    humantime::parse_rfc3339(text).with_context(|| format!("`{text}` is no time"))
}

/// Since the epoch, before which no time is read.
fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

impl RecordFields {
    /// The connection; none if policy did not decide about it.
    fn decided(self) -> Result<Option<RecordedConnection>> {
        let (Some(decision), Some(to)) = (self.decision, self.original_destination) else { return Ok(None) };
        // No connection, or one about which the configuration decides.
        let elsewhere = [Reason::Prepared, Reason::UnexpectedPeer, Reason::NotInMesh].iter().any(|reason| reason.label() == self.reason);
        let direction = match self.direction.as_str() {
            "inbound" => Direction::Inbound,
            "outbound" => Direction::Outbound,
            other => bail!("`{other}` is no direction"),
        };
        if elsewhere || (direction == Direction::Outbound && self.destination.is_none()) {
            return Ok(None);
        }
        let id = |text: Option<String>| text.map(|text| parse_canonical(&text).map_err(|e| anyhow::anyhow!("`{text}`: {e}"))).transpose();
        let (local, peer) = (id(self.local_id)?, id(self.peer_id)?);
        let (client, server) = if direction == Direction::Inbound { (peer, local) } else { (local, peer) };
        let certificate = match self.peer_certificate {
            Some(CertificateFields { serial, not_after: Some(end) }) => Some((serial, seconds(time(&end)?))),
            _ => None,
        };
        Ok(Some(RecordedConnection {
            id: self.connection_id,
            direction,
            client,
            client_address: self.downstream.ip(),
            server,
            to,
            sni: self.tls.as_ref().and_then(|tls| tls.sni.clone()),
            destination: self.destination,
            tls: self.tls,
            certificate,
            time: time(&self.time)?,
            allowed: decision.allowed,
            rule: decision.rule,
            denied_by_default: self.reason == Reason::DeniedByDefault.label(),
        }))
    }
}

impl RecordedConnection {
    /// The connection as policy sees it.
    pub(super) fn query(&self) -> Query<'_> {
        Query {
            direction: self.direction,
            client: self.client.as_ref(),
            client_address: self.client_address,
            server: self.server.as_ref(),
            to: self.to,
            sni: self.sni.as_deref(),
            destination: self.destination.as_deref(),
            tls: self.tls.as_ref().map(|t| TlsFacts { version: &t.version, group: t.group.as_deref(), resumed: t.resumed }),
            certificate: self.certificate.as_ref().map(|(serial, not_after)| PeerCertificate { serial, not_after: *not_after }),
            time: self.time,
        }
    }

    /// The client, human-readable.
    pub(super) fn who(&self) -> String {
        self.client.as_ref().map_or_else(|| format!("plaintext from {}", self.client_address.to_canonical()), ToString::to_string)
    }
}
