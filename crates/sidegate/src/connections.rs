//! The open connections of a running sidecar: `sidegate connections`, which shows them, and `sidegate cut`, which resets some.

use std::time::SystemTime;

use anyhow::Result;
use sidegate_admin::connections::{Line, ended, missed, opened, table};
use sidegate_admin::v1::admin_client::AdminClient;
use sidegate_admin::v1::connection_change::Change;
use sidegate_admin::v1::cut_connections_request::Which;
use sidegate_admin::{ClientError, v1};
use sidegate_core::counted;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::cli;
use crate::output::{say, say_json, width};

/// `sidegate connections`.
pub(crate) fn connections(arguments: &cli::ConnectionsArgs) -> Result<()> {
    arguments.asked.ask(async |client| if arguments.watch { watch(client, arguments.json).await } else { list(client, arguments).await })
}

async fn list(mut client: AdminClient<Channel>, arguments: &cli::ConnectionsArgs) -> Result<()> {
    let request = v1::ListConnectionsRequest { limit: arguments.limit, newest: false };
    let answer = client.list_connections(request).await.map_err(ClientError::from)?.into_inner();
    let shown = answer.connections.len() as u64;
    if arguments.json {
        answer.connections.into_iter().try_for_each(|connection| say_json(&Line::Open(Box::new(connection))))?;
    } else if answer.open == 0 {
        say("no connection is open")?;
    } else {
        table(&answer.connections, SystemTime::now(), width()).iter().try_for_each(|line| say(line))?;
    }
    let left = answer.open.saturating_sub(shown);
    if left > 0 {
        err!("… and {left} more; --limit shows them");
    }
    Ok(())
}

async fn watch(mut client: AdminClient<Channel>, json_lines: bool) -> Result<()> {
    let mut changes = client.watch_connections(v1::WatchConnectionsRequest {}).await.map_err(ClientError::from)?.into_inner();
    let request = v1::ListConnectionsRequest { limit: 1, newest: false };
    let open = client.list_connections(request).await.map_err(ClientError::from)?.into_inner().open;
    if open == 0 && !json_lines {
        err!("no connection is open yet; each that opens or ends is shown, until Ctrl-C");
    }
    // However the stream ends, it is the sidecar that has ended: it closes none before.
    while let Some(Ok(change)) = changes.next().await {
        match change.change {
            Some(change) if json_lines => say_json(&Line::of(change)?)?,
            Some(Change::Opened(connection)) => say(&opened(&connection, width()))?,
            Some(Change::Ended(end)) => say(&ended(&end, width()))?,
            Some(Change::Missed(count)) => err!("{}", missed(count)),
            None => {}
        }
    }
    err!("the sidecar has ended");
    Ok(())
}

/// `sidegate cut`.
pub(crate) fn cut(arguments: &cli::CutArgs) -> Result<()> {
    let connection = arguments.which.connection.clone().map(Which::ConnectionId);
    let which = connection.or_else(|| arguments.which.peer.as_ref().map(|peer| Which::Peer(peer.to_string())));
    let request = v1::CutConnectionsRequest { which };
    let cut =
        arguments.asked.ask(async |mut client| Ok(client.cut_connections(request).await.map_err(ClientError::from)?.into_inner().cut))?;
    err!("cut {}", counted(cut, "connection"));
    Ok(())
}
