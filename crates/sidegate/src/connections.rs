//! The open connections of a running sidecar: `sidegate connections`, which shows them, and `sidegate cut`, which resets some.

mod table;

use std::time::SystemTime;

use anyhow::Result;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sidegate_admin::v1;
use sidegate_admin::v1::admin_client::AdminClient;
use sidegate_admin::v1::connection_change::Change;
use sidegate_admin::v1::cut_connections_request::Which;
use sidegate_core::{ConnectionRecord, counted};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use self::table::{Column, Keep, Table};
use crate::cli;
use crate::output::{say, say_json, width};
use crate::status::age;
use crate::target::refused;

/// As many digits of an ID are shown where there is little room.
const SHORT_ID: usize = 12;

/// A line of `sidegate connections --json`: a connection that is open, or with --watch what happens to one.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Line {
    /// It is open.
    Open(Box<v1::Connection>),
    /// It opens or ends.
    Change(Changed),
}

/// A line of `sidegate connections --watch --json`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Changed {
    /// It is open now: when it is first seen, and again once it has been admitted.
    Opened(Box<v1::Connection>),
    /// It has ended: its record, as in the access log.
    Ended(#[schemars(with = "ConnectionRecord")] Box<RawValue>),
    /// This number of ends was missed, since they come faster than they are read.
    Missed(u64),
}

/// `sidegate connections`.
pub(crate) fn connections(arguments: &cli::ConnectionsArgs) -> Result<()> {
    arguments.asked.ask(async |client| if arguments.watch { watch(client, arguments.json).await } else { list(client, arguments).await })
}

async fn list(mut client: AdminClient<Channel>, arguments: &cli::ConnectionsArgs) -> Result<()> {
    let request = v1::ListConnectionsRequest { limit: arguments.limit };
    let answer = client.list_connections(request).await.map_err(refused)?.into_inner();
    if arguments.json {
        answer.connections.iter().try_for_each(|connection| say_json(&Line::Open(Box::new(connection.clone()))))?;
    } else if answer.open == 0 {
        say("no connection is open")?;
    } else {
        table(&answer.connections, SystemTime::now()).lines(width()).iter().try_for_each(|line| say(line))?;
    }
    let left = answer.open.saturating_sub(answer.connections.len() as u64);
    if left > 0 {
        err!("… and {left} more; --limit shows them");
    }
    Ok(())
}

/// The columns, those first that are left out last.
fn table(connections: &[v1::Connection], now: SystemTime) -> Table {
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

async fn watch(mut client: AdminClient<Channel>, json_lines: bool) -> Result<()> {
    let mut changes = client.watch_connections(v1::WatchConnectionsRequest {}).await.map_err(refused)?.into_inner();
    let open = client.list_connections(v1::ListConnectionsRequest { limit: 1 }).await.map_err(refused)?.into_inner().open;
    if open == 0 && !json_lines {
        err!("no connection is open yet; each that opens or ends is shown, until Ctrl-C");
    }
    // However the stream ends, it is the sidecar that has ended: it closes none before.
    while let Some(Ok(change)) = changes.next().await {
        match change.change {
            Some(Change::Opened(connection)) if json_lines => say_json(&Line::Change(Changed::Opened(Box::new(connection))))?,
            Some(Change::Opened(connection)) => say(&clipped(opened(&connection)))?,
            Some(Change::Ended(ended)) if json_lines => say_json(&Line::Change(Changed::Ended(RawValue::from_string(ended.json)?)))?,
            Some(Change::Ended(end)) => say(&clipped(ended(&end)))?,
            Some(Change::Missed(count)) if json_lines => say_json(&Line::Change(Changed::Missed(count)))?,
            Some(Change::Missed(count)) => {
                let were = if count == 1 { "was missed: it came" } else { "were missed: they come" };
                err!("… {} {were} faster than can be shown", counted(count, "end"));
            }
            None => {}
        }
    }
    err!("the sidecar has ended");
    Ok(())
}

/// What is watched comes line by line, so only what is first has a column.
fn opened(connection: &v1::Connection) -> String {
    let v1::Connection { downstream, original_destination, peer_id, transport, .. } = connection;
    let to = text(original_destination.as_ref());
    let rest = if connection.admitted {
        format!(" {} {} {}", text(peer_id.as_ref()), text(transport.as_ref()), rule(connection))
    } else {
        String::new()
    };
    format!("{:<8}{} {:<8} {downstream} -> {to}{rest}", state(connection), shown_id(&connection.connection_id), connection.direction)
}

/// The end of a connection: its reason, and the record as a line of the access log has it.
fn ended(end: &v1::EndedConnection) -> String {
    let record: Value = serde_json::from_str(&end.json).unwrap_or_default();
    let text = |key: &str| record[key].as_str().unwrap_or("-").to_owned();
    // Its time stands first.
    let line = end.line.split_once(' ').map_or(end.line.as_str(), |(_, rest)| rest);
    format!("{:<8}{} {}: {line}", "ended", shown_id(&text("connectionId")), text("reason"))
}

fn shown_id(id: &str) -> &str {
    if width().is_some() { id.get(..SHORT_ID).unwrap_or(id) } else { id }
}

/// A line that is no wider than the terminal.
fn clipped(line: String) -> String {
    match width() {
        Some(width) => table::shortened(&sidegate_core::without_controls(&line), width, Keep::Start),
        None => line,
    }
}

/// `sidegate cut`.
pub(crate) fn cut(arguments: &cli::CutArgs) -> Result<()> {
    let connection = arguments.which.connection.clone().map(Which::ConnectionId);
    let which = connection.or_else(|| arguments.which.peer.as_ref().map(|peer| Which::Peer(peer.to_string())));
    let cut = arguments
        .asked
        .ask(async |mut client| Ok(client.cut_connections(v1::CutConnectionsRequest { which }).await.map_err(refused)?.into_inner().cut))?;
    err!("cut {}", counted(cut, "connection"));
    Ok(())
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
        let table = table(&all(), now);
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
        let line = opened(&open);
        assert!(
            line.starts_with("open    5538989ccab157b8addea246aacc4c42 inbound  10.77.0.1:50122 -> 10.77.0.2:8080 spiffe://"),
            "{line}"
        );
        assert_eq!(opened(&opening), format!("opening {} outbound 10.77.0.1:50122 -> -", "f".repeat(32)));
        let json = r#"{"connectionId":"ab","reason":"cut"}"#.to_owned();
        let end = v1::EndedConnection { json, line: "2026-01-31T08:00:00.000Z inbound  a -> b".to_owned() };
        assert_eq!(ended(&end), "ended   ab cut: inbound  a -> b");
    }
}
