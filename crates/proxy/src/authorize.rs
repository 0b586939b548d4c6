//! Authorization, after the handshake: only now identity, port and destination are all known.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use sidegate_core::{ConnectionRecord, Decision, HandshakeFacts, Lap, Reason};
use sidegate_policy::{Query, Verdict};
use sidegate_tls::{PeerIdentity, Session};

use crate::attempt::Failure;
use crate::settings::Destination;
use crate::snapshot::{Snapshot, Tls};

/// What policy is asked about a client.
pub(crate) fn client_query<'a>(peer: &'a PeerIdentity, facts: &'a HandshakeFacts, from: IpAddr, to: SocketAddr) -> Query<'a> {
    Query { peer: Some(&peer.id), peer_address: from, destination: to, sni: facts.sni.as_deref() }
}

/// What policy is asked about a client without an identity.
pub(crate) fn plaintext_query(from: IpAddr, to: SocketAddr) -> Query<'static> {
    Query { peer: None, peer_address: from, destination: to, sni: None }
}

/// Whether policy lets the client in.
pub(crate) fn authorize_client(
    snapshot: &Snapshot,
    session: &Session,
    from: IpAddr,
    to: SocketAddr,
    record: &mut ConnectionRecord,
) -> Result<(), Failure> {
    let start = Instant::now();
    let verdict = snapshot.policy.decide(&client_query(&session.peer, &session.facts, from, to));
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
    match snapshot.policy.denies_plaintext(&plaintext_query(from, to)) {
        Some(verdict) => settle(verdict, record),
        None => {
            record.decision = Some(Decision { allowed: true, rule: mode.into() });
            Ok(())
        }
    }
}

/// Whether the server is one that may answer at the destination.
pub(crate) fn authorize_server(
    destination: &Destination,
    tls: &Tls,
    session: &Session,
    record: &mut ConnectionRecord,
) -> Result<(), Failure> {
    let start = Instant::now();
    let allowed = destination.expects(&session.peer.id, &tls.trust_domain);
    record.stages.authorize = Some(Lap::since(start));
    record.decision = Some(Decision { allowed, rule: destination.rule.clone() });
    if allowed {
        return Ok(());
    }
    Err(Failure::with(Reason::UnexpectedPeer, format!("expected {}", destination.expected(&tls.trust_domain))))
}

fn settle(verdict: Verdict, record: &mut ConnectionRecord) -> Result<(), Failure> {
    record.decision = Some(verdict.decision);
    verdict.reason.map_or(Ok(()), |reason| Err(Failure::new(reason)))
}
