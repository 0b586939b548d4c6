//! Which certificates a bundle takes in, by X509-SVID §4.

use sidegate_core::TrustDomain;
use sidegate_identity::{Bundle, unix_now};

use crate::pki::Usage::{CrlSign, DigitalSignature, KeyCertSign};
use crate::pki::{Ca, ID, Name, Spec, basic_constraints, key_usage, names, oid, raw};

/// What a bundle of prod.example says of the self-signed certificate `spec`.
fn left_out(spec: &Spec) -> Option<String> {
    left_out_der(Ca::root(spec).der.to_vec())
}

fn left_out_der(der: Vec<u8>) -> Option<String> {
    let mut why = Vec::new();
    let bundle = Bundle::new(&TrustDomain::new("prod.example").unwrap(), vec![der.into()], &mut why);
    assert_eq!(bundle.authorities.len() + why.len(), 1);
    why.pop()
}

#[test]
fn what_may_sign_is_taken_in() {
    let ca = || Spec::ca("root");
    assert_eq!(left_out(&ca()), None);
    assert_eq!(left_out(&ca().with(key_usage(&[KeyCertSign]))), None);
    assert_eq!(left_out(&ca().with(basic_constraints(true, Some(0)))), None);
    assert_eq!(left_out(&ca().and(names(&[Name::Uri("spiffe://prod.example")]))), None);
    assert_eq!(left_out(&ca().and(names(&[Name::Uri("https://ca.prod.example/"), Name::Dns("ca.prod.example")]))), None);
    // RFC 5280 lets a trust anchor be without key usage, and old roots are.
    assert_eq!(left_out(&ca().without(oid::KEY_USAGE)), None);
    // Whether it is valid is asked when it is used, so that a root may be published ahead.
    let now = unix_now();
    assert_eq!(left_out(&ca().valid(now + 3600, now + 7200)), None);
    assert_eq!(left_out(&ca().valid(now - 7200, now - 3600)), None);
}

#[test]
fn what_may_not_sign_is_left_out_and_named() {
    let ca = || Spec::ca("root");
    let carrying = |uri| ca().and(names(&[Name::Uri(uri)]));
    for (spec, why) in [
        (ca().with(basic_constraints(false, None)), "is no CA certificate"),
        (ca().without(oid::BASIC_CONSTRAINTS), "is no CA certificate"),
        (ca().with(raw(oid::BASIC_CONSTRAINTS, b"garbage".to_vec())), "is no CA certificate"),
        (Spec::leaf(ID), "is no CA certificate"),
        (ca().with(key_usage(&[DigitalSignature, CrlSign])), "lacks key usage keyCertSign"),
        (ca().with(raw(oid::KEY_USAGE, b"garbage".to_vec())), "has a broken key usage"),
        (carrying("spiffe://other.example"), "`spiffe://other.example`, which is not the ID"),
        (carrying("spiffe://prod.example/ca"), "`spiffe://prod.example/ca`, which is not the ID"),
        (ca().with(raw(oid::SUBJECT_ALT_NAME, b"garbage".to_vec())), "CN=root"),
    ] {
        let found = left_out(&spec).unwrap_or_else(|| panic!("taken in, though: {why}"));
        assert!(found.starts_with("bundle of prod.example: ") && found.contains(why), "{found}");
    }
    for der in [b"".to_vec(), b"garbage".to_vec()] {
        assert!(left_out_der(der).unwrap().contains("can't be parsed"));
    }
}

#[test]
fn one_bad_certificate_does_not_spoil_a_bundle() {
    let (good, bad) = (Ca::root(&Spec::ca("good")), Ca::root(&Spec::leaf(ID)));
    let mut why = Vec::new();
    let bundle = Bundle::new(&TrustDomain::new("prod.example").unwrap(), vec![bad.der, good.der.clone()], &mut why);
    assert_eq!((bundle.authorities.len(), why.len()), (1, 1));
    assert_eq!(bundle.authorities[0].der, good.der);
}
