//! Input that nobody who means well sends: an error each time, never a panic, and never for long.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use rustls::pki_types::CertificateDer;
use sidegate_core::{Reason, TrustDomain};
use sidegate_identity::{Bundle, unix_now};
use sidegate_tls::verify::{Work, verify_measured};
use sidegate_tls::{Role, TrustStore, VerifyFailure};

use crate::pki::{Ca, ID, Name, Spec, World, name_constraints, names, oid};
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
    for size in [7, 40] {
        let maze: Vec<Ca> = (0..size).map(|_| Ca::under(&world.federated, &Spec::ca("maze"))).collect();
        let mut chain = vec![Spec::leaf(ID).signed_by(&maze[0], &world.leaf_key)];
        for (at, ca) in maze.iter().enumerate() {
            chain.push(Spec::ca("maze").signed_by(&maze[(at + 1) % maze.len()], &ca.key));
        }
        let (failure, work) = judge_measured(&chain, &trust);
        assert!(matches!(failure.reason, Reason::UnknownIssuer | Reason::BadSignature | Reason::CertificateMalformed), "{failure:?}");
        assert!(work.signatures <= MOST_SIGNATURES, "{work:?}");
    }
}

/// As many signatures as the quickest keys allow.
const MOST_SIGNATURES: u32 = 50;

fn judge_measured(chain: &[CertificateDer<'_>], trust: &TrustStore) -> (VerifyFailure, Work) {
    let (leaf, intermediates) = chain.split_first().unwrap();
    let (verdict, work) = verify_measured(leaf, intermediates, Role::Client, trust, unix_now());
    (verdict.unwrap_err(), work)
}

/// What once took seconds: nine CAs, each of which might be the issuer of each, and hundreds of small certificates that are read at
/// every step.
#[test]
fn a_chain_full_of_junk_is_refused_at_once() {
    let world = World::new();
    let trust = world.trust();
    let stranger = Ca::root(&Spec::ca("x"));
    let mut chain = vec![Spec::leaf(ID).signed_by(&stranger, &world.leaf_key)];
    chain.extend((0..9).map(|_| Ca::root(&Spec::ca("x")).der));
    let junk = Spec::ca("y").without(oid::BASIC_CONSTRAINTS).without(oid::KEY_USAGE).public_key(Vec::new());
    let mut left = 32 * 1024 - chain.iter().map(|certificate| certificate.len()).sum::<usize>();
    loop {
        let one = junk.signed_by(&stranger, &world.leaf_key);
        let Some(rest) = left.checked_sub(one.len()) else { break };
        (chain, left) = ([chain, vec![one]].concat(), rest);
    }
    assert!(chain.len() > 150, "{}", chain.len());
    let (failure, work) = judge_measured(&chain, &trust);
    assert_eq!(failure.reason, Reason::CertificateMalformed, "{failure:?}");
    assert_eq!(work.signatures + work.refused, 0);
}

/// Each name of a leaf is compared with each name constraint of each CA above it.
#[test]
fn names_and_constraints_are_few() {
    let world = World::new();
    let trust = world.trust();
    let hosts: Vec<String> = (0..101).map(|i| format!("a{i}.b")).collect();
    let dns: Vec<Name<'_>> = hosts.iter().map(|host| Name::Dns(host)).collect();
    let named = |count: usize| Spec::leaf(ID).with(names(&[&dns[..count], &[Name::Uri(ID)]].concat()));
    for (name, leaf, constraints, reason) in [
        ("as many as may be", named(99), 100, None),
        ("too many names", named(100), 1, Some(Reason::CertificateMalformed)),
        ("too many constraints", named(1), 101, Some(Reason::NameConstraints)),
    ] {
        let excluded: Vec<String> = (0..constraints).map(|i| format!("b{i}.c")).collect();
        let excluded: Vec<Name<'_>> = excluded.iter().map(|host| Name::Dns(host)).collect();
        let ca = Ca::under(&world.ours, &Spec::ca("ca").and(name_constraints(&[], &excluded)));
        let verdict = judge(&[leaf.signed_by(&ca, &world.leaf_key), ca.der], Role::Client, &trust, unix_now());
        assert_eq!(verdict.err().map(|failure| failure.reason), reason, "{name}");
    }
}

/// Chains of all shapes, from CAs that nobody trusts, and from one that somebody does: names, keys and signers by chance. What the
/// worst of them costs is bounded.
#[test]
fn no_shape_of_a_chain_costs_more_than_a_chain_may() {
    let mut world = World::new();
    // A bundle in which all CAs have one name.
    let twins: Vec<Ca> = (0..20).map(|_| Ca::root(&Spec::ca("x"))).collect();
    let domain = TrustDomain::new("prod.example").unwrap();
    world.bundles.insert(domain.clone(), Bundle::new(&domain, twins.iter().map(|ca| ca.der.clone()).collect(), &mut Vec::new()));
    let trust = world.trust();
    let algorithms = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
    let keys: Vec<Arc<KeyPair>> = (0..9).map(|at| Arc::new(KeyPair::generate_for(algorithms[at % 3]).unwrap())).collect();
    let names = ["x", "x", "x", "y", "z"];
    // Of each certificate: its name, its key, its issuer's name and key; `keys` and beyond are the bundle's.
    let link = || (0..names.len(), 0..keys.len(), 0..names.len(), 0..keys.len() + 1);
    let worst = std::cell::Cell::new(Work::default());
    TestRunner::new(Config { failure_persistence: None, ..Config::default() })
        .run(&proptest::collection::vec(link(), 1..8), |links| {
            let signer = |name: usize, key: usize| Ca {
                subject: names[name].to_owned(),
                key: KeyPair::try_from(keys.get(key).map_or_else(|| twins[19].key.serialize_der(), |key| key.serialize_der())).unwrap(),
                der: twins[0].der.clone(),
            };
            let (_, _, name, key) = links[0];
            let mut chain = vec![Spec::leaf(ID).signed_by(&signer(name, key), &world.leaf_key)];
            let cas = links.iter().map(|(name, key, issuer, by)| Spec::ca(names[*name]).signed_by(&signer(*issuer, *by), &keys[*key]));
            chain.extend(cas);
            let (leaf, intermediates) = chain.split_first().unwrap();
            let (_, work) = verify_measured(leaf, &intermediates[..intermediates.len().min(7)], Role::Client, &trust, unix_now());
            prop_assert!(work.signatures <= MOST_SIGNATURES, "{work:?}");
            if work.signatures > worst.get().signatures {
                worst.set(work);
            }
            Ok(())
        })
        .unwrap();
    println!("the worst: {:?}", worst.get());
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
