//! `sidegate audit join`: the two ends of each connection side by side, and what one end has and the other lacks.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use sidegate_audit::{AuditorKeys, Connection, Event, Records};

use super::{Outcome, keys, say, say_json};
use crate::cli::audit::{Join, Period};

/// What an end says of a connection, as far as it is compared.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct End {
    time: String,
    direction: String,
    local_id: Option<String>,
    peer_id: Option<String>,
    bytes_up: Option<u64>,
    bytes_down: Option<u64>,
    reason: Option<String>,
}

/// One connection at both ends.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Joined {
    connection_id: String,
    /// What differs that should not, or is missing; none if both ends agree.
    difference: Option<String>,
    a: Option<End>,
    b: Option<End>,
}

/// What tells one connection of a log from another: its ID, which is the word of whoever made it, and how it came.
type Name = (String, String, String, String);

/// Connections of one log that have one ID, by the end that it was and by who is who.
type Ends = BTreeMap<Who, Vec<End>>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    outbound: bool,
    client: Option<String>,
    server: Option<String>,
}

pub(super) fn join(arguments: &Join) -> Result<Outcome> {
    let keys = keys(arguments.identity.as_deref())?;
    let mut a = connections(&arguments.a, &keys, &arguments.period)?;
    let mut b = connections(&arguments.b, &keys, &arguments.period)?;
    let mut ids: Vec<String> = a.keys().chain(b.keys()).cloned().collect();
    ids.sort();
    ids.dedup();
    let mut all: Vec<Joined> = Vec::new();
    for id in ids {
        let (a, b) = (a.remove(&id).unwrap_or_default(), b.remove(&id).unwrap_or_default());
        all.extend(pair(a, b).into_iter().map(|(a, b)| joined(&id, a, b)));
    }
    // In the order in which they began, at whichever end that is known.
    all.sort_by(|x, y| (x.time(), &x.connection_id).cmp(&(y.time(), &y.connection_id)));
    let (mut both, mut differ) = (0, 0);
    for joined in &all {
        both += u32::from(joined.a.is_some() && joined.b.is_some());
        differ += u32::from(joined.difference.is_some());
        if arguments.json { say_json(joined)? } else { say(&line(joined))? }
    }
    if !arguments.json {
        say(&format!("{both} connections are in both logs; {differ} differ or are in one only"))?;
    }
    Ok(Outcome::finding_if(differ > 0))
}

/// The last word on each connection, by its ID.
fn connections(log: &Path, keys: &AuditorKeys, period: &Period) -> Result<BTreeMap<String, Ends>> {
    let mut last: BTreeMap<Name, End> = BTreeMap::new();
    for record in Records::of(log, keys)? {
        let record = record?;
        if matches!(record.event, Event::LogSealed { .. }) {
            anyhow::bail!("{} is encrypted; give an auditor's key with --identity", log.display());
        }
        if !period.has(&record) {
            continue;
        }
        if let Event::ConnectionAdmitted { connection }
        | Event::ConnectionEnded { connection, .. }
        | Event::ConnectionRefused { connection } = record.event
        {
            let Connection { connection_id, time, direction, downstream, local_id, peer_id, bytes_up, bytes_down, reason, .. } = connection;
            let name = (connection_id, direction.clone(), time.clone(), downstream);
            last.insert(name, End { time, direction, local_id, peer_id, bytes_up, bytes_down, reason });
        }
    }
    let mut by_id: BTreeMap<String, Ends> = BTreeMap::new();
    for ((id, ..), end) in last {
        by_id.entry(id).or_default().entry(end.who()).or_default().push(end);
    }
    Ok(by_id)
}

impl End {
    fn who(&self) -> Who {
        let outbound = self.direction == "outbound";
        let (client, server) = if outbound { (&self.local_id, &self.peer_id) } else { (&self.peer_id, &self.local_id) };
        Who { outbound, client: client.clone(), server: server.clone() }
    }
}

impl Who {
    /// Whether both can be of one connection: what one does not know, the other may.
    fn may_be(&self, other: &Self) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        same(&self.client, &other.client) && same(&self.server, &other.server)
    }

    fn is_other_end_of(&self, other: &Self) -> bool {
        self.outbound != other.outbound
    }
}

/// What both logs have of one ID, side by side. Another peer may have used the same ID: who is who decides, as far as that is known.
fn pair(mut a: Ends, mut b: Ends) -> Vec<(Vec<End>, Vec<End>)> {
    let mut pairs = Vec::new();
    // The best fit first.
    let fits: [fn(&Who, &Who) -> bool; 3] = [
        |a, b| a.is_other_end_of(b) && (&a.client, &a.server) == (&b.client, &b.server),
        |a, b| a.is_other_end_of(b) && a.may_be(b),
        Who::may_be,
    ];
    for fits in fits {
        a.retain(|who, ends| {
            let Some(other) = b.keys().find(|other| fits(who, other)).cloned() else { return true };
            pairs.push((std::mem::take(ends), b.remove(&other).unwrap_or_default()));
            false
        });
    }
    // There is nobody else whom it could be.
    if a.len() == 1 && b.len() == 1 && pairs.is_empty() {
        pairs.extend(a.into_values().zip(b.into_values()));
    } else {
        pairs.extend(a.into_values().map(|ends| (ends, Vec::new())));
        pairs.extend(b.into_values().map(|ends| (Vec::new(), ends)));
    }
    pairs
}

