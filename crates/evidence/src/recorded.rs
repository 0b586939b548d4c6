//! Connections that were recorded: in an audit log, or in an access log, whose lines are JSON.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;
use sidegate_audit::Event;
use sidegate_core::{Direction, Reason, SpiffeId, counted, parse_canonical, without_controls};

use crate::decryption::AuditorKeys;
use crate::read::{ReadError, Records};

/// A longer line is no record.
const MAX_LINE: u64 = 1 << 20;
/// How many unreadable lines are named.
const NAMED: usize = 5;

/// A connection that policy has decided.
#[derive(Debug)]
pub struct RecordedConnection {
    id: String,
    /// As the workload sees it.
    pub direction: Direction,
    /// Who connected; none in plaintext.
    pub client: Option<SpiffeId>,
    /// The address that they connected from.
    pub client_address: IpAddr,
    /// Who answered.
    pub server: Option<SpiffeId>,
    /// Where they wanted to go.
    pub to: SocketAddr,
    /// The configured destination, if the connection is from the workload.
    pub destination: Option<String>,
    /// The handshake; none in plaintext.
    pub tls: Option<RecordedTls>,
    /// The peer's certificate.
    pub certificate: Option<RecordedCertificate>,
    /// When it began.
    pub time: SystemTime,
    /// What was decided.
    pub allowed: bool,
    /// By which rule.
    pub rule: String,
    /// Whether it was denied since no rule allowed it.
    pub denied_by_default: bool,
}

/// A recorded handshake.
#[derive(Debug, Deserialize)]
pub struct RecordedTls {
    /// The protocol's version.
    pub version: String,
    /// The group of the key exchange.
    pub group: Option<String>,
    /// The server name that was asked for.
    pub sni: Option<String>,
    /// Whether a session was resumed.
    pub resumed: bool,
}

/// A recorded certificate.
#[derive(Debug)]
pub struct RecordedCertificate {
    /// Its serial number.
    pub serial: String,
    /// Its end in seconds since the epoch.
    pub not_after: i64,
}

/// What was found in files of records.
#[derive(Debug, Default)]
pub struct ReadCounts {
    /// Connections that policy had decided.
    pub seen: u64,
    /// Connections that did not get so far, or that the configuration alone decides about.
    pub undecided: u64,
    /// Lines of JSON that are something else.
    pub others: u64,
    /// Lines that can't be read.
    pub unreadable: u64,
}

/// Why recorded connections can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    /// The system refuses.
    #[error("{0} can't be read")]
    File(PathBuf, #[source] io::Error),
    /// It is an audit log, and can't be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// There is none.
    #[error(
        "there is no connection that policy had decided among what was read: {0}; see that it is an audit log (with `--identity` if it is encrypted) or an access log in JSON"
    )]
    None(ReadCounts),
}

/// Why a line is left out.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("the line has more than {MAX_LINE} bytes")]
    TooLong,
    #[error("the line is not UTF-8: {0}")]
    NotUtf8(#[from] std::string::FromUtf8Error),
    #[error("the line is not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("it is not a connection's record: {0}")]
    NoRecord(serde_json::Error),
    #[error("`{0}` is no direction")]
    Direction(String),
    #[error("`{0}` is no time: {1}")]
    Time(String, humantime::TimestampError),
    #[error("`{0}`: {1}")]
    Id(String, String),
    #[error("{}", with_causes(.0))]
    Record(ReadError),
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
    tls: Option<RecordedTls>,
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

/// Passes each connection that is recorded at `paths` to `take`. Unreadable lines are counted, and the first of them named to `warn`.
///
/// # Errors
/// A file can't be read, or there is no connection in any.
pub fn read_connections(
    paths: &[PathBuf],
    keys: &AuditorKeys,
    mut warn: impl FnMut(&str),
    mut take: impl FnMut(RecordedConnection),
) -> Result<ReadCounts, RecordedError> {
    let mut reading = ReadCounts::default();
    let mut known = HashSet::new();
    for path in paths {
        let mut count = |number: u64, line: Result<LineContent, LineError>| match line {
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
                    warn(&without_controls(&format!("{}:{number}: left out: {error}", path.display())));
                }
            }
        };
        if is_audit_log(path)? {
            for (number, record) in (1..).zip(Records::of(path, keys)?) {
                count(number, record.map_err(LineError::Record).and_then(|record| audited(&record.event)));
            }
        } else {
            each_line(path, |number, text| count(number, text.and_then(|text| line(&text))))?;
        }
    }
    if reading.unreadable > NAMED as u64 {
        warn(&format!("{} further lines are left out", reading.unreadable - NAMED as u64));
    }
    if reading.seen == 0 { Err(RecordedError::None(reading)) } else { Ok(reading) }
}

