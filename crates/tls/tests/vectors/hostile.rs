//! Input that nobody who means well sends: an error each time, never a panic, and never for long.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustls::pki_types::CertificateDer;
use sidegate_core::Reason;
use sidegate_identity::unix_now;
use sidegate_tls::Role;

use crate::pki::{Ca, ID, Spec, World};
use crate::verdict::judge;

#[test]
fn no_prefix_of_a_certificate_is_one() {
    let world = World::new();
    let trust = world.trust();
    let intermediate = Ca::under(&world.ours, &Spec::ca("intermediate"));
    let leaf = Spec::leaf(ID).signed_by(&intermediate, &world.leaf_key);
    for length in 0..leaf.len() {
        let cut = CertificateDer::from(leaf[..length].to_vec());
        let failure = judge(&[cut, intermediate.der.clone()], Role::Client, &trust, unix_now()).unwrap_err();
        assert_eq!((failure.reason, failure.claimed_id), (Reason::CertificateMalformed, None), "{length} bytes");
    }
    for length in 0..intermediate.der.len() {
        let cut = CertificateDer::from(intermediate.der[..length].to_vec());
        judge(&[leaf.clone(), cut], Role::Client, &trust, unix_now()).unwrap_err();
    }
}

#[test]
fn no_certificate_with_a_wrong_bit_is_accepted() {
    let world = World::new();
    let trust = world.trust();
    let leaf = Spec::leaf(ID).signed_by(&world.ours, &world.leaf_key);
    for at in 0..leaf.len() * 8 {
        let mut wrong = leaf.to_vec();
        wrong[at / 8] ^= 1 << (at % 8);
        assert!(judge(&[wrong.into()], Role::Server, &trust, unix_now()).is_err(), "bit {at}");
    }
}

/// Same names, other keys: every one of them might be the issuer, at every depth.
#[test]
fn a_maze_of_issuers_takes_no_long() {
    let world = World::new();
    let trust = world.trust();
    let maze: Vec<Ca> = (0..40).map(|_| Ca::under(&world.federated, &Spec::ca("maze"))).collect();
    let mut chain = vec![Spec::leaf(ID).signed_by(&maze[0], &world.leaf_key)];
    for (at, ca) in maze.iter().enumerate() {
        chain.push(Spec::ca("maze").signed_by(&maze[(at + 1) % maze.len()], &ca.key));
    }
    let start = Instant::now();
    let failure = judge(&chain, Role::Client, &trust, unix_now()).unwrap_err();
    assert!(matches!(failure.reason, Reason::UnknownIssuer | Reason::PathInvalid), "{failure:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn garbage_is_refused() {
    let world = World::new();
    let trust = world.trust();
    let leaf = Spec::leaf(ID).signed_by(&world.ours, &world.leaf_key);
    let bytes = || proptest::collection::vec(any::<u8>(), 0..600);
    let spliced = (0..leaf.len(), bytes()).prop_map(|(at, bytes)| [&leaf[..at], &bytes].concat());
    TestRunner::new(Config { failure_persistence: None, ..Config::default() })
        .run(&(prop_oneof![bytes(), spliced], bytes()), |(leaf, intermediate)| {
            prop_assert!(judge(&[leaf.into(), intermediate.into()], Role::Server, &trust, unix_now()).is_err());
            Ok(())
        })
        .unwrap();
}