fn joined(id: &str, mut a: Vec<End>, mut b: Vec<End>) -> Joined {
    let many = (a.len() > 1 || b.len() > 1)
        .then(|| format!("the ID was used more than once by these two: by {} connections in A and {} in B", a.len(), b.len()));
    let (a, b) = (a.pop(), b.pop());
    let difference = many.or_else(|| difference(a.as_ref(), b.as_ref()));
    Joined { connection_id: id.to_owned(), difference, a, b }
}

impl Joined {
    fn time(&self) -> &str {
        self.a.as_ref().or(self.b.as_ref()).map_or("", |end| &end.time)
    }
}

/// What two ends must agree on: who is who, and how many bytes went each way in a connection that ended in order.
fn difference(a: Option<&End>, b: Option<&End>) -> Option<String> {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (Some(a), None) => return only(a, "A"),
        (None, Some(b)) => return only(b, "B"),
        (None, None) => return None,
    };
    if a.direction == b.direction {
        return Some(format!("both ends say that it is {}", a.direction));
    }
    if !a.who().may_be(&b.who()) {
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

fn only(end: &End, log: &str) -> Option<String> {
    // A session that was made in advance is no connection, and has another name at each end.
    (end.reason.as_deref() != Some("warmed")).then(|| format!("in {log} only"))
}

/// As a person reads it.
fn line(joined: &Joined) -> String {
    let end = |end: Option<&End>| {
        let Some(end) = end else { return "nothing".to_owned() };
        let id = end.local_id.as_deref().unwrap_or("-");
        let reason = end.reason.as_deref().unwrap_or("open");
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        format!("{} {id} {reason} {}B up {}B down", end.direction, bytes(end.bytes_up), bytes(end.bytes_down))
    };
    let verdict = joined.difference.as_ref().map_or_else(|| "ok".to_owned(), |difference| format!("DIFFERS: {difference}"));
    let (a, b) = (end(joined.a.as_ref()), end(joined.b.as_ref()));
    format!("{} {} | A: {a} | B: {b} | {verdict}", joined.time(), joined.connection_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(direction: &str, local: &str, peer: &str) -> End {
        let id = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        End {
            time: "t".to_owned(),
            direction: direction.to_owned(),
            local_id: id(local),
            peer_id: id(peer),
            bytes_up: Some(1),
            bytes_down: Some(2),
            reason: Some("closed".to_owned()),
        }
    }

    fn ends(all: &[End]) -> Ends {
        let mut ends = Ends::new();
        all.iter().for_each(|end| ends.entry(end.who()).or_default().push(end.clone()));
        ends
    }

    /// The differences that are found among connections of one ID.
    fn differences(a: &[End], b: &[End]) -> Vec<Option<String>> {
        pair(ends(a), ends(b)).into_iter().map(|(a, b)| joined("c", a, b).difference).collect()
    }

    #[test]
    fn ends_that_agree_are_no_difference_and_all_else_is() {
        let (a, b) = (end("outbound", "web", "api"), end("inbound", "api", "web"));
        assert_eq!(difference(Some(&a), Some(&b)), None);
        let liar = End { peer_id: Some("eve".to_owned()), ..b.clone() };
        let lossy = End { bytes_down: Some(3), ..b.clone() };
        let open = End { reason: None, ..b.clone() };
        for (other, says) in [(&liar, "who they are"), (&lossy, "how many bytes"), (&open, "in A only"), (&a, "both ends say")] {
            let told = differences(std::slice::from_ref(&a), std::slice::from_ref(other));
            assert!(matches!(told.as_slice(), [Some(told)] if told.contains(says)), "{told:?}");
        }
        assert_eq!(difference(Some(&a), None).as_deref(), Some("in A only"));
        let warmed = End { reason: Some("warmed".to_owned()), ..a };
        assert_eq!(difference(Some(&warmed), None), None);
    }

    #[test]
    fn an_id_that_another_peer_has_used_too_is_no_disagreement_of_honest_ends() {
        let (a, b, eve) = (end("outbound", "web", "api"), end("inbound", "api", "web"), end("inbound", "api", "eve"));
        let only = Some("in B only".to_owned());
        assert_eq!(differences(std::slice::from_ref(&a), &[eve.clone(), b.clone()]), [None, only.clone()]);
        // An end that was refused before it knew who is who.
        let early = end("outbound", "web", "");
        assert_eq!(differences(&[early], &[eve, b.clone()]), [None, only]);
        let twice = differences(&[a], &[b.clone(), End { time: "u".to_owned(), ..b }]);
        assert!(matches!(twice.as_slice(), [Some(told)] if told.contains("by 1 connections in A and 2 in B")), "{twice:?}");
    }
}
