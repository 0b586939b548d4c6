//! Authorization, after the handshake: only now identity, port and destination are all known.

use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime};

use sidegate_core::{ConnectionRecord, Decision, Direction, Lap, Reason};
use sidegate_policy::{PeerCertificate, Query, TlsFacts, Verdict};
use sidegate_tls::Session;

use crate::attempt::Failure;
use crate::settings::Destination;
use crate::snapshot::{Snapshot, Tls};

/// Whether policy lets the client in.
pub(crate) fn authorize_client(
    snapshot: &Snapshot,
    session: &Session,
    from: IpAddr,
    to: SocketAddr,
    record: &mut ConnectionRecord,
) -> Result<(), Failure> {
    let start = Instant::now();
    let query = Query {
        client: Some(&session.peer.id),
        server: snapshot.tls.as_ref().map(|tls| &tls.id),
        ..of_session(session, Query::inbound(None, from, to, SystemTime::now()))
    };
    let verdict = snapshot.policy.decide(&query);
    record.stages.authorize = Some(Lap::since(start));
    settle(verdict, record)
}

/// Whether a client without identity may use a port where those may pass: a deny rule still counts.
pub(crate) fn authorize_plaintext(
    snapshot: &Snapshot,
    from: IpAddr,
    to: SocketAddr,
    mode: &'static str,
    record: &mut ConnectionRecord,
) -> Result<(), Failure> {
    let server = snapshot.tls.as_ref().map(|tls| &tls.id);
    let query = Query { server, ..Query::inbound(None, from, to, SystemTime::now()) };
    settle(snapshot.policy.decide_plaintext(&query, mode), record)
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
    if !destination.expects(&session.peer.id, &tls.trust_domain) {
        record.stages.authorize = Some(Lap::since(start));
        record.decision = Some(Decision::new(false, destination.rule.clone()));
        return Err(Failure::with(Reason::UnexpectedPeer, format!("expected {}", destination.expected(&tls.trust_domain))));
    }
    // Without a destination there would be no session.
    let to = record.original_destination.unwrap_or(record.downstream);
    let query = Query {
        direction: Direction::Outbound,
        client: Some(&tls.id),
        server: Some(&session.peer.id),
        destination: Some(&destination.name),
        ..of_session(session, Query::inbound(None, record.downstream.ip(), to, SystemTime::now()))
    };
    let verdict = snapshot.policy.decide_outbound(&query, &destination.rule);
    record.stages.authorize = Some(Lap::since(start));
    settle(verdict, record)
}

/// `query` with what the handshake has found.
fn of_session<'a>(session: &'a Session, query: Query<'a>) -> Query<'a> {
    let (facts, certificate) = (&session.facts, &session.peer.certificate);
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
