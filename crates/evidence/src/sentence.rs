//! A record as a human-readable line.

use sidegate_audit::{AdminAction, ConnectionEntry, Event, SvidFacts};
use sidegate_core::counted;

use crate::read::Record;

/// One line for a record: number, time, event, and what it says.
#[must_use]
pub fn line(record: &Record) -> String {
    // To the millisecond.
    let time = record.time.get(..23).unwrap_or(&record.time);
    format!("{:>8} {time}Z {:<20} {}", record.seq, record.event.name(), sentence(&record.event))
}

fn sentence(event: &Event) -> String {
    match event {
        Event::ConnectionAdmitted { connection } | Event::ConnectionEnded { connection, .. } | Event::ConnectionRefused { connection } => {
            of_connection(connection)
        }
        Event::IdentityReceived { svid } => format!("{} serial {}, valid until {}", svid.spiffe_id, svid.serial, until(svid)),
        Event::IdentityRotated { svid, previous_serial } => {
            format!("{} serial {} after {previous_serial}, valid until {}", svid.spiffe_id, svid.serial, until(svid))
        }
        Event::IdentityLost { svid, expired } => {
            format!("{} serial {} {}", svid.spiffe_id, svid.serial, if *expired { "has expired" } else { "was withdrawn" })
        }
        Event::BundleChanged { trust_domain, authorities, sha256 } => match sha256 {
            Some(sha256) => format!("{trust_domain} has {}, SHA-256 {sha256}", counted(*authorities, "CA")),
            None => format!("{trust_domain} is gone"),
        },
        Event::PolicyLoaded { rules, files } => format!("{} in force, of {}", counted(*rules, "rule"), digests(files)),
        Event::PolicyRefused { files, why } => format!("can't be used, the last good one stays: {}: {why}", digests(files)),
        Event::RevocationChanged { lists, denied, files } => {
            format!("{} and {} in force, of {}", counted(*lists, "revocation list"), counted(*denied, "denial"), digests(files))
        }
        Event::RevocationRefused { source, why } | Event::IdentityRefused { source, why } => format!("{source} can't be used: {why}"),
        Event::CaptureProven {} => "the kernel sends the pod's traffic through this sidecar".to_owned(),
        Event::CaptureMissing { why } => why.clone(),
        Event::ProcessStarted { version, pid, profile, config, .. } => {
            format!("sidegate {version}, process {pid}, profile {profile}, configuration {}", digests(std::slice::from_ref(config)))
        }
        Event::ProcessStopping { why } => why.clone(),
        Event::AdminAction { action, uid, pid, detail } => {
            format!("user {uid} (process {pid}) {} {detail}", done(*action)).trim_end().to_owned()
        }
        Event::SecretAccessed { secret, place } => format!("{secret}, from {place}"),
        Event::SecretRefused { secret, place, why } => format!("{secret}: {place} can't be read: {why}"),
        Event::LogOpened { run, epoch, .. } => format!("run {run}, epoch {epoch}"),
        Event::LogResumed { file, last_seq, bytes_cut, side_note, .. } => {
            let aside = side_note.as_ref().map_or_else(String::new, |note| format!(", which are in {note}"));
            format!("{file} was not closed after record {last_seq}; {} cut{aside}", counted(*bytes_cut, "byte"))
        }
        Event::LogCheckpoint { epoch, signer, .. } => {
            format!("end of epoch {epoch}, signed by {}", signer.as_ref().map_or_else(|| "nobody".to_owned(), sidegate_audit::Signer::name))
        }
        Event::LogGap { missing: 1 } => "1 record is missing: it could not be written".to_owned(),
        Event::LogGap { missing } => format!("{missing} records are missing: they could not be written"),
        Event::LogRetired { file, last_seq, .. } => format!("{file} is deleted, up to record {last_seq}"),
        Event::LogSealed { records, .. } => format!("{}; --identity shows what is in it", counted(*records, "encrypted record")),
    }
}

/// What an administrator has done; the record's `detail` follows.
pub(crate) fn done(action: AdminAction) -> &'static str {
    match action {
        AdminAction::Cut => "cut",
        AdminAction::Drain => "started the drain",
        AdminAction::LogFilter => "changed the log filter:",
        AdminAction::ConfigRead => "read the configuration",
    }
}

fn of_connection(connection: &ConnectionEntry) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let peer = match (&connection.peer_id, &connection.claimed_id) {
        (Some(peer), _) => peer.clone(),
        (None, Some(claimed)) => format!("(claims to be {claimed})"),
        (None, None) => "-".to_owned(),
    };
    let decision = connection
        .decision
        .as_ref()
        .map_or_else(String::new, |d| format!(" {} by {}", if d.allowed { "allowed" } else { "DENIED" }, d.rule));
    let reason = connection.reason.as_ref().map_or_else(String::new, |reason| format!(" {reason}"));
    format!(
        "{} {} -> {} {peer} {}{decision}{reason} {}",
        connection.direction,
        connection.downstream,
        or_dash(&connection.original_destination),
        or_dash(&connection.transport),
        connection.connection_id
    )
}

fn digests(files: &[sidegate_audit::FileDigest]) -> String {
    let each = files.iter().map(|file| format!("{} (SHA-256 {})", file.file, file.sha256.get(..16).unwrap_or(&file.sha256)));
    let all: Vec<String> = each.collect();
    if all.is_empty() { "no file".to_owned() } else { all.join(", ") }
}

fn until(svid: &SvidFacts) -> &str {
    svid.not_after.as_deref().unwrap_or("a time that no clock shows")
}
