//! RFC 5280 §6 and X509-SVID §4 on what stands between the leaf and the root.

use rustls::pki_types::CertificateDer;
use sidegate_core::Reason;
use sidegate_identity::unix_now;
use sidegate_tls::Role;

use super::Cases;
use crate::pki::Usage::{CrlSign, DigitalSignature, KeyCertSign};
use crate::pki::{
    Ca, ID, Name, Spec, basic_constraints, extended_key_usage, key, key_usage, mark, name_constraints, names, oid, raw, unknown,
};

pub(super) fn add(cases: &mut Cases<'_>) {
    may_sign(cases);
    carries_id(cases);
    length(cases);
    order(cases);
    time_and_extensions(cases);
    constrained(cases);
    damage(cases);
}

impl Cases<'_> {
    /// A leaf, and the one intermediate that `spec` says.
    fn through(&self, spec: &Spec) -> Vec<CertificateDer<'static>> {
        let intermediate = Ca::under(&self.world.ours, spec);
        vec![Spec::leaf(ID).signed_by(&intermediate, &self.world.leaf_key), intermediate.der]
    }
}

fn may_sign(cases: &mut Cases<'_>) {
    let chain = cases.through(&Spec::ca("intermediate"));
    cases.accepts("intermediate: ordinary", chain);
    for (name, spec, reason) in [
        ("no CA", Spec::ca("intermediate").with(basic_constraints(false, None)), Reason::CaBasicConstraints),
        ("no basic constraints", Spec::ca("intermediate").without(oid::BASIC_CONSTRAINTS), Reason::CaBasicConstraints),
        (
            "basic constraints that can't be read",
            Spec::ca("intermediate").with(raw(oid::BASIC_CONSTRAINTS, b"garbage".to_vec())),
            Reason::CertificateMalformed,
        ),
        ("no keyCertSign", Spec::ca("intermediate").with(key_usage(&[DigitalSignature, CrlSign])), Reason::CaKeyUsage),
        ("no key usage", Spec::ca("intermediate").without(oid::KEY_USAGE), Reason::CaKeyUsage),
        (
            "key usage that can't be read",
            Spec::ca("intermediate").with(raw(oid::KEY_USAGE, b"garbage".to_vec())),
            Reason::CertificateMalformed,
        ),
        // An SVID must not be able to make SVIDs.
        ("another workload's SVID", Spec::leaf("spiffe://prod.example/db"), Reason::CaBasicConstraints),
    ] {
        let chain = cases.through(&spec);
        cases.refuses(&format!("intermediate: {name}"), chain, reason);
    }
    for (name, purpose, good, bad) in
        [("serverAuth", oid::SERVER_AUTH, Role::Server, Role::Client), ("clientAuth", oid::CLIENT_AUTH, Role::Client, Role::Server)]
    {
        let chain = cases.through(&Spec::ca("intermediate").and(extended_key_usage(&[purpose])));
        cases.accepts(&format!("intermediate: for {name} only, used so"), chain.clone()).role = Some(good);
        cases.refuses(&format!("intermediate: for {name} only, used otherwise"), chain, Reason::LeafExtendedKeyUsage).role = Some(bad);
    }
}

fn carries_id(cases: &mut Cases<'_>) {
    let carrying = |uris: &[&str]| Spec::ca("intermediate").and(names(&uris.iter().map(|uri| Name::Uri(uri)).collect::<Vec<_>>()));
    let chain = cases.through(&carrying(&["spiffe://prod.example"]));
    cases.accepts("intermediate: carries the trust domain's ID", chain);
    let chain = cases.through(&carrying(&["https://ca.prod.example/"]));
    cases.accepts("intermediate: carries a URI that is no SPIFFE ID", chain);
    for (name, uris) in [
        ("a workload's ID", vec!["spiffe://prod.example/ca"]),
        ("the leaf's ID", vec![ID]),
        ("another trust domain's ID", vec!["spiffe://other.example"]),
        ("another trust domain's workload's ID", vec!["spiffe://other.example/ca"]),
        ("a broken ID", vec!["spiffe://PROD.example"]),
        ("another trust domain's ID in odd spelling", vec!["SPIFFE://other.example"]),
        ("also another trust domain's ID", vec!["spiffe://prod.example", "spiffe://other.example"]),
    ] {
        let chain = cases.through(&carrying(&uris));
        cases.refuses(&format!("intermediate: carries {name}"), chain, Reason::CaSpiffeId);
    }
}

