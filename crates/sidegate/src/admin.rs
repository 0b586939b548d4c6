//! The commands that ask a running sidecar over its admin socket.

use anyhow::{Context, Result, anyhow};
use sidegate_admin::v1;
use sidegate_admin::v1::admin_client::AdminClient;
use sidegate_admin::v1::connection_change::Change;
use sidegate_admin::v1::cut_connections_request::Which;
use sidegate_core::{printable_json, without_controls};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::cli;
use crate::say::{say, say_lines};

/// Runs `question` against the sidecar that is meant.
fn ask<T>(asked: &cli::Asked, question: impl AsyncFnOnce(AdminClient<Channel>) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = sidegate_admin::connect(&asked.socket).await?;
        question(client).await
    })
}

/// What the sidecar says of a refusal, without gRPC's own words.
#[allow(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}

/// `sidegate status`.
pub(crate) fn status(arguments: &cli::Status) -> Result<()> {
    let text = ask(&arguments.asked, async |mut client| {
        if arguments.config {
            return Ok(client.get_config(v1::GetConfigRequest {}).await.map_err(refused)?.into_inner().yaml);
        }
        let status = client.get_status(v1::GetStatusRequest {}).await.map_err(refused)?.into_inner();
        Ok(if arguments.json { printable_json(&serde_json::to_string_pretty(&status)?).into_owned() } else { screen(&status) })
    })?;
    say_lines(&text)
}

/// A status as a person reads it.
fn screen(status: &v1::Status) -> String {
    let mut lines = vec![format!(
        "sidegate {}, profile {}, up {}: {}, {}",
        status.version,
        status.profile,
        span(i64::try_from(status.uptime_seconds).unwrap_or(i64::MAX)),
        status.phase,
        if status.ready { "ready" } else { "NOT READY" }
    )];
    // What an agent says has no lines of its own, which could look like ours.
    let mut add = |name: &str, text: String| lines.push(without_controls(&format!("{name:<12}{text}")));
    for line in &status.missing {
        add("", line.clone());
    }
    let identities = status.identities.clone().unwrap_or_default();
    match &identities.svid {
        Some(svid) => {
            add("identity", svid.spiffe_id.clone());
            add("", format!("{}, serial {}, {} rotations so far", expires(svid.seconds_left), svid.serial, identities.rotations));
        }
        None => add("identity", "none".to_owned()),
    }
    for bundle in &identities.bundles {
        let (count, word) = (bundle.authorities, if bundle.authorities == 1 { "CA" } else { "CAs" });
        add("bundle", format!("{}: {count} {word}, the last {}", bundle.trust_domain, expires(bundle.seconds_left)));
    }
    for source in &identities.sources {
        let health = if source.healthy { "" } else { "TROUBLE: " };
        add("source", format!("{}: {health}{}", source.name, source.message));
    }
    add("policy", format!("{} rules; generation {} of everything that is judged by", status.policy_rules, status.generation));
    for traffic in &status.traffic {
        let total: u64 = traffic.ended.iter().map(|e| e.connections).sum();
        let (open, shaking) = (traffic.open, traffic.handshakes_in_flight);
        add(&traffic.direction, format!("{open} open, {shaking} of them shaking hands; {total} ended"));
        let mut failures: Vec<&v1::Ended> = traffic.ended.iter().filter(|e| !e.success).collect();
        failures.sort_by_key(|e| std::cmp::Reverse(e.connections));
        for failure in failures.iter().take(8) {
            add("", format!("{:>8} {}", failure.connections, failure.reason));
        }
    }
    for export in &status.exports {
        let text = match (export.endpoint.as_str(), export.error.as_str()) {
            ("", _) => "not exported".to_owned(),
            (to, "") => format!("{} to {to}, {} dropped", export.exported, export.dropped),
            (to, error) => format!("{} to {to}, {} dropped; FAILING: {error}", export.exported, export.dropped),
        };
        add(&export.signal, text);
    }
    add("log", status.log_filter.clone());
    lines.join("\n") + "\n"
}

fn expires(seconds_left: i64) -> String {
    if seconds_left < 0 { format!("EXPIRED {} ago", span(-seconds_left)) } else { format!("expires in {}", span(seconds_left)) }
}

