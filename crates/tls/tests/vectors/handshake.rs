//! The same cases over TCP: what both ends see of them.

use std::future::poll_fn;

use sidegate_core::Reason;
use sidegate_tls::{Role, WireError};

use crate::cases::{self, Case, Verdict};
use crate::pki::World;
use crate::wire::{End, shake, within};

const US: &str = "spiffe://prod.example/us";

#[tokio::test]
async fn every_case_ends_in_a_handshake_as_it_should() {
    let world = World::new();
    let us = world.material(US);
    let mut wrong = Vec::new();
    for case in cases::all(&world) {
        let peer = world.presenting(case.chain.clone(), case.key.clone());
        for role in case.roles() {
            let (ours, theirs) = match role {
                Role::Server => {
                    let (server, client) = shake(&peer, &us).await;
                    (client, server)
                }
                Role::Client => shake(&us, &peer).await,
            };
            if let Err(why) = check(&case, &ours, theirs, role).await {
                wrong.push(format!("{} ({role:?}): {why}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn check(case: &Case, ours: &End, theirs: End, role: Role) -> Result<(), String> {
    match (&case.verdict, &ours.outcome) {
        (Verdict::Accepted(id), Ok(session)) => {
            equal("our peer", &*session.peer.text, id.as_str())?;
            let (_, their_session) = theirs.session();
            equal("their peer", &*their_session.peer.text, US)?;
            equal("both serials", [session, &their_session].iter().any(|s| s.peer.certificate.serial.is_empty()), false)
        }
        (Verdict::Refused(reason, claim), Err(failure)) => {
            equal("reason", failure.reason, *reason)?;
            equal("claim", failure.claimed_id.as_deref(), claim.as_deref())?;
            equal("verification was timed", failure.verify.is_some(), true)?;
            equal("told the peer", failure.told_the_peer(), true)?;
            let (reason_there, detail) = last_words(theirs, role).await;
            equal("what they see", reason_there, Reason::PeerRejectedUs)?;
            if detail.contains(alert(*reason)) { Ok(()) } else { Err(format!("the alert for {reason}: {detail}")) }
        }
        (verdict, Ok(session)) => Err(format!("{verdict:?} was expected, not {}", session.peer.text)),
        (verdict, Err(failure)) => Err(format!("{verdict:?} was expected, not {failure:?}")),
    }
}

/// How a peer learns that we refuse it: as a server in the handshake; as a client afterwards, since a TLS 1.3 client
/// is done before the server has seen its certificate.
async fn last_words(mut theirs: End, role: Role) -> (Reason, String) {
    if role == Role::Server {
        return (theirs.failure().reason, theirs.failure().detail.clone());
    }
    let (tcp, session) = theirs.parts();
    match within(poll_fn(|cx| session.poll_fill(tcp, cx))).await {
        Err(WireError::Tls(reason, detail)) => (reason, detail),
        other => panic!("{other:?}"),
    }
}

/// The alert that tells the peer most (RFC 8446 §6.2), as rustls spells it.
fn alert(reason: Reason) -> &'static str {
    match reason {
        Reason::Expired | Reason::NotYetValid => "CertificateExpired",
        Reason::UnknownIssuer | Reason::TrustDomainUnknown => "UnknownCA",
        Reason::BadSignature => "DecryptError",
        Reason::LeafIsCa | Reason::LeafKeyUsage | Reason::LeafExtendedKeyUsage | Reason::WeakKey => "UnsupportedCertificate",
        Reason::CaBasicConstraints
        | Reason::CaKeyUsage
        | Reason::CaSpiffeId
        | Reason::NameConstraints
        | Reason::PathInvalid
        | Reason::SignatureAlgorithm => "AccessDenied",
        _ => "BadCertificate",
    }
}

fn equal<T: PartialEq + std::fmt::Debug + Copy>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {expected:?} was expected, not {found:?}")) }
}

/// Who presents a certificate has to have its key.
#[tokio::test]
async fn a_stolen_certificate_is_of_no_use_without_its_key() {
    let world = World::new();
    let us = world.material(US);
    let stolen = world.material("spiffe://prod.example/db").svid.certified_key.cert.clone();
    let thief = world.presenting(stolen, crate::pki::signing_key(&crate::pki::key()));
    let (_, client) = shake(&thief, &us).await;
    assert_eq!(client.failure().reason, Reason::BadSignature);
    let (server, _) = shake(&us, &thief).await;
    assert_eq!(server.failure().reason, Reason::BadSignature);
}
