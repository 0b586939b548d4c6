//! The hot paths, each as something that can be done any number of times: for criterion, which takes their time, and for
//! callgrind, which counts their instructions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that can't go on has failed")]

mod material;
mod sessions;

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustls::pki_types::CertificateDer;
use sidegate_config::schema::Profile;
use sidegate_core::{ConnectionRecord, Decision, Direction, Lap, SpiffeId, Transport};
use sidegate_identity::unix_now;
use sidegate_policy::{KnownFacts, Policy, Query};
use sidegate_tls::{Role, TrustStore, verify, verify_cached};

use material::DOMAIN;
pub use material::material;
pub use sessions::{Ends, Pair};

/// A hot path, set up.
pub type Step = Box<dyn FnMut()>;

/// What sets a path up.
pub type SetUp = fn() -> Step;

/// All hot paths: how each is called, how it is set up, and how often it is to be done for a steady count of instructions: the
/// cheap ones more often, since what sets them up takes no steady number of instructions itself.
pub const PATHS: &[(&str, SetUp, u64)] = &[
    ("a full handshake, both ends", full_handshake, 20),
    ("a resumed handshake, both ends", resumed_handshake, 20),
    ("a chain verified for the first time", verify_anew, 20),
    ("a chain verified before", verify_again, 1000),
    ("a decision among 100 rules, the last matches", decide, 200),
    ("64 bytes sealed, sent, and opened", small, 2000),
    ("128 KiB sealed, sent, and opened", bulk, 60),
    ("a record begun, filled, and written as JSON", record, 1000),
];

fn full_handshake() -> Step {
    let pair = Pair::new();
    Box::new(move || drop(pair.shake(&pair.new_client())))
}

fn resumed_handshake() -> Step {
    let pair = Pair::new();
    let client = pair.new_client();
    pair.shake(&client).close();
    Box::new(move || {
        let ends = pair.shake(&client);
        assert!(ends.client.facts.resumed);
        ends.close();
    })
}

fn verify_anew() -> Step {
    let (trust, leaf) = trust();
    Box::new(move || drop(verify::verify(&leaf, &[], Role::Client, &trust, unix_now()).unwrap()))
}

fn verify_again() -> Step {
    let (trust, leaf) = trust();
    Box::new(move || drop(verify_cached(&leaf, &[], Role::Client, &trust, unix_now()).unwrap()))
}

fn trust() -> (TrustStore, CertificateDer<'static>) {
    let material = material();
    (TrustStore::new(&material), material.svid.certified_key.cert[0].clone())
}

fn decide() -> Step {
    let rule = |n: usize| {
        format!("  - {{ name: r{n}, action: allow, from: {{ spiffeIds: ['spiffe://{DOMAIN}/ns/n{n}/sa/*'] }}, to: {{ ports: [8080] }} }}\n")
    };
    let text = format!("rules:\n{}", (0..100).map(rule).collect::<String>());
    let policy = Policy::parse(&[("bench".to_owned(), text)], Profile::Production).unwrap();
    let peer = SpiffeId::new(format!("spiffe://{DOMAIN}/ns/n99/sa/web")).unwrap();
    Box::new(move || {
        let (direction, client_address, to) = (Direction::Inbound, [10, 0, 0, 1].into(), ([10, 0, 0, 2], 8080).into());
        let query = Query { client: Some(&peer), ..Query::new(KnownFacts { direction, client_address, to, time: UNIX_EPOCH }) };
        assert!(policy.decide(&query).decision.allowed);
    })
}

fn small() -> Step {
    let pair = Pair::new();
    let mut ends = pair.shake(&pair.new_client());
    Box::new(move || ends.transfer(64))
}

fn bulk() -> Step {
    let pair = Pair::new();
    let mut ends = pair.shake(&pair.new_client());
    // The buffers have to grow first.
    (0..4).for_each(|_| ends.transfer(1 << 17));
    Box::new(move || ends.transfer(1 << 17))
}

fn record() -> Step {
    let pair = Pair::new();
    let ends = pair.shake(&pair.new_client());
    let (rule, id): (Arc<str>, Arc<str>) = ("web (policy.yaml:3)".into(), "spiffe://bench.sidegate/web".into());
    let mut line = Vec::with_capacity(4096);
    Box::new(move || {
        let mut record = ConnectionRecord::new(Direction::Inbound, ([10, 0, 0, 1], 4711).into());
        record.original_destination = Some(([10, 0, 0, 2], 8080).into());
        record.transport = Some(Transport::Mtls);
        record.local_id = Some(id.clone());
        record.peer = ends.server.peer.on_record(ends.server.peer.revocation);
        record.tls = Some(ends.server.facts.clone());
        record.decision = Some(Decision::new(true, rule.clone()));
        record.stages.handshake = Some(Lap::since(record.accepted));
        record.stages.total = record.accepted.elapsed();
        line.clear();
        serde_json::to_writer(&mut line, &record).unwrap();
    })
}
