//! The commands that ask a running sidecar over its admin socket.

use anyhow::{Context, Result};
use sidegate_admin::v1;
use sidegate_admin::v1::admin_client::AdminClient;
use sidegate_admin::v1::connection_change::Change;
use sidegate_admin::v1::cut_connections_request::Which;
use sidegate_core::printable_json;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::asked::refused;
use crate::cli;
use crate::say::say;

/// `sidegate connections`.
pub(crate) fn connections(arguments: &cli::Connections) -> Result<()> {
    arguments.asked.ask(async |client| if arguments.watch { watch(client, arguments.json).await } else { list(client, arguments).await })
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
    let cut = arguments
        .asked
        .ask(async |mut client| Ok(client.cut_connections(v1::CutConnectionsRequest { which }).await.map_err(refused)?.into_inner().cut))?;
    err!("cut {cut}");
    Ok(())
}

/// `sidegate log-filter`.
pub(crate) fn log_filter(arguments: &cli::LogFilter) -> Result<()> {
    let Some(filter) = &arguments.filter else {
        let status = v1::GetStatusRequest {};
        return say(&arguments
            .asked
            .ask(async |mut client| Ok(client.get_status(status).await.map_err(refused)?.into_inner().log_filter))?);
    };
    let request = v1::SetLogFilterRequest { filter: filter.clone() };
    let previous =
        arguments.asked.ask(async |mut client| Ok(client.set_log_filter(request).await.map_err(refused)?.into_inner().previous))?;
    err!("{filter} (it was {previous})");
    Ok(())
}
