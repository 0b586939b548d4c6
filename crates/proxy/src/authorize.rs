//! Authorization, after the handshake: only now identity, port and destination are all known. A peer that is denied is told by the
//! callers: a client by `Client::refused` (`inbound.rs`), a server by `Outbound::on_new_session` (`outbound.rs`).

use std::time::{Instant, SystemTime};

use sidegate_config::schema::Mode;
use sidegate_control::{Destination, Snapshot, Tls};
use sidegate_core::{ClientAddr, Direction, HandshakeFacts, Lap, OriginalDst};
use sidegate_policy::{KnownFacts, PeerCertificate, Query, TlsFacts, Verdict};
use sidegate_tls::{PeerIdentity, Session};

use crate::connection::Connection;
use crate::course::{inbound_verdict, outbound_verdict, unexpected};
use crate::failure::Failure;

/// What is said of a client at a port of this mode.
pub(crate) fn client_verdict(
    snapshot: &Snapshot,
    mode: Mode,
    (peer, facts): (&PeerIdentity, &HandshakeFacts),
    from: ClientAddr,
    to: OriginalDst,
) -> Verdict {
    let query = Query {
        client: Some(&peer.id),
        server: snapshot.tls.as_ref().map(|tls| &tls.id),
        ..of_session(peer, facts, bare(Direction::Inbound, from, to))
    };
    inbound_verdict(&snapshot.policy, mode, &query)
}

/// What is said of a client without identity: where those may pass a deny rule still counts.
pub(crate) fn plaintext_verdict(snapshot: &Snapshot, mode: Mode, from: ClientAddr, to: OriginalDst) -> Verdict {
    let server = snapshot.tls.as_ref().map(|tls| &tls.id);
    let query = Query { server, ..bare(Direction::Inbound, from, to) };
    inbound_verdict(&snapshot.policy, mode, &query)
}

/// What is said of a server; nothing if it is not one that may answer at the destination.
pub(crate) fn server_verdict(
    snapshot: &Snapshot,
    destination: &Destination,
    tls: &Tls,
    (peer, facts): (&PeerIdentity, &HandshakeFacts),
    from: ClientAddr,
    to: OriginalDst,
) -> Option<Verdict> {
    let query = Query { client: Some(&tls.id), server: Some(&peer.id), ..of_session(peer, facts, bare(Direction::Outbound, from, to)) };
    outbound_verdict(&snapshot.policy, destination, &tls.trust_domain, &query)
}

/// Whether policy allows the client of `session` to go where it wants.
pub(crate) fn authorize_client(connection: &mut Connection<'_>, session: &Session, to: OriginalDst) -> Result<(), Failure> {
    let start = Instant::now();
    let mode = connection.shared.settings.port(to).mode;
    let verdict = client_verdict(connection.snapshot, mode, (&session.peer, &session.facts), connection.record.downstream, to);
    connection.record.stages.authorize = Some(Lap::since(start));
    settle(verdict, connection)
}

/// Whether a client without identity may use a port of this mode.
pub(crate) fn authorize_plaintext(connection: &mut Connection<'_>, mode: Mode, to: OriginalDst) -> Result<(), Failure> {
    settle(plaintext_verdict(connection.snapshot, mode, connection.record.downstream, to), connection)
}

/// Whether the server of `session` is one that may answer at the destination, and policy allows the call.
pub(crate) fn authorize_server(
    connection: &mut Connection<'_>,
    destination: &Destination,
    tls: &Tls,
    session: &Session,
    to: OriginalDst,
) -> Result<(), Failure> {
    let start = Instant::now();
    let peer = (&*session.peer, &*session.facts);
    let verdict = server_verdict(connection.snapshot, destination, tls, peer, connection.record.downstream, to);
    connection.record.stages.authorize = Some(Lap::since(start));
    match verdict {
        Some(verdict) => settle(verdict, connection),
        None => {
            let (decision, reason, detail) = unexpected(destination, &tls.trust_domain);
            connection.record.decision = Some(decision);
            Err(Failure::with(reason, detail))
        }
    }
}

fn bare(direction: Direction, from: ClientAddr, to: OriginalDst) -> Query<'static> {
    Query::new(KnownFacts { direction, client_address: from.ip(), to: *to, time: SystemTime::now() })
}

/// `query` with what the handshake has found.
fn of_session<'a>(peer: &'a PeerIdentity, facts: &'a HandshakeFacts, query: Query<'a>) -> Query<'a> {
    let certificate = &peer.certificate;
    Query {
        sni: facts.sni.as_deref(),
        tls: Some(TlsFacts { version: facts.version, group: facts.group, resumed: facts.resumed }),
        certificate: Some(PeerCertificate { serial: &certificate.serial, not_after: certificate.not_after }),
        ..query
    }
}

fn settle(verdict: Verdict, connection: &mut Connection<'_>) -> Result<(), Failure> {
    connection.record.decision = Some(verdict.decision);
    verdict.reason.map_or(Ok(()), |reason| Err(Failure::new(reason)))
}