/// An error and what has caused it, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl std::fmt::Display for ReadCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seen, undecided, others, unreadable } = self;
        let (seen, others) = (counted(*seen, "connection"), counted(*others, "other line"));
        write!(f, "{seen}, {undecided} that policy had not decided, {others}, {unreadable} unreadable")
    }
}

/// Whether there is an audit log at `path`: a folder, or a file whose first line is a record of one.
fn is_audit_log(path: &Path) -> Result<bool, RecordedError> {
    let unreadable = |error| RecordedError::File(path.to_owned(), error);
    if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(true);
    }
    let mut first = Vec::new();
    BufReader::new(File::open(path).map_err(unreadable)?).take(MAX_LINE).read_until(b'\n', &mut first).map_err(unreadable)?;
    let value: Value = serde_json::from_slice(&first).unwrap_or_default();
    Ok(value["seq"].is_u64() && value["event"].is_string())
}

/// What an audit record is.
fn audited(event: &Event) -> Result<LineContent, LineError> {
    match event {
        Event::ConnectionAdmitted { connection } | Event::ConnectionEnded { connection, .. } | Event::ConnectionRefused { connection } => {
            connected(serde_json::to_value(connection).map_err(LineError::NoRecord)?)
        }
        _ => Ok(LineContent::Other),
    }
}

fn each_line(path: &Path, mut take: impl FnMut(u64, Result<String, LineError>)) -> Result<(), RecordedError> {
    let unreadable = |error| RecordedError::File(path.to_owned(), error);
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        if bytes.last() != Some(&b'\n') && read as u64 == MAX_LINE {
            // The rest of the line is passed over, as bounded as its beginning was.
            while bytes.last() != Some(&b'\n') && !bytes.is_empty() {
                bytes.clear();
                reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(unreadable)?;
            }
            take(number, Err(LineError::TooLong));
        } else if !bytes.trim_ascii().is_empty() {
            take(number, String::from_utf8(bytes.clone()).map_err(LineError::from));
        }
    }
    Ok(())
}

fn line(text: &str) -> Result<LineContent, LineError> {
    let mut value: Value = serde_json::from_str(text).map_err(LineError::NotJson)?;
    // A line of an audit log, as a collector stores it.
    connected(if value["connection"].is_object() { value["connection"].take() } else { value })
}

fn connected(record: Value) -> Result<LineContent, LineError> {
    if record.get("connectionId").is_none() || record.get("direction").is_none() {
        return Ok(LineContent::Other);
    }
    let record: RecordFields = serde_json::from_value(record).map_err(LineError::NoRecord)?;
    Ok(record.decided()?.map_or(LineContent::Undecided, |seen| LineContent::Connection(Box::new(seen))))
}

fn time(text: &str) -> Result<SystemTime, LineError> {
    humantime::parse_rfc3339(text).map_err(|error| LineError::Time(text.to_owned(), error))
}

/// Since the epoch, before which no time is read.
fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