fn length(cases: &mut Cases<'_>) {
    let of_length = |cases: &Cases<'_>, length: usize, path_length: Option<u8>| {
        let mut top_down = vec![Ca::under(&cases.world.ours, &Spec::ca("ca 0").with(basic_constraints(true, path_length)))];
        for depth in 1..length {
            top_down.push(Ca::under(&top_down[depth - 1], &Spec::ca(&format!("ca {depth}"))));
        }
        let leaf = Spec::leaf(ID).signed_by(top_down.last().unwrap(), &cases.world.leaf_key);
        let intermediates = top_down.into_iter().rev().map(|ca| ca.der);
        std::iter::once(leaf).chain(intermediates).collect::<Vec<_>>()
    };
    let chain = of_length(cases, 1, Some(0));
    cases.accepts("path: as long as may be", chain);
    let chain = of_length(cases, 2, Some(1));
    cases.accepts("path: two as long as may be", chain);
    let chain = of_length(cases, 2, Some(0));
    cases.refuses("path: longer than its first CA allows", chain, Reason::CaBasicConstraints);
    let chain = of_length(cases, 4, Some(2));
    cases.refuses("path: much longer than its first CA allows", chain, Reason::CaBasicConstraints);
    let chain = of_length(cases, 6, None);
    cases.accepts("path: six intermediates", chain);
    let chain = of_length(cases, 7, None);
    cases.refuses("path: more intermediates than are looked at", chain, Reason::PathInvalid);
    let mut gap = of_length(cases, 3, None);
    gap.remove(2);
    cases.refuses("path: one in the middle is missing", gap, Reason::UnknownIssuer);
    let mut none = of_length(cases, 1, None);
    none.truncate(1);
    cases.refuses("path: the intermediate is missing", none, Reason::UnknownIssuer);
}

