//! `sidegate policy replay`: which of the connections that were recorded would be decided differently.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;
use sidegate_core::{Decision, Direction, counted};

use super::seen::RecordedConnection;
use super::{ExitStatus, explanation, load, seen, verdict};
use crate::cli::PolicyReplayArgs;
use crate::output::{say, say_lines, say_pretty_json, say_verdicts};

/// What the connections of one difference have in common.
type Key = (bool, String, String, String, String);

/// Connections that are alike and would be decided differently.
struct ChangedDecision {
    count: u64,
    first: String,
    now: Decision,
}

/// Decides about recorded connections again.
pub(super) fn replay(arguments: &PolicyReplayArgs) -> Result<ExitStatus> {
    let loaded = load(&arguments.files)?;
    let policy = loaded.policy();
    let mut differences: BTreeMap<Key, ChangedDecision> = BTreeMap::new();
    let reading = seen::read(&arguments.recorded, |seen| {
        let now = policy.verdict(&seen.query()).decision;
        if now.allowed != seen.allowed {
            let key = (now.allowed, seen.who(), whither(&seen), seen.rule.clone(), now.rule.to_string());
            let first = || humantime::format_rfc3339_seconds(seen.time).to_string();
            differences.entry(key).or_insert_with(|| ChangedDecision { count: 0, first: first(), now }).count += 1;
        }
    })?;
    let differing: u64 = differences.values().map(|difference| difference.count).sum();
    if arguments.json {
        let difference = |((_, who, to, before, _), difference): (&Key, &ChangedDecision)| {
            json!({
                "from": who, "to": to, "count": difference.count, "first": difference.first,
                "before": { "allowed": !difference.now.allowed, "rule": before }, "now": difference.now,
            })
        };
        let all: Vec<_> = differences.iter().map(difference).collect();
        let read = json!({
            "connections": reading.seen, "notJudged": reading.undecided, "otherLines": reading.others, "unreadable": reading.unreadable,
        });
        say_pretty_json(&json!({ "differences": all, "read": read }))?;
    } else {
        for ((allowed, who, to, before, _), difference) in &differences {
            let word = if *allowed { "DENIED" } else { "allowed" };
            say(&format!("{} x  {who} -> {to}, first {}", difference.count, difference.first))?;
            say_verdicts(&format!("  before: {word} by {before}"))?;
            say_verdicts(&format!("  now:    {}", verdict(&difference.now)))?;
            say_lines(&explanation(&difference.now, "    "))?;
        }
        out!("{differing} of {} would be decided differently", counted(reading.seen, "connection"));
        out!("read: {reading}");
    }
    Ok(ExitStatus::finding_if(differing > 0))
}

/// Where a connection went, without what differs from one to the next.
fn whither(seen: &RecordedConnection) -> String {
    match (seen.direction, &seen.destination) {
        (Direction::Outbound, Some(name)) => {
            let server = seen.server.as_ref().map_or_else(String::new, |id| format!(" ({id})"));
            format!("destination {name}:{}{server}", seen.to.port())
        }
        _ => format!(":{}", seen.to.port()),
    }
}
