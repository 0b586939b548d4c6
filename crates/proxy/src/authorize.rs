//! Authorization, after the handshake: only now identity, port and destination are all known.

use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime};

use sidegate_config::schema::Mode;
use sidegate_core::{ConnectionRecord, Direction, HandshakeFacts, Lap};
use sidegate_policy::{PeerCertificate, Query, TlsFacts, Verdict};
use sidegate_tls::{PeerIdentity, Session};

use crate::course::{inbound_verdict, outbound_verdict, unexpected};
use crate::failure::Failure;
use sidegate_control::Destination;
use sidegate_control::{Snapshot, Tls};

/// What is said of a client at a port of this mode.
pub(crate) fn client_verdict(
    snapshot: &Snapshot,
    mode: Mode,
    (peer, facts): (&PeerIdentity, &HandshakeFacts),
    from: IpAddr,
    to: SocketAddr,
) -> Verdict {
    let query = Query {
        client: Some(&peer.id),
        server: snapshot.tls.as_ref().map(|tls| &tls.id),
        ..of_session(peer, facts, Query::inbound(None, from, to, SystemTime::now()))
    };
    inbound_verdict(&snapshot.policy, mode, &query)
}

/// What is said of a client without identity: where those may pass a deny rule still counts.
pub(crate) fn plaintext_verdict(snapshot: &Snapshot, mode: Mode, from: IpAddr, to: SocketAddr) -> Verdict {
    let server = snapshot.tls.as_ref().map(|tls| &tls.id);
    let query = Query { server, ..Query::inbound(None, from, to, SystemTime::now()) };
    inbound_verdict(&snapshot.policy, mode, &query)
}

/// What is said of a server; nothing if it is not one that may answer at the destination.
pub(crate) fn server_verdict(
    snapshot: &Snapshot,
    destination: &Destination,
    tls: &Tls,
    (peer, facts): (&PeerIdentity, &HandshakeFacts),
    from: IpAddr,
    to: SocketAddr,
) -> Option<Verdict> {
    let query = Query {
        direction: Direction::Outbound,
        client: Some(&tls.id),
        server: Some(&peer.id),
        ..of_session(peer, facts, Query::inbound(None, from, to, SystemTime::now()))
    };
    outbound_verdict(&snapshot.policy, destination, &tls.trust_domain, &query)
}

/// Whether policy lets the client in.
pub(crate) fn authorize_client(
    snapshot: &Snapshot,
    mode: Mode,
    session: &Session,
    to: SocketAddr,
    record: &mut ConnectionRecord,
) -> Result<(), Failure> {
    let start = Instant::now();
    let verdict = client_verdict(snapshot, mode, (&session.peer, &session.facts), record.downstream.ip(), to);
    record.stages.authorize = Some(Lap::since(start));
    settle(verdict, record)
}

/// Whether a client without identity may use a port where those may pass.
pub(crate) fn authorize_plaintext(snapshot: &Snapshot, mode: Mode, to: SocketAddr, record: &mut ConnectionRecord) -> Result<(), Failure> {
    settle(plaintext_verdict(snapshot, mode, record.downstream.ip(), to), record)
}

/// Whether the server is one that may answer at the destination, and policy lets us talk to it.
pub(crate) fn authorize_server(
    snapshot: &Snapshot,
    destination: &Destination,
    tls: &Tls,
    session: &Session,
    record: &mut ConnectionRecord,
) -> Result<(), Failure> {
    let start = Instant::now();
    // Without a destination there would be no session.
    let to = record.original_destination.unwrap_or(record.downstream);
    let verdict = server_verdict(snapshot, destination, tls, (&session.peer, &session.facts), record.downstream.ip(), to);
    record.stages.authorize = Some(Lap::since(start));
    match verdict {
        Some(verdict) => settle(verdict, record),
        None => {
            let (decision, reason, detail) = unexpected(destination, &tls.trust_domain);
            record.decision = Some(decision);
            Err(Failure::with(reason, detail))
        }
    }
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

fn settle(verdict: Verdict, record: &mut ConnectionRecord) -> Result<(), Failure> {
    record.decision = Some(verdict.decision);
    verdict.reason.map_or(Ok(()), |reason| Err(Failure::new(reason)))
}