/// The two largest units of a length of time.
fn span(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        7200..172_800 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `sidegate connections`.
pub(crate) fn connections(arguments: &cli::Connections) -> Result<()> {
    ask(&arguments.asked, async |client| if arguments.watch { watch(client, arguments.json).await } else { list(client, arguments).await })
}

async fn list(mut client: AdminClient<Channel>, arguments: &cli::Connections) -> Result<()> {
    let request = v1::ListConnectionsRequest { limit: arguments.limit };
    let answer = client.list_connections(request).await.map_err(refused)?.into_inner();
    for connection in &answer.connections {
        say(&shown(connection, arguments.json)?)?;
    }
    let left = answer.open.saturating_sub(answer.connections.len() as u64);
    if left > 0 {
        err!("… and {left} more; --limit shows them");
    } else if answer.open == 0 && !arguments.json {
        err!("no connection is open");
    }
    Ok(())
}

async fn watch(mut client: AdminClient<Channel>, json: bool) -> Result<()> {
    let mut changes = client.watch_connections(v1::WatchConnectionsRequest {}).await.map_err(refused)?.into_inner();
    while let Some(change) = changes.next().await {
        match change.context("the sidecar ended")?.change {
            Some(Change::Opened(connection)) if json => say(&format!("{{\"opened\":{}}}", shown(&connection, json)?))?,
            Some(Change::Opened(connection)) => say(&shown(&connection, json)?)?,
            Some(Change::Ended(ended)) if json => say(&format!("{{\"ended\":{}}}", printable_json(&ended.json)))?,
            Some(Change::Ended(ended)) => say(&ended.line)?,
            Some(Change::Missed(count)) => err!("… {count} ends were missed: they come faster than they can be shown"),
            None => {}
        }
    }
    Ok(())
}

fn shown(connection: &v1::Connection, json: bool) -> Result<String> {
    if json {
        return Ok(printable_json(&serde_json::to_string(connection)?).into_owned());
    }
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let state = if connection.admitted { "open" } else { "opening" };
    Ok(format!(
        "{} {:<8} {} {} -> {} {} {} {} {}B up {}B down {}",
        connection.since,
        connection.direction,
        state,
        connection.downstream,
        or_dash(&connection.destination),
        or_dash(&connection.peer),
        or_dash(&connection.transport),
        or_dash(&connection.rule),
        connection.bytes_up,
        connection.bytes_down,
        connection.id
    ))
}

/// `sidegate cut`.
pub(crate) fn cut(arguments: &cli::Cut) -> Result<()> {
    let connection = arguments.which.connection.clone().map(Which::ConnectionId);
    let which = connection.or_else(|| arguments.which.peer.clone().map(Which::Peer));
    let cut = ask(&arguments.asked, async |mut client| {
        Ok(client.cut_connections(v1::CutConnectionsRequest { which }).await.map_err(refused)?.into_inner().cut)
    })?;
    err!("cut {cut}");
    Ok(())
}

/// `sidegate log-filter`.
pub(crate) fn log_filter(arguments: &cli::LogFilter) -> Result<()> {
    let request = v1::SetLogFilterRequest { filter: arguments.filter.clone() };
    let previous =
        ask(&arguments.asked, async |mut client| Ok(client.set_log_filter(request).await.map_err(refused)?.into_inner().previous))?;
    err!("{} (it was {previous})", arguments.filter);
    Ok(())
}

/// `sidegate drain`.
pub(crate) fn drain(asked: &cli::Asked) -> Result<()> {
    ask(asked, async |mut client| client.drain(v1::DrainRequest {}).await.map(drop).map_err(refused))?;
    err!("draining");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_shows_what_is_wrong() {
        let status = v1::Status {
            version: "1".to_owned(),
            profile: "production".to_owned(),
            phase: "serving".to_owned(),
            missing: vec!["no valid X.509-SVID".to_owned()],
            uptime_seconds: 7265,
            traffic: vec![v1::Traffic {
                direction: "inbound".to_owned(),
                ended: vec![
                    v1::Ended { reason: "closed".to_owned(), connections: 5, success: true },
                    v1::Ended { reason: "expired".to_owned(), connections: 2, success: false },
                ],
                ..v1::Traffic::default()
            }],
            exports: vec![v1::Export {
                signal: "traces".to_owned(),
                endpoint: "https://o:4317".to_owned(),
                error: "refused".to_owned(),
                ..v1::Export::default()
            }],
            ..v1::Status::default()
        };
        let screen = screen(&status);
        for say in
            ["up 2h01m: serving, NOT READY", "no valid X.509-SVID", "identity    none", "7 ended", "       2 expired", "FAILING: refused"]
        {
            assert!(screen.contains(say), "{say}\n{screen}");
        }
        assert!(!screen.contains("closed"));
        assert_eq!([5, 125, 90_000, 200_000].map(span), ["5s", "2m05s", "25h00m", "2d07h"]);
        assert_eq!(expires(-3), "EXPIRED 3s ago");
    }
}
