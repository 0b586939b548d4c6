//! The server's side of a tunnel: waiting for OPEN, and answering it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use sidegate_core::{ConnectionId, Direction, Reason, SpanId};
use sidegate_tunnel::v1::{GoAway, Open, Outcome, Status};
use sidegate_tunnel::{Control, Malformed};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::idle_permit::IdlePermit;
use crate::peer_channel::{ChannelError, PeerChannel};
use crate::shared::{Phase, Shared};
use crate::tunnel_pool;
use sidegate_net::socket;

/// How long a client that was told to go away may take to do so. What it opened meanwhile was not opened.
const LINGER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// What a client wants on a new session.
pub(crate) enum First {
    Open(Open),
    Warm,
}

/// Waits for the first frame of a new session. The caller sets the deadline.
pub(crate) async fn first(tcp: &TcpStream, channel: &mut PeerChannel) -> Result<First, ChannelError> {
    match control(tcp, channel, false).await? {
        Some(Control::Open(open)) => Ok(First::Open(open)),
        Some(Control::Warm) => Ok(First::Warm),
        Some(_) => Err(Malformed("a session that begins with neither OPEN nor WARM").into()),
        None => Err(ChannelError::Wire(sidegate_tls::WireError::Truncated)),
    }
}

/// Waits for the next OPEN on a session that has none. None when the session is over, in whatever way.
pub(crate) async fn next(shared: &Arc<Shared>, tcp: &TcpStream, channel: &mut PeerChannel) -> Option<Open> {
    let permit = IdlePermit::take(shared, Direction::Inbound);
    let mut phase = shared.phase.subscribe();
    let mut renewals = shared.control.renewals.subscribe();
    // The client's own limit is half of this, so that as a rule it is the client who closes.
    let span = shared.settings.timeouts.tunnel_idle.duration() * 2;
    if span.is_zero() || permit.is_none() {
        // There is no room to wait for an answer.
        let _ = announce(tcp, channel);
        socket::linger_close(tcp).await;
        return None;
    }
    let made = channel.tunnel.as_ref().map_or(0, |tunnel| tunnel.renewal);
    tokio::select! {
        biased;
        // Also one that came about while the last connection was open.
        _ = renewals.wait_for(|now| *now != made) => {}
        found = timeout(span, control(tcp, channel, false)) => match found {
            Ok(Ok(Some(Control::Open(open)))) => return Some(open),
            // Over, or broken: nobody is served by saying more.
            Ok(Ok(Some(Control::GoAway(_)) | None) | Err(_)) => {
                tunnel_pool::close(tcp, channel);
                return None;
            }
            Ok(Ok(Some(_))) => return None,
            Err(_) => {}
        },
        _ = phase.wait_for(|p| *p > Phase::Settling) => {}
    }
    go_away(tcp, channel).await;
    None
}

/// Says that no more connections are taken, as far as the socket takes it now.
fn announce(tcp: &TcpStream, channel: &mut PeerChannel) -> Result<(), ChannelError> {
    let opened = channel.tunnel.as_ref().map_or(0, |tunnel| tunnel.opened);
    channel.session.send(&Control::GoAway(GoAway { opened }).encode())?;
    channel.session.try_flush(tcp).map_err(ChannelError::from)
}

/// Says that no more connections are taken, and waits until the client has closed: a reset could overtake what we say.
pub(crate) async fn go_away(tcp: &TcpStream, channel: &mut PeerChannel) {
    if announce(tcp, channel).is_err() {
        return;
    }
    let linger_close = async {
        while let Ok(Some(control)) = control(tcp, channel, true).await {
            // One OPEN may have crossed with what we said. Who sends more while it reads nothing gets no answer.
            if let Control::Open(_) = control
                && (channel.session.has_unsent() || decline(tcp, channel, Outcome::NotOpened, None).is_err())
            {
                return;
            }
        }
    };
    let _ = timeout(LINGER_TIMEOUT, linger_close).await;
    tunnel_pool::close(tcp, channel);
}

/// Accepts OPEN. The relay sends it, with the application's first words if they come soon.
pub(crate) fn accept(channel: &mut PeerChannel) -> Result<(), ChannelError> {
    say(channel, Outcome::Accepted, None)
}

/// Answers OPEN with something else, as far as the socket takes it now.
pub(crate) fn decline(tcp: &TcpStream, channel: &mut PeerChannel, outcome: Outcome, reason: Option<Reason>) -> Result<(), ChannelError> {
    say(channel, outcome, reason)?;
    channel.session.try_flush(tcp).map_err(ChannelError::from)
}

fn say(channel: &mut PeerChannel, outcome: Outcome, reason: Option<Reason>) -> Result<(), ChannelError> {
    let Some(tunnel) = &channel.tunnel else { return Ok(()) };
    let status = Status {
        outcome: outcome.into(),
        reason: reason.map(|r| r.label().to_owned()).unwrap_or_default(),
        reached_at: tunnel.address.to_string(),
        reusable: tunnel.reusable && outcome == Outcome::Accepted,
    };
    channel.session.send(&Control::Status(status).encode()).map_err(ChannelError::from)
}

/// Answers OPEN with a refusal and closes so that it arrives.
pub(crate) async fn refuse(tcp: &TcpStream, channel: &mut PeerChannel, reason: Reason) {
    let _ = decline(tcp, channel, Outcome::Refused, Some(reason));
    socket::linger_close(tcp).await;
}

/// Takes over from `open` what names the connection.
pub(crate) fn adopt(connection: &mut Connection<'_>, open: &Open) -> Result<(), Failure> {
    let record = &mut *connection.record;
    let Some(id) = ConnectionId::from_peer(&open.connection_id) else {
        return Err(Failure::with(Reason::TunnelProtocolError, "OPEN names no connection"));
    };
    let Some(peer) = record.peer.id().cloned() else { return Err(Failure::new(Reason::NoPeerCertificate)) };
    if !connection.shared.registry.name(connection.handle, peer, id) {
        return Err(Failure::with(Reason::DuplicateConnectionId, format!("{id} is open already")));
    }
    record.connection_id = id;
    record.trace_id = ConnectionId::from_peer(&open.trace_id);
    record.parent_span = SpanId::from_peer(&open.span_id);
    Ok(())
}

/// The next control frame; none at the end of the session. Data belongs to no connection here: it is an error, or skipped.
async fn control(tcp: &TcpStream, channel: &mut PeerChannel, skip_data: bool) -> Result<Option<Control>, ChannelError> {
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(Err(error)) = channel.session.poll_flush(tcp, cx) {
                return Poll::Ready(Err(error.into()));
            }
            let filled = ready!(channel.session.poll_fill(tcp, cx))?;
            if filled == sidegate_tls::Filled::End {
                return Poll::Ready(Ok(None));
            }
            let Some(tunnel) = &mut channel.tunnel else { return Poll::Ready(Ok(None)) };
            let control = tunnel.next_control(channel.session.plaintext())?;
            if tunnel.data > 0 && !skip_data {
                return Poll::Ready(Err(Malformed("data without a connection").into()));
            }
            tunnel.skip_data(channel.session.plaintext());
            if control.is_some() {
                return Poll::Ready(Ok(control));
            }
        }
    })
    .await
}