fn order(cases: &mut Cases<'_>) {
    let world = cases.world;
    let outer = Ca::under(&world.ours, &Spec::ca("outer"));
    let inner = Ca::under(&outer, &Spec::ca("inner"));
    let stranger = Ca::root(&Spec::ca("stranger"));
    let leaf = Spec::leaf(ID).signed_by(&inner, &world.leaf_key);
    let chain = |more: &[&CertificateDer<'static>]| std::iter::once(&leaf).chain(more.iter().copied()).cloned().collect::<Vec<_>>();
    cases.accepts("order: wrong way round", chain(&[&outer.der, &inner.der]));
    cases.accepts("order: the root too", chain(&[&inner.der, &outer.der, &world.ours.der]));
    cases.accepts("order: each twice", chain(&[&inner.der, &inner.der, &outer.der, &outer.der]));
    cases.accepts("order: a stranger between", chain(&[&stranger.der, &inner.der, &world.federated.der, &outer.der]));
    cases.accepts("order: the leaf again", chain(&[&leaf, &inner.der, &outer.der]));
    let garbage = CertificateDer::from(b"garbage".to_vec());
    cases.accepts("order: garbage between", chain(&[&garbage, &inner.der, &garbage, &outer.der]));
    // Two certificates of one CA, as during a rotation: any good one will do, wherever it stands.
    for (name, bad) in [
        ("without keyCertSign", Spec::ca("inner").with(key_usage(&[CrlSign]))),
        ("with a foreign ID", Spec::ca("inner").and(names(&[Name::Uri("spiffe://other.example")]))),
        ("that is no CA", Spec::ca("inner").with(basic_constraints(false, None))),
        ("that has expired", Spec::ca("inner").valid(unix_now() - 7200, unix_now() - 60)),
    ] {
        let bad = bad.signed_by(&outer, &inner.key);
        cases.accepts(&format!("order: a twin {name} before the good one"), chain(&[&bad, &inner.der, &outer.der]));
        cases.accepts(&format!("order: a twin {name} after the good one"), chain(&[&inner.der, &outer.der, &bad]));
    }
    // A circle must be seen as one.
    let (left, right) = (key(), key());
    let signer = |name: &str, key| Ca { subject: name.to_owned(), key, der: leaf.clone() };
    let (left, right) = (signer("left", left), signer("right", right));
    let circle = vec![
        Spec::leaf(ID).signed_by(&left, &world.leaf_key),
        Spec::ca("left").signed_by(&right, &left.key),
        Spec::ca("right").signed_by(&left, &right.key),
    ];
    cases.refuses("order: a circle", circle, Reason::UnknownIssuer);
}

fn time_and_extensions(cases: &mut Cases<'_>) {
    let now = unix_now();
    for (name, spec, reason) in [
        ("expired", Spec::ca("intermediate").valid(now - 7200, now - 1), Reason::Expired),
        ("not yet valid", Spec::ca("intermediate").valid(now + 3600, now + 7200), Reason::NotYetValid),
        ("unknown critical extension", Spec::ca("intermediate").and(unknown(true)), Reason::UnknownCriticalExtension),
    ] {
        let chain = cases.through(&spec);
        cases.refuses(&format!("intermediate: {name}"), chain, reason);
    }
    let chain = cases.through(&Spec::ca("intermediate").and(unknown(false)));
    cases.accepts("intermediate: unknown extension", chain);
}

fn constrained(cases: &mut Cases<'_>) {
    for (name, constraints) in [
        // webpki knows no URI constraints, so it refuses also what they would allow: closed, not open.
        ("permits only our URIs", name_constraints(&[Name::Uri("prod.example")], &[])),
        ("permits only others' URIs", name_constraints(&[Name::Uri("other.example")], &[])),
        ("excludes our URIs", name_constraints(&[], &[Name::Uri("prod.example")])),
    ] {
        let chain = cases.through(&Spec::ca("intermediate").and(constraints));
        cases.refuses(&format!("name constraints: {name}"), chain, Reason::NameConstraints);
    }
    let constraints = name_constraints(&[Name::Dns("prod.example")], &[]);
    let chain = cases.through(&Spec::ca("intermediate").and(constraints.clone()));
    cases.accepts("name constraints: on DNS, the leaf has none", chain);
    let intermediate = Ca::under(&cases.world.ours, &Spec::ca("intermediate").and(constraints));
    for (name, dns, good) in [("within", "web.prod.example", true), ("outside", "web.other.example", false)] {
        let leaf = Spec::leaf(ID).with(names(&[Name::Uri(ID), Name::Dns(dns)]));
        let chain = vec![leaf.signed_by(&intermediate, &cases.world.leaf_key), intermediate.der.clone()];
        let name = format!("name constraints: on DNS, the leaf's is {name}");
        if good {
            cases.accepts(&name, chain)
        } else {
            cases.refuses(&name, chain, Reason::NameConstraints)
        };
    }
}

fn damage(cases: &mut Cases<'_>) {
    let good = cases.through(&Spec::ca("intermediate"));
    cases.refuses("intermediate: a bit of its signature is wrong", vec![good[0].clone(), mark(&good[1], -1)], Reason::BadSignature);
    let mut longer = good[1].to_vec();
    longer.push(0);
    cases.refuses("intermediate: trailing byte", vec![good[0].clone(), longer.into()], Reason::CertificateMalformed);
    let cut = good[1][..good[1].len() - 1].to_vec();
    cases.refuses("intermediate: cut", vec![good[0].clone(), cut.into()], Reason::CertificateMalformed);
    cases.refuses("intermediate: garbage", vec![good[0].clone(), b"garbage".to_vec().into()], Reason::CertificateMalformed);
    // An SVID that signs another under its own name, as its subject.
    let world = cases.world;
    let workload = Ca::with_key(&world.ours, &Spec::leaf("spiffe://prod.example/db"), key());
    let chain = vec![Spec::leaf(ID).signed_by(&workload, &world.leaf_key), workload.der, world.ours.der.clone()];
    cases.refuses("intermediate: a workload that signs", chain, Reason::CaBasicConstraints);
    let forged = Ca { subject: "intermediate".to_owned(), key: key(), der: good[1].clone() };
    cases.refuses(
        "intermediate: somebody else's key",
        vec![Spec::leaf(ID).signed_by(&forged, &world.leaf_key), forged.der],
        Reason::BadSignature,
    );
    let signs_all = Spec::ca("intermediate").with(key_usage(&[DigitalSignature, KeyCertSign]));
    let chain = cases.through(&signs_all);
    cases.accepts("intermediate: may also sign other things", chain);
}