impl RecordFields {
    /// The connection; none if policy did not decide about it.
    fn decided(self) -> Result<Option<RecordedConnection>, LineError> {
        let (Some(decision), Some(to)) = (self.decision, self.original_destination) else { return Ok(None) };
        // No connection, or one about which the configuration decides.
        let elsewhere = [Reason::Prepared, Reason::UnexpectedPeer, Reason::NotInMesh].iter().any(|reason| reason.label() == self.reason);
        let direction = match self.direction.as_str() {
            "inbound" => Direction::Inbound,
            "outbound" => Direction::Outbound,
            other => return Err(LineError::Direction(other.to_owned())),
        };
        if elsewhere || (direction == Direction::Outbound && self.destination.is_none()) {
            return Ok(None);
        }
        let id = |text: Option<String>| text.map(|text| parse_canonical(&text).map_err(|error| LineError::Id(text, error))).transpose();
        let (local, peer) = (id(self.local_id)?, id(self.peer_id)?);
        let (client, server) = if direction == Direction::Inbound { (peer, local) } else { (local, peer) };
        let certificate = match self.peer_certificate {
            Some(CertificateFields { serial, not_after: Some(end) }) => {
                Some(RecordedCertificate { serial, not_after: seconds(time(&end)?) })
            }
            _ => None,
        };
        Ok(Some(RecordedConnection {
            id: self.connection_id,
            direction,
            client,
            client_address: self.downstream.ip(),
            server,
            to,
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
    /// The server name that was asked for.
    #[must_use]
    pub fn sni(&self) -> Option<&str> {
        self.tls.as_ref().and_then(|tls| tls.sni.as_deref())
    }

    /// The client, human-readable.
    #[must_use]
    pub fn who(&self) -> String {
        self.client.as_ref().map_or_else(|| format!("plaintext from {}", self.client_address.to_canonical()), ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"connectionId":"ab","time":"2026-01-31T08:00:00Z","direction":"inbound","downstream":"10.0.0.1:40000","originalDestination":"10.0.0.7:5432","peerId":"spiffe://a.b/web","decision":{"allowed":true,"rule":"web"},"reason":"closed"}"#;

    /// What is read of an access log with this text, and what is warned of.
    fn read(text: &str) -> (Result<ReadCounts, RecordedError>, Vec<String>, Vec<RecordedConnection>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.jsonl");
        std::fs::write(&path, text).unwrap();
        let (mut warnings, mut seen) = (Vec::new(), Vec::new());
        let warn = |line: &str| warnings.push(line.replace(&format!("{}:", path.display()), ""));
        let counts = read_connections(std::slice::from_ref(&path), &AuditorKeys::default(), warn, |connection| seen.push(connection));
        (counts, warnings, seen)
    }

    #[test]
    fn a_connection_is_read_once_as_policy_saw_it() {
        let (counts, warnings, seen) = read(&format!("{RECORD}\n\n{RECORD}\n{{\"level\":\"INFO\"}}\n"));
        assert_eq!(counts.unwrap().to_string(), "1 connection, 0 that policy had not decided, 1 other line, 0 unreadable");
        assert!(warnings.is_empty(), "{warnings:?}");
        let [web] = seen.try_into().unwrap();
        assert_eq!((web.who().as_str(), web.to.port(), web.rule.as_str(), web.sni()), ("spiffe://a.b/web", 5432, "web", None));
        assert!(web.allowed && !web.denied_by_default);
    }

    #[test]
    fn the_first_unreadable_lines_are_named_and_the_others_counted() {
        let long = "x".repeat(3 << 20);
        let wrong = RECORD.replace("inbound", "sideways");
        let (counts, warnings, seen) = read(&format!("{long}\n{wrong}\n{}{RECORD}\n", "\u{1b}[2J\n".repeat(5)));
        assert_eq!((counts.unwrap().unreadable, seen.len(), warnings.len()), (7, 1, NAMED + 1), "{warnings:?}");
        assert_eq!(warnings[..2], ["1: left out: the line has more than 1048576 bytes", "2: left out: `sideways` is no direction"]);
        assert!(warnings[2].starts_with("3: left out: the line is not JSON: "), "{warnings:?}");
        assert_eq!(warnings[NAMED], "2 further lines are left out");
    }

    #[test]
    fn a_log_without_a_decided_connection_is_an_error() {
        let error = read(&RECORD.replace("\"decision\"", "\"other\"")).0.unwrap_err().to_string();
        assert!(error.contains("0 connections, 1 that policy had not decided"), "{error}");
    }
}
