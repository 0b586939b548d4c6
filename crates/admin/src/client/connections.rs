//! Connections of a running sidecar, as text and as JSON.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sidegate_core::{ConnectionRecord, counted};

use super::status::age;
use super::table::{Column, Keep, Table, shortened};
use crate::v1;
use crate::v1::connection_change::Change;

/// As many digits of an ID are shown where there is little room.
const SHORT_ID: usize = 12;

/// A line of `sidegate connections --json`: a connection that is open, or with --watch what happens to one.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Line {
    /// It is open.
    Open(Box<v1::Connection>),
    /// It opens or ends.
    Change(Changed),
}

/// A line of `sidegate connections --watch --json`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Changed {
    /// It is open now: when it is first seen, and again once it has been admitted.
    Opened(Box<v1::Connection>),
    /// It has ended: its record, as in the access log.
    Ended(#[schemars(with = "ConnectionRecord")] Box<RawValue>),
    /// This number of ends was missed, since they come faster than they are read.
    Missed(u64),
}

impl Line {
    /// The line of a change.
    ///
    /// # Errors
    /// If the record of a connection that has ended is no JSON.
    pub fn of(change: Change) -> serde_json::Result<Self> {
        Ok(Self::Change(match change {
            Change::Opened(connection) => Changed::Opened(Box::new(connection)),
            Change::Ended(ended) => Changed::Ended(RawValue::from_string(ended.json)?),
            Change::Missed(count) => Changed::Missed(count),
        }))
    }
}

/// The lines of a table of `connections` at `now`, the first with the heads of the columns; none is wider than `width`.
#[must_use]
pub fn table(connections: &[v1::Connection], now: SystemTime, width: Option<usize>) -> Vec<String> {
    columns(connections, now).lines(width)
}

/// The columns, those first that are left out last.
fn columns(connections: &[v1::Connection], now: SystemTime) -> Table {
    let column = |head, of: &dyn Fn(&v1::Connection) -> String| Column::new(head, connections.iter().map(of));
    Table(vec![
        column("ID", &|c| c.connection_id.clone()).least(SHORT_ID, Keep::Beginning).rank(0),
        column("AGE", &|c| age(&c.time, now).unwrap_or_default()).right().rank(4),
        column("DIRECTION", &|c| c.direction.clone()).rank(3),
        column("STATE", &|c| state(c).to_owned()).rank(5),
        column("FROM", &|c| c.downstream.clone()).rank(6),
        column("TO", &|c| text(c.original_destination.as_ref())).rank(1),
        column("PEER", &|c| text(c.peer_id.as_ref())).least(20, Keep::End).rank(2),
        column("TRANSPORT", &|c| text(c.transport.as_ref())).rank(8),
        column("RULE", &|c| rule(c)).least(12, Keep::Start).rank(9),
        column("UP", &|c| c.bytes_up.to_string()).right().rank(7),
        column("DOWN", &|c| c.bytes_down.to_string()).right().rank(7),
    ])
}

fn state(connection: &v1::Connection) -> &'static str {
    if connection.admitted { "open" } else { "opening" }
}

fn text(known: Option<&String>) -> String {
    known.map_or_else(|| "-".to_owned(), Clone::clone)
}

fn rule(connection: &v1::Connection) -> String {
    text(connection.decision.as_ref().map(|decision| &decision.rule))
}

/// A connection that opens, in a line that is no wider than `width`. What is watched comes line by line, so only what is first has a
/// column.
#[must_use]
pub fn opened(connection: &v1::Connection, width: Option<usize>) -> String {
    let v1::Connection { downstream, original_destination, peer_id, transport, .. } = connection;
    let to = text(original_destination.as_ref());
    let rest = if connection.admitted {
        format!(" {} {} {}", text(peer_id.as_ref()), text(transport.as_ref()), rule(connection))
    } else {
        String::new()
    };
    let (state, id) = (state(connection), shown_id(&connection.connection_id, width));
    clipped(format!("{state:<8}{id} {:<8} {downstream} -> {to}{rest}", connection.direction), width)
}

