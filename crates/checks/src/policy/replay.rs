//! Which of the connections that were recorded would be decided differently.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use sidegate_core::{Decision, Direction, counted};
use sidegate_evidence::{AuditorKeys, ReadCounts, RecordedConnection, RecordedError, read_connections};
use sidegate_policy::{PeerCertificate, Query, TlsFacts};

use super::{LoadedPolicy, explanation, verdict};

/// What the connections of one difference have in common: what is decided now, who, where to, the rule before, the rule now.
type DifferenceKey = (bool, String, String, String, String);

/// What a policy would decide differently about recorded connections.
#[derive(Debug)]
pub struct Replay {
    /// Connections that are alike are one.
    pub differences: Vec<ChangedDecision>,
    read: ReadCounts,
}

/// Connections that are alike and would be decided differently.
#[derive(Debug)]
pub struct ChangedDecision {
    who: String,
    to: String,
    count: u64,
    first: String,
    /// The rule before.
    before: String,
    now: Decision,
}

impl LoadedPolicy {
    /// Decides about recorded connections again. What is left out for being unreadable goes to `warn`.
    ///
    /// # Errors
    /// A file can't be read, or there is no connection in any.
    pub fn replay(&self, paths: &[PathBuf], keys: &AuditorKeys, warn: impl FnMut(&str)) -> Result<Replay, RecordedError> {
        let mut differences: BTreeMap<DifferenceKey, ChangedDecision> = BTreeMap::new();
        let read = read_connections(paths, keys, warn, |seen| {
            let now = self.policy().verdict(&query(&seen)).decision;
            if now.allowed != seen.allowed {
                let (who, to) = (seen.who(), towards(&seen));
                let first = humantime::format_rfc3339_seconds(seen.time).to_string();
                let key = (now.allowed, who.clone(), to.clone(), seen.rule.clone(), now.rule.to_string());
                let new = || ChangedDecision { who, to, count: 0, first, before: seen.rule, now };
                differences.entry(key).or_insert_with(new).count += 1;
            }
        })?;
        Ok(Replay { differences: differences.into_values().collect(), read })
    }
}

impl Replay {
    /// How many connections differ, and what was read, in lines.
    #[must_use]
    pub fn summary(&self) -> String {
        let differing: u64 = self.differences.iter().map(|difference| difference.count).sum();
        format!("{differing} of {} would be decided differently\nread: {}", counted(self.read.seen, "connection"), self.read)
    }

    /// All differences, for tools.
    #[must_use]
    pub fn json(&self) -> Value {
        let difference = |difference: &ChangedDecision| {
            let ChangedDecision { who, to, count, first, before, now } = difference;
            json!({
                "from": who, "to": to, "count": count, "first": first,
                "before": { "allowed": !now.allowed, "rule": before }, "now": now,
            })
        };
        let all: Vec<_> = self.differences.iter().map(difference).collect();
        let ReadCounts { seen, undecided, others, unreadable } = self.read;
        let read = json!({ "connections": seen, "notJudged": undecided, "otherLines": others, "unreadable": unreadable });
        json!({ "differences": all, "read": read })
    }
}

impl ChangedDecision {
    /// The connections in one line.
    #[must_use]
    pub fn connections(&self) -> String {
        format!("{} x  {} -> {}, first {}", self.count, self.who, self.to, self.first)
    }

    /// What was decided and what would be, a line each.
    #[must_use]
    pub fn verdicts(&self) -> String {
        let word = if self.now.allowed { "DENIED" } else { "allowed" };
        format!("  before: {word} by {}\n  now:    {}", self.before, verdict(&self.now))
    }

    /// Why, in lines.
    #[must_use]
    pub fn why(&self) -> String {
        explanation(&self.now, "    ")
    }
}

/// A recorded connection as policy sees it.
fn query(seen: &RecordedConnection) -> Query<'_> {
    Query {
        direction: seen.direction,
        client: seen.client.as_ref(),
        client_address: seen.client_address,
        server: seen.server.as_ref(),
        to: seen.to,
        sni: seen.sni(),
        destination: seen.destination.as_deref(),
        tls: seen.tls.as_ref().map(|tls| TlsFacts { version: &tls.version, group: tls.group.as_deref(), resumed: tls.resumed }),
        certificate: seen
            .certificate
            .as_ref()
            .map(|certificate| PeerCertificate { serial: &certificate.serial, not_after: certificate.not_after }),
        time: seen.time,
    }
}

/// Where a connection went, without what differs from one to the next.
fn towards(seen: &RecordedConnection) -> String {
    match (seen.direction, &seen.destination) {
        (Direction::Outbound, Some(name)) => {
            let server = seen.server.as_ref().map_or_else(String::new, |id| format!(" ({id})"));
            format!("destination {name}:{}{server}", seen.to.port())
        }
        _ => format!(":{}", seen.to.port()),
    }
}
