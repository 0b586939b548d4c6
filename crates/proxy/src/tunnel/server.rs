//! The server's side of a tunnel: waiting for OPEN, and answering it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use sidegate_core::{ConnectionId, ConnectionRecord, Direction, Reason, SpanId};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::frame::{Control, Malformed};
use super::v1::{GoAway, Open, Outcome, Status};
use crate::attempt::Failure;
use crate::limits::IdlePlace;
use crate::registry::Live;
use crate::secure::{Secure, SecureError};
use crate::shared::{Phase, Shared};
use crate::socket;
use crate::tunnel::pool;

/// How long a client that was told to go away may take to do so. What it opened meanwhile was not opened.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(5);

/// What a client wants on a new session.
pub(crate) enum First {
    Open(Open),
    Warm,
}

/// Waits for the first frame of a new session. The caller sets the deadline.
pub(crate) async fn first(tcp: &TcpStream, secure: &mut Secure) -> Result<First, SecureError> {
    match control(tcp, secure, false).await? {
        Some(Control::Open(open)) => Ok(First::Open(open)),
        Some(Control::Warm) => Ok(First::Warm),
        Some(_) => Err(Malformed("a session that begins with neither OPEN nor WARM").into()),
        None => Err(SecureError::Wire(sidegate_tls::WireError::Truncated)),
    }
}

/// Waits for the next OPEN on a session that has none. None when the session is over, in whatever way.
pub(crate) async fn next(shared: &Arc<Shared>, tcp: &TcpStream, secure: &mut Secure) -> Option<Open> {
    let place = IdlePlace::take(shared, Direction::Inbound);
    let mut phase = shared.phase.subscribe();
    let mut renewals = shared.renewals.subscribe();
    // The client's own limit is half of this, so that as a rule it is the client who closes.
    let span = shared.settings.timeouts.tunnel_idle.duration() * 2;
    if span.is_zero() || place.is_none() {
        // There is no room to wait for an answer.
        let _ = announce(tcp, secure);
        socket::farewell(tcp).await;
        return None;
    }
    let made = secure.tunnel.as_ref().map_or(0, |tunnel| tunnel.renewal);
    tokio::select! {
        biased;
        // Also one that came about while the last connection was open.
        _ = renewals.wait_for(|now| *now != made) => {}
        found = timeout(span, control(tcp, secure, false)) => match found {
            Ok(Ok(Some(Control::Open(open)))) => return Some(open),
            // Over, or broken: nobody is served by saying more.
            Ok(Ok(Some(Control::GoAway(_)) | None) | Err(_)) => {
                pool::close(tcp, secure);
                return None;
            }
            Ok(Ok(Some(_))) => return None,
            Err(_) => {}
        },
        _ = phase.wait_for(|p| *p > Phase::Settling) => {}
    }
    go_away(tcp, secure).await;
    None
}

/// Says that no more connections are taken, as far as the socket takes it now.
fn announce(tcp: &TcpStream, secure: &mut Secure) -> Result<(), SecureError> {
    let opened = secure.tunnel.as_ref().map_or(0, |tunnel| tunnel.opened);
    secure.session.send(&Control::GoAway(GoAway { opened }).encode())?;
    secure.session.try_flush(tcp).map_err(SecureError::from)
}

/// Says that no more connections are taken, and waits until the client has closed: a reset could overtake what we say.
pub(crate) async fn go_away(tcp: &TcpStream, secure: &mut Secure) {
    if announce(tcp, secure).is_err() {
        return;
    }
    let farewell = async {
        while let Ok(Some(control)) = control(tcp, secure, true).await {
            // One OPEN may have crossed with what we said. Who sends more while it reads nothing gets no answer.
            if let Control::Open(_) = control
                && (secure.session.has_unsent() || decline(tcp, secure, Outcome::NotOpened, None).is_err())
            {
                return;
            }
        }
    };
    let _ = timeout(FAREWELL, farewell).await;
    pool::close(tcp, secure);
}

/// Accepts OPEN. The relay sends it, with the application's first words if they come soon.
pub(crate) fn accept(secure: &mut Secure) -> Result<(), SecureError> {
    say(secure, Outcome::Accepted, None)
}

/// Answers OPEN with something else, as far as the socket takes it now.
pub(crate) fn decline(tcp: &TcpStream, secure: &mut Secure, outcome: Outcome, reason: Option<Reason>) -> Result<(), SecureError> {
    say(secure, outcome, reason)?;
    secure.session.try_flush(tcp).map_err(SecureError::from)
}

fn say(secure: &mut Secure, outcome: Outcome, reason: Option<Reason>) -> Result<(), SecureError> {
    let Some(tunnel) = &secure.tunnel else { return Ok(()) };
    let status = Status {
        outcome: outcome.into(),
        reason: reason.map(|r| r.label().to_owned()).unwrap_or_default(),
        reached_at: tunnel.address.to_string(),
        reusable: tunnel.reusable && outcome == Outcome::Accepted,
    };
    secure.session.send(&Control::Status(status).encode()).map_err(SecureError::from)
}

/// Answers OPEN with a refusal and closes so that it arrives.
pub(crate) async fn refuse(tcp: &TcpStream, secure: &mut Secure, reason: Reason) {
    let _ = decline(tcp, secure, Outcome::Refused, Some(reason));
    socket::farewell(tcp).await;
}

/// Takes over from `open` what names the connection.
pub(crate) fn adopt(shared: &Shared, live: &Live, record: &mut ConnectionRecord, open: &Open) -> Result<(), Failure> {
    let Some(id) = ConnectionId::from_peer(&open.connection_id) else {
        return Err(Failure::with(Reason::TunnelProtocolError, "OPEN names no connection"));
    };
    let Some(peer) = record.peer_id.clone() else { return Err(Failure::new(Reason::NoPeerCertificate)) };
    if !shared.registry.name(live, peer, id) {
        return Err(Failure::with(Reason::DuplicateConnectionId, format!("{id} is open already")));
    }
    record.connection_id = id;
    record.trace_id = ConnectionId::from_peer(&open.trace_id);
    record.parent_span = SpanId::from_peer(&open.span_id);
    Ok(())
}

/// The next control frame; none at the end of the session. Data belongs to no connection here: it is an error, or skipped.
async fn control(tcp: &TcpStream, secure: &mut Secure, skip_data: bool) -> Result<Option<Control>, SecureError> {
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(Err(error)) = secure.session.poll_flush(tcp, cx) {
                return Poll::Ready(Err(error.into()));
            }
            let filled = ready!(secure.session.poll_fill(tcp, cx))?;
            if filled == sidegate_tls::Filled::End {
                return Poll::Ready(Ok(None));
            }
            let Some(tunnel) = &mut secure.tunnel else { return Poll::Ready(Ok(None)) };
            let control = tunnel.deframe(&mut secure.session)?;
            if tunnel.data > 0 && !skip_data {
                return Poll::Ready(Err(Malformed("data without a connection").into()));
            }
            tunnel.skip_data(&mut secure.session);
            if control.is_some() {
                return Poll::Ready(Ok(control));
            }
        }
    })
    .await
}
