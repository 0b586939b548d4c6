//! The handshake of either direction: a deadline, and what it leaves in the record.

use std::time::Instant;

use sidegate_core::{Lap, Peer, Reason, RevocationStatus, Transport};
use sidegate_net::socket;
use sidegate_tls::{HandshakeFailure, Session};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::handshake_permit::HandshakePermit;

/// Runs `handshake` on `tcp`. The permit is given back once it is over, before the peer of one that has failed is told.
pub(crate) async fn shake_hands(
    connection: &mut Connection<'_>,
    tcp: &TcpStream,
    permit: HandshakePermit<'_>,
    handshake: impl Future<Output = Result<Session, HandshakeFailure>>,
) -> Result<Session, Failure> {
    let start = Instant::now();
    let deadline = connection.shared.settings.timeouts.handshake.duration();
    let result = timeout(deadline, handshake).await;
    let lap = Lap::since(start);
    drop(permit);
    let (metrics, direction) = (&connection.shared.telemetry.metrics, connection.record.direction);
    connection.record.stages.handshake = Some(lap);
    match result {
        Ok(Ok(session)) => {
            metrics.handshake_established(direction, session.facts.resumed, lap.took);
            establish(connection, &session, session.peer.revocation);
            connection.record.stages.verify = Some(session.verify);
            Ok(session)
        }
        Ok(Err(failure)) => {
            metrics.handshake_failed(direction, failure.reason, lap.took);
            if failure.told_the_peer() {
                socket::linger_close(tcp).await;
            }
            connection.record.peer = Peer::unverified(failure.claimed_id, failure.certificate);
            connection.record.stages.verify = failure.verify;
            Err(Failure::with(failure.reason, failure.detail))
        }
        Err(_) => {
            metrics.handshake_failed(direction, Reason::HandshakeTimeout, lap.took);
            Err(Failure::with(Reason::HandshakeTimeout, format!("not done within {deadline:?}")))
        }
    }
}

/// Puts the connection on `session`, whose peer was looked up in revocation lists with this result.
pub(crate) fn establish(connection: &mut Connection<'_>, session: &Session, status: RevocationStatus) {
    connection.shared.telemetry.metrics.revocation(status);
    let record = &mut *connection.record;
    record.transport = Some(Transport::Mtls);
    record.peer = session.peer.on_record(status);
    record.tls = Some(session.facts.clone());
}
