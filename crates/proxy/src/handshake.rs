//! The handshake of either direction: a deadline, and what it leaves in the record.

use std::time::Instant;

use sidegate_control::{Snapshot, Tls};
use sidegate_core::{ConnectionRecord, Lap, Reason, Transport};
use sidegate_tls::{HandshakeFailure, Session};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::handshake_permit::HandshakePermit;
use crate::shared::Shared;
use sidegate_net::socket;

/// The TLS configurations of `snapshot` for a connection, whose record is told of our side of it.
pub(crate) fn tls_for<'a>(snapshot: &'a Snapshot, record: &mut ConnectionRecord) -> Result<&'a Tls, Failure> {
    let tls = snapshot.valid_tls().ok_or(Failure::new(Reason::NotReady))?;
    record.local_id = Some(tls.local_id.clone());
    record.local_certificate = Some(tls.local_certificate.clone());
    Ok(tls)
}

/// Runs `handshake` on `tcp`. The permit is given back once it is over, before the peer of one that has failed is told.
pub(crate) async fn shake_hands(
    shared: &Shared,
    tcp: &TcpStream,
    record: &mut ConnectionRecord,
    permit: HandshakePermit<'_>,
    handshake: impl Future<Output = Result<Session, HandshakeFailure>>,
) -> Result<Session, Failure> {
    let start = Instant::now();
    let deadline = shared.settings.timeouts.handshake.duration();
    let result = timeout(deadline, handshake).await;
    let lap = Lap::since(start);
    drop(permit);
    record.stages.handshake = Some(lap);
    let metrics = &shared.telemetry.metrics;
    match result {
        Ok(Ok(session)) => {
            metrics.handshake_established(record.direction, session.facts.resumed, lap.took);
            metrics.revocation(session.peer.revocation);
            establish(record, &session);
            record.stages.verify = Some(session.verify);
            Ok(session)
        }
        Ok(Err(failure)) => {
            metrics.handshake_failed(record.direction, failure.reason, lap.took);
            if failure.told_the_peer() {
                socket::linger_close(tcp).await;
            }
            record.claimed_id = failure.claimed_id;
            record.peer_certificate = failure.certificate;
            record.stages.verify = failure.verify;
            Err(Failure::with(failure.reason, failure.detail))
        }
        Err(_) => {
            metrics.handshake_failed(record.direction, Reason::HandshakeTimeout, lap.took);
            Err(Failure::with(Reason::HandshakeTimeout, format!("not done within {deadline:?}")))
        }
    }
}

/// Tells `record` of the session that the connection is on.
pub(crate) fn establish(record: &mut ConnectionRecord, session: &Session) {
    record.transport = Some(Transport::Mtls);
    record.peer_id = Some(session.peer.text.clone());
    record.peer_certificate = Some(session.peer.certificate.clone());
    record.revocation = Some(session.peer.revocation);
    record.tls = Some(session.facts.clone());
}
