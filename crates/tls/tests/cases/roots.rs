//! A peer is judged by the bundle of its own trust domain only.

use sidegate_core::Reason;

use super::{Cases, Verdict};
use crate::pki::{Ca, ID, Spec};

const OTHER: &str = "spiffe://other.example/web";

pub(super) fn add(cases: &mut Cases<'_>) {
    federation(cases);
    impostors(cases);
    states(cases);
}

fn federation(cases: &mut Cases<'_>) {
    let world = cases.world;
    let theirs = |id: &str| vec![Spec::leaf(id).signed_by(&world.federated, &world.leaf_key)];
    cases.add("root: federated", theirs(OTHER), Verdict::Accepted(OTHER.to_owned()));
    cases.refuses("root: federated, claims our trust domain", theirs(ID), Reason::UnknownIssuer);
    let chain = cases.ours(&Spec::leaf(OTHER));
    cases.refuses_claiming("root: ours, claims a federated trust domain", chain, Reason::UnknownIssuer, Some(OTHER));
    // A federated CA that makes itself an intermediate with our name.
    let between = Ca::under(&world.federated, &Spec::ca("root of prod.example"));
    let chain = vec![Spec::leaf(ID).signed_by(&between, &world.leaf_key), between.der];
    cases.refuses("root: federated, with an intermediate named like our root", chain, Reason::BadSignature);
    // Cross-signed by us, it may speak for our trust domain; but not for its own.
    let cross = Spec::ca("root of other.example").signed_by(&world.ours, &world.federated.key);
    let chain = [theirs(ID), vec![cross.clone()]].concat();
    cases.accepts("root: federated, cross-signed by ours", chain);
    let chain = vec![Spec::leaf("spiffe://unknown.example/web").signed_by(&world.federated, &world.leaf_key), cross];
    cases.refuses_claiming(
        "root: cross-signed, claims a third trust domain",
        chain,
        Reason::TrustDomainUnknown,
        Some("spiffe://unknown.example/web"),
    );
}

fn impostors(cases: &mut Cases<'_>) {
    let world = cases.world;
    let stranger = Ca::root(&Spec::ca("stranger"));
    let impostor = Ca::root(&Spec::ca("root of prod.example"));
    let leaf = |ca: &Ca| Spec::leaf(ID).signed_by(ca, &world.leaf_key);
    cases.refuses("root: a stranger's", vec![leaf(&stranger)], Reason::UnknownIssuer);
    cases.refuses("root: a stranger's, sent along", vec![leaf(&stranger), stranger.der.clone()], Reason::UnknownIssuer);
    // The same subject and the same trust domain; only the key is another.
    cases.refuses("root: an impostor's", vec![leaf(&impostor)], Reason::BadSignature);
    cases.refuses("root: an impostor's, sent along", vec![leaf(&impostor), impostor.der.clone()], Reason::BadSignature);
    let own = Ca::root(&Spec::leaf(ID));
    cases.refuses("root: signed by itself", vec![own.der], Reason::UnknownIssuer);
    cases.refuses_claiming("root: presented as a leaf", vec![world.ours.der.clone()], Reason::NoSpiffeId, None);
    cases.refuses_claiming(
        "root: presented as a leaf, with the trust domain's ID",
        vec![crate::pki::fixture("root")],
        Reason::SpiffeIdWithoutPath,
        Some("spiffe://legacy.example"),
    );
}

fn states(cases: &mut Cases<'_>) {
    let world = cases.world;
    for (name, ca, domain, reason) in [
        ("of an unknown trust domain", &world.ours, "unknown.example", Reason::TrustDomainUnknown),
        ("of a subdomain of ours", &world.ours, "sub.prod.example", Reason::TrustDomainUnknown),
        ("of a trust domain with an empty bundle", &world.ours, "empty.example", Reason::TrustDomainUnknown),
        ("expired", &world.expired, "expired.example", Reason::Expired),
        ("not yet valid", &world.early, "early.example", Reason::NotYetValid),
        // webpki knows no URI constraints, so it refuses also what they would allow: closed, not open.
        ("constrained to our URIs", &world.only_uri, "only-uri.example", Reason::NameConstraints),
    ] {
        let id = format!("spiffe://{domain}/web");
        let chain = vec![Spec::leaf(&id).signed_by(ca, &world.leaf_key)];
        cases.refuses_claiming(&format!("root: {name}"), chain, reason, Some(&id));
    }
    let id = "spiffe://only-dns.example/web";
    let chain = vec![Spec::leaf(id).signed_by(&world.only_dns, &world.leaf_key)];
    cases.add("root: constrained on DNS", chain, Verdict::Accepted(id.to_owned()));
}
