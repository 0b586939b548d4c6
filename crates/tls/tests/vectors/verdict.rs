//! The verifier's verdicts.

use rustls::pki_types::CertificateDer;
use sidegate_core::Reason;
use sidegate_identity::unix_now;
use sidegate_tls::verify::verify;
use sidegate_tls::{PeerIdentity, Role, TrustStore, VerifyFailure};

use crate::cases::{self, Verdict};
use crate::pki::{Ca, ID, Spec, World, fixture};

pub(crate) fn judge(chain: &[CertificateDer<'_>], role: Role, trust: &TrustStore, now: i64) -> Result<PeerIdentity, VerifyFailure> {
    let (leaf, intermediates) = chain.split_first().unwrap();
    verify(leaf, intermediates, role, trust, now)
}

#[test]
fn every_case_is_judged_as_it_should_be() {
    let world = World::new();
    let trust = world.trust();
    let mut wrong = Vec::new();
    for case in cases::all(&world) {
        for role in case.roles() {
            let found = judge(&case.chain, role, &trust, unix_now());
            let verdict = match &found {
                Ok(peer) => Verdict::Accepted(peer.text.to_string()),
                Err(failure) => Verdict::Refused(failure.reason, failure.claimed_id.clone()),
            };
            if verdict != case.verdict {
                wrong.push(format!("{} ({role:?}): {:?} was expected, not {found:?}", case.name, case.verdict));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// So what openssl made elsewhere in the cases is refused for nothing but its weakness.
#[test]
fn what_openssl_made_is_an_svid() {
    let peer = judge(&[fixture("plain")], Role::Client, &World::new().trust(), unix_now()).unwrap();
    assert_eq!(&*peer.text, "spiffe://legacy.example/old");
}

#[test]
fn a_verdict_says_who_the_peer_is() {
    let world = World::new();
    let now = unix_now();
    let chain = [Spec::leaf(ID).valid(now, now + 5).signed_by(&world.ours, &world.leaf_key)];
    let peer = judge(&chain, Role::Server, &world.trust(), now).unwrap();
    assert_eq!((peer.id.to_string().as_str(), &*peer.text, peer.certificate.not_after), (ID, ID, now + 5));
    assert!(peer.certificate.serial.starts_with("10") && peer.certificate.serial.len() == 8, "{}", peer.certificate.serial);
}

#[test]
fn both_ends_of_a_validity_are_part_of_it() {
    let world = World::new();
    let trust = world.trust();
    let now = unix_now();
    let leaf = Spec::leaf(ID).valid(now - 10, now + 10);
    let of_leaf = vec![leaf.signed_by(&world.ours, &world.leaf_key)];
    let intermediate = Ca::under(&world.ours, &Spec::ca("intermediate").valid(now - 10, now + 10));
    let of_intermediate = vec![Spec::leaf(ID).signed_by(&intermediate, &world.leaf_key), intermediate.der];
    for chain in [of_leaf, of_intermediate] {
        let at = |now| judge(&chain, Role::Client, &trust, now).map(drop).map_err(|failure| failure.reason);
        assert_eq!(at(now - 11), Err(Reason::NotYetValid));
        assert_eq!(at(now - 10), Ok(()));
        assert_eq!(at(now + 10), Ok(()));
        assert_eq!(at(now + 11), Err(Reason::Expired));
    }
}

#[test]
fn a_root_vouches_for_nobody_outside_its_own_validity() {
    let world = World::new();
    let trust = world.trust();
    let now = unix_now();
    // The leaf is valid long before and after its root, which is so for an hour each way.
    let chain = [Spec::leaf(ID).valid(now - 90_000, now + 90_000).signed_by(&world.ours, &world.leaf_key)];
    let at = |now| judge(&chain, Role::Server, &trust, now).map(drop).map_err(|failure| failure.reason);
    assert_eq!(at(now - 7200), Err(Reason::NotYetValid));
    assert_eq!(at(now), Ok(()));
    assert_eq!(at(now + 7200), Err(Reason::Expired));
}

#[test]
fn times_that_no_clock_shows_do_no_harm() {
    let world = World::new();
    let trust = world.trust();
    let chain = [Spec::leaf(ID).signed_by(&world.ours, &world.leaf_key)];
    for now in [i64::MIN, -1, 0, i64::MAX] {
        assert!(judge(&chain, Role::Server, &trust, now).is_err(), "{now}");
    }
}
