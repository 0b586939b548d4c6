//! `sidegate audit join`: the two ends of each connection side by side, and what one end has and the other lacks.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use sidegate_audit::{AuditorKeys, Connection, Event, Records};

use super::{Outcome, keys, say};
use crate::cli::audit::{Join, Period};

/// One connection at both ends.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Joined<'a> {
    connection_id: &'a str,
    /// What differs that should not, or is missing; none if both ends agree.
    difference: Option<String>,
    a: Option<&'a Connection>,
    b: Option<&'a Connection>,
}

pub(super) fn join(arguments: &Join) -> Result<Outcome> {
    let keys = keys(arguments.identity.as_deref())?;
    let a = connections(&arguments.a, &keys, &arguments.period)?;
    let b = connections(&arguments.b, &keys, &arguments.period)?;
    let (by_a, by_b) = (index(&a), index(&b));
    let mut ids: Vec<&str> = by_a.keys().chain(by_b.keys()).copied().collect();
    // In the order in which they began, at whichever end that is known.
    ids.sort_by_key(|id| (by_a.get(id).or(by_b.get(id)).map(|c| &c.time), *id));
    ids.dedup();
    let (mut both, mut differ) = (0, 0);
    for id in ids {
        let (a, b) = (by_a.get(id).copied(), by_b.get(id).copied());
        let difference = difference(a, b);
        both += u32::from(a.is_some() && b.is_some());
        differ += u32::from(difference.is_some());
        let joined = Joined { connection_id: id, difference, a, b };
        say(&if arguments.json { serde_json::to_string(&joined)? } else { line(&joined) })?;
    }
    if !arguments.json {
        say(&format!("{both} connections are in both logs; {differ} differ or are in one only"))?;
    }
    Ok(if differ == 0 { Outcome::Good } else { Outcome::Finding })
}

/// The last word on each connection.
fn connections(log: &Path, keys: &AuditorKeys, period: &Period) -> Result<Vec<Connection>> {
    let mut last: BTreeMap<String, Connection> = BTreeMap::new();
    for record in Records::of(log, keys)? {
        let record = record?;
        if matches!(record.event, Event::LogSealed { .. }) {
            anyhow::bail!("{} is encrypted; give an auditor's key with --identity", log.display());
        }
        if period.has(&record)
            && let Some(connection) = record.event.connection()
        {
            last.insert(connection.connection_id.clone(), connection.clone());
        }
    }
    Ok(last.into_values().collect())
}

fn index(connections: &[Connection]) -> BTreeMap<&str, &Connection> {
    connections.iter().map(|connection| (connection.connection_id.as_str(), connection)).collect()
}

/// What two ends must agree on: who is who, and how many bytes went each way in a connection that ended in order.
fn difference(a: Option<&Connection>, b: Option<&Connection>) -> Option<String> {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (Some(a), None) => return only(a, "A"),
        (None, Some(b)) => return only(b, "B"),
        (None, None) => return None,
    };
    if a.direction == b.direction {
        return Some(format!("both ends say that it is {}", a.direction));
    }
    let ids = |known: &Option<String>, told: &Option<String>| known.is_some() && told.is_some() && known != told;
    if ids(&a.local_id, &b.peer_id) || ids(&b.local_id, &a.peer_id) {
        return Some("the ends disagree about who they are".to_owned());
    }
    let in_order = [a, b].iter().all(|end| end.reason.as_deref() == Some("closed"));
    if in_order && (a.bytes_up, a.bytes_down) != (b.bytes_up, b.bytes_down) {
        return Some("the ends disagree about how many bytes went".to_owned());
    }
    if a.reason.is_some() != b.reason.is_some() {
        return Some(format!("it has ended in {} only", if a.reason.is_some() { "A" } else { "B" }));
    }
    None
}

fn only(end: &Connection, log: &str) -> Option<String> {
    // A session that was made in advance is no connection, and has another name at each end.
    (end.reason.as_deref() != Some("warmed")).then(|| format!("in {log} only"))
}

/// As a person reads it.
fn line(joined: &Joined<'_>) -> String {
    let Some(first) = joined.a.or(joined.b) else { return String::new() };
    let end = |end: Option<&Connection>| {
        let Some(end) = end else { return "nothing".to_owned() };
        let id = end.local_id.as_deref().unwrap_or("-");
        let reason = end.reason.as_deref().unwrap_or("open");
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        format!("{} {id} {reason} {}B up {}B down", end.direction, bytes(end.bytes_up), bytes(end.bytes_down))
    };
    let verdict = joined.difference.as_ref().map_or_else(|| "ok".to_owned(), |difference| format!("DIFFERS: {difference}"));
    format!("{} {} | A: {} | B: {} | {verdict}", first.time, joined.connection_id, end(joined.a), end(joined.b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(direction: &str, local: &str, peer: &str) -> Connection {
        let text = format!(
            r#"{{"connectionId":"c","time":"t","direction":"{direction}","downstream":"d","localId":"{local}","peerId":"{peer}","bytesUp":1,"bytesDown":2,"generation":1,"reason":"closed"}}"#
        );
        serde_json::from_str(&text).unwrap_or_else(|e| unreachable!("{e}"))
    }

    #[test]
    fn ends_that_agree_are_no_difference_and_all_else_is() {
        let (a, b) = (end("outbound", "web", "api"), end("inbound", "api", "web"));
        assert_eq!(difference(Some(&a), Some(&b)), None);
        let liar = Connection { peer_id: Some("eve".to_owned()), ..b.clone() };
        let lossy = Connection { bytes_down: Some(3), ..b.clone() };
        let open = Connection { reason: None, ..b.clone() };
        for (other, says) in [(&liar, "who they are"), (&lossy, "how many bytes"), (&open, "in A only"), (&a, "both ends say")] {
            let told = difference(Some(&a), Some(other)).unwrap_or_default();
            assert!(told.contains(says), "{told}");
        }
        assert_eq!(difference(Some(&a), None).as_deref(), Some("in A only"));
        let warmed = Connection { reason: Some("warmed".to_owned()), ..a };
        assert_eq!(difference(Some(&warmed), None), None);
    }
}