/// A connection that ends: its reason, and the record as a line of the access log has it; no wider than `width`.
#[must_use]
pub fn ended(end: &v1::EndedConnection, width: Option<usize>) -> String {
    let record: Value = serde_json::from_str(&end.json).unwrap_or_default();
    let text = |key: &str| record[key].as_str().unwrap_or("-").to_owned();
    // Its time stands first.
    let line = end.line.split_once(' ').map_or(end.line.as_str(), |(_, rest)| rest);
    clipped(format!("{:<8}{} {}: {line}", "ended", shown_id(&text("connectionId"), width), text("reason")), width)
}

/// Ends that were missed.
#[must_use]
pub fn missed(count: u64) -> String {
    let were = if count == 1 { "was missed: it came" } else { "were missed: they come" };
    format!("… {} {were} faster than can be shown", counted(count, "end"))
}

fn shown_id(id: &str, width: Option<usize>) -> &str {
    if width.is_some() { id.get(..SHORT_ID).unwrap_or(id) } else { id }
}

fn clipped(line: String, width: Option<usize>) -> String {
    match width {
        Some(width) => shortened(&sidegate_core::without_controls(&line), width, Keep::Start),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [v1::Connection; 2] {
        let open = v1::Connection {
            connection_id: "5538989ccab157b8addea246aacc4c42".to_owned(),
            direction: "inbound".to_owned(),
            downstream: "10.77.0.1:50122".to_owned(),
            original_destination: Some("10.77.0.2:8080".to_owned()),
            time: "2026-01-31T08:00:00.000000Z".to_owned(),
            admitted: true,
            peer_id: Some("spiffe://prod.example/ns/shop/sa/web".to_owned()),
            transport: Some("mtls".to_owned()),
            decision: Some(v1::Decision { allowed: true, rule: "web-may-call-api (/etc/sidegate/policy.yaml:2)".to_owned() }),
            bytes_up: 54,
            bytes_down: 1_330_000,
        };
        let opening = v1::Connection {
            connection_id: "f".repeat(32),
            direction: "outbound".to_owned(),
            downstream: "10.77.0.1:50122".to_owned(),
            ..Default::default()
        };
        [open, opening]
    }

    #[test]
    fn a_table_has_aligned_columns_and_is_no_wider_than_the_terminal() {
        let now = humantime::parse_rfc3339("2026-01-31T08:02:05Z").unwrap_or(SystemTime::UNIX_EPOCH);
        let table = columns(&all(), now);
        let full = table.lines(None);
        assert!(full[0].starts_with("ID ") && full[0].ends_with(" UP     DOWN"), "{full:#?}");
        for (line, part) in
            [(1, "5538989ccab157b8addea246aacc4c42  2m05s  inbound "), (1, " 54  1330000"), (2, "  -  "), (1, "policy.yaml:2)")]
        {
            assert!(full[line].contains(part), "{part}: {full:#?}");
        }
        for width in 1..260 {
            let lines = table.lines(Some(width));
            assert_eq!(lines.len(), 3);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}: {lines:#?}");
            if width >= 80 {
                assert!(
                    lines[1].contains("5538989ccab1") && lines[1].contains("ns/shop/sa/web") && lines[1].contains("10.77.0.2:8080"),
                    "{lines:#?}"
                );
                let at = lines[0].find("PEER").unwrap_or(usize::MAX);
                assert!(lines[1].chars().nth(at - 1) == Some(' ') && lines[1].chars().nth(at) != Some(' '), "{lines:#?}");
            }
        }
        assert_eq!(table.lines(Some(250)), full);
    }

    #[test]
    fn what_is_missed_is_a_line_too() {
        let line = serde_json::to_value(Line::Change(Changed::Missed(3))).unwrap_or_default();
        assert_eq!(line, serde_json::json!({ "missed": 3 }));
    }

    #[test]
    fn what_is_watched_has_its_id() {
        let [open, opening] = all();
        let line = opened(&open, None);
        assert!(
            line.starts_with("open    5538989ccab157b8addea246aacc4c42 inbound  10.77.0.1:50122 -> 10.77.0.2:8080 spiffe://"),
            "{line}"
        );
        assert_eq!(opened(&opening, None), format!("opening {} outbound 10.77.0.1:50122 -> -", "f".repeat(32)));
        let json = r#"{"connectionId":"ab","reason":"cut"}"#.to_owned();
        let end = v1::EndedConnection { json, line: "2026-01-31T08:00:00.000Z inbound  a -> b".to_owned() };
        assert_eq!(ended(&end, None), "ended   ab cut: inbound  a -> b");
    }
}
