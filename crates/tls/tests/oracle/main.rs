//! A second opinion: the same chains for the verifier of `spiffe-rustls`, which others wrote by the same standard.
//! Where it judges otherwise, the list here says why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "shared by several tests, each of which uses a part")]
#[path = "../cases/mod.rs"]
mod cases;
mod judge;
#[allow(dead_code, unused_imports, reason = "shared by several tests, each of which uses a part")]
#[path = "../pki/mod.rs"]
mod pki;
mod source;

use std::collections::BTreeMap;

use cases::Verdict;
use judge::Oracle;
use pki::World;
use rustls::InconsistentKeys;
use sidegate_tls::Role;

/// Where one of us refuses what the other accepts, in which role if not in both, and why we mean to.
const DIFFERENCES: &[(&str, Option<Role>, &str)] = &[
    ("id: upper-case trust domain", None, UPPER_CASE),
    ("id: upper-case scheme", None, UPPER_CASE),
    ("id: mixed-case scheme", None, UPPER_CASE),
    (
        "names: an ID and a URI that is not even UTF-8",
        None,
        "X509-SVID §2 wants exactly one URI; the oracle overlooks one that it can't read",
    ),
    (
        "leaf: no basic constraints, so no CA",
        None,
        "RFC 5280 §4.2.1.9: without them it is no CA. Vault leaves them out of leaves, go-spiffe accepts that too",
    ),
    ("key usage: not critical", None, "X509-SVID §4.3 wants it critical; the oracle leaves that to the issuer"),
    ("extended key usage: only serverAuth", Some(Role::Server), BOTH_PURPOSES),
    ("extended key usage: only clientAuth", Some(Role::Client), BOTH_PURPOSES),
    (
        "intermediate: no key usage",
        None,
        "X509-SVID §4.3 wants keyCertSign on whatever signs; the oracle follows RFC 5280 §6.1.4(n), where absent is allowed",
    ),
    ("intermediate: carries a workload's ID", None, CA_ID),
    ("intermediate: carries the leaf's ID", None, CA_ID),
    ("intermediate: carries another trust domain's ID", None, CA_ID),
    ("intermediate: carries another trust domain's workload's ID", None, CA_ID),
    ("intermediate: carries a broken ID", None, CA_ID),
    ("intermediate: carries another trust domain's ID in odd spelling", None, CA_ID),
    ("intermediate: carries also another trust domain's ID", None, CA_ID),
    ("root: expired", None, ROOT_TIME),
    ("root: not yet valid", None, ROOT_TIME),
];
const UPPER_CASE: &str = "SPIFFE-ID §2.1 has lower case only; the oracle lowers what it reads, so that one ID has several spellings";
const BOTH_PURPOSES: &str = "X509-SVID §4.4 wants both purposes; the oracle asks for the one that is used";
const CA_ID: &str = "X509-SVID §4.1: what signs may carry the ID of its own trust domain only; the oracle does not look";
const ROOT_TIME: &str = "a root vouches for nobody outside its validity; webpki, and so the oracle, does not look";

#[tokio::test]
async fn we_differ_from_the_oracle_only_where_we_mean_to() {
    let world = World::new();
    let oracle = Oracle::new(&world).await;
    let mut found = BTreeMap::new();
    let mut compared = 0;
    for case in cases::all(&world) {
        let peer = world.presenting(case.chain.clone(), case.key.clone()).svid.certified_key;
        // With a key that is not the certificate's nobody gets past the signature, so a verdict says nothing.
        if matches!(peer.keys_match(), Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch))) {
            continue;
        }
        for role in case.roles() {
            compared += 1;
            let theirs = oracle.judge(&peer, role);
            let accepted = matches!(case.verdict, Verdict::Accepted(_));
            if accepted != theirs.is_ok() {
                let why = DIFFERENCES.iter().find(|(name, ..)| *name == case.name).map_or("NOT EXPECTED", |(.., why)| why);
                println!(
                    "{} | {role:?} | we: {} | oracle: {} | {why}",
                    case.name,
                    brief(&case.verdict),
                    theirs.map_or_else(|e| e.to_string(), |()| "accepted".to_owned())
                );
                found.entry(case.name.clone()).or_insert_with(Vec::new).push(role);
            }
        }
    }
    println!("{compared} verdicts were compared");
    let roles = |role: &Option<Role>| role.map_or(vec![Role::Server, Role::Client], |role| vec![role]);
    let known: BTreeMap<_, _> = DIFFERENCES.iter().map(|(name, role, _)| (name.to_string(), roles(role))).collect();
    assert_eq!(found, known);
    assert!(compared > 300, "most of the cases should have been compared");
}

fn brief(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accepted(_) => "accepted".to_owned(),
        Verdict::Refused(reason, _) => reason.to_string(),
    }
}
