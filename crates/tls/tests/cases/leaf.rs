//! X509-SVID §4: what a leaf may be used for, when, and what else it may say.

use sidegate_core::Reason;
use sidegate_identity::unix_now;

use super::Cases;
use crate::pki::Usage::{CrlSign, DigitalSignature, KeyAgreement, KeyCertSign, KeyEncipherment};
use crate::pki::{ID, Spec, basic_constraints, extended_key_usage, key_usage, mark, oid, raw, unknown};

pub(super) fn add(cases: &mut Cases<'_>) {
    let chain = cases.ours(&Spec::leaf(ID));
    cases.accepts("an ordinary SVID", chain);
    constraints(cases);
    usage(cases);
    extended_usage(cases);
    time(cases);
    other_extensions(cases);
    damage(cases);
}

fn constraints(cases: &mut Cases<'_>) {
    let chain = cases.ours(&Spec::leaf(ID).without(oid::BASIC_CONSTRAINTS));
    cases.accepts("leaf: no basic constraints, so no CA", chain);
    for (name, extension) in [("CA", basic_constraints(true, None)), ("CA, not critical", basic_constraints(true, None).critical(false))] {
        let chain = cases.ours(&Spec::leaf(ID).with(extension));
        cases.refuses(&format!("leaf: {name}"), chain, Reason::LeafIsCa);
    }
    let chain = cases.ours(&Spec::leaf(ID).with(raw(oid::BASIC_CONSTRAINTS, b"garbage".to_vec())));
    cases.refuses("leaf: basic constraints that can't be read", chain, Reason::CertificateMalformed);
    let chain = cases.ours(&Spec::leaf(ID).and(basic_constraints(true, None)));
    cases.refuses("leaf: basic constraints twice", chain, Reason::CertificateMalformed);
}

fn usage(cases: &mut Cases<'_>) {
    for (name, usages) in
        [("and keyEncipherment", vec![DigitalSignature, KeyEncipherment]), ("and keyAgreement", vec![DigitalSignature, KeyAgreement])]
    {
        let chain = cases.ours(&Spec::leaf(ID).with(key_usage(&usages)));
        cases.accepts(&format!("key usage: digitalSignature {name}"), chain);
    }
    for (name, usages) in [
        ("keyCertSign", vec![DigitalSignature, KeyCertSign]),
        ("cRLSign", vec![DigitalSignature, CrlSign]),
        ("keyCertSign alone", vec![KeyCertSign]),
        ("no digitalSignature", vec![KeyEncipherment, KeyAgreement]),
    ] {
        let chain = cases.ours(&Spec::leaf(ID).with(key_usage(&usages)));
        cases.refuses(&format!("key usage: {name}"), chain, Reason::LeafKeyUsage);
    }
    let chain = cases.ours(&Spec::leaf(ID).without(oid::KEY_USAGE));
    cases.refuses("key usage: absent", chain, Reason::LeafKeyUsage);
    let chain = cases.ours(&Spec::leaf(ID).with(key_usage(&[DigitalSignature]).critical(false)));
    cases.refuses("key usage: not critical", chain, Reason::LeafKeyUsage);
    let chain = cases.ours(&Spec::leaf(ID).with(raw(oid::KEY_USAGE, vec![0x03, 0x01, 0x00]).critical(true)));
    cases.refuses("key usage: no bit", chain, Reason::LeafKeyUsage);
    let chain = cases.ours(&Spec::leaf(ID).with(raw(oid::KEY_USAGE, b"garbage".to_vec()).critical(true)));
    cases.refuses("key usage: can't be read", chain, Reason::CertificateMalformed);
    let chain = cases.ours(&Spec::leaf(ID).and(key_usage(&[KeyCertSign])));
    cases.refuses("key usage: twice", chain, Reason::CertificateMalformed);
}

fn extended_usage(cases: &mut Cases<'_>) {
    let chain = cases.ours(&Spec::leaf(ID).without(oid::EXTENDED_KEY_USAGE));
    cases.accepts("extended key usage: absent", chain);
    let chain = cases.ours(&Spec::leaf(ID).with(extended_key_usage(&[oid::CODE_SIGNING, oid::CLIENT_AUTH, oid::SERVER_AUTH])));
    cases.accepts("extended key usage: both and another", chain);
    for (name, purposes) in [
        ("only serverAuth", vec![oid::SERVER_AUTH]),
        ("only clientAuth", vec![oid::CLIENT_AUTH]),
        ("only another", vec![oid::CODE_SIGNING]),
        // X509-SVID §4.4 names both; "any" names neither.
        ("any", vec![oid::ANY_PURPOSE]),
        ("empty", vec![]),
    ] {
        let chain = cases.ours(&Spec::leaf(ID).with(extended_key_usage(&purposes)));
        cases.refuses(&format!("extended key usage: {name}"), chain, Reason::LeafExtendedKeyUsage);
    }
}

fn time(cases: &mut Cases<'_>) {
    let now = unix_now();
    let chain = cases.ours(&Spec::leaf(ID).valid(now - 7200, now - 1));
    cases.refuses("leaf: expired", chain, Reason::Expired);
    let chain = cases.ours(&Spec::leaf(ID).valid(now + 3600, now + 7200));
    cases.refuses("leaf: not yet valid", chain, Reason::NotYetValid);
    let chain = cases.ours(&Spec::leaf(ID).valid(now + 60, now - 60));
    cases.refuses("leaf: never valid", chain, Reason::CertificateMalformed);
    // 2100: GeneralizedTime.
    let chain = cases.ours(&Spec::leaf(ID).valid(now - 60, 4_102_444_800));
    cases.accepts("leaf: valid into the next century", chain);
}

fn other_extensions(cases: &mut Cases<'_>) {
    let chain = cases.ours(&Spec::leaf(ID).and(unknown(true)));
    cases.refuses("leaf: unknown critical extension", chain, Reason::UnknownCriticalExtension);
    let chain = cases.ours(&Spec::leaf(ID).and(unknown(false)));
    cases.accepts("leaf: unknown extension", chain);
}

fn damage(cases: &mut Cases<'_>) {
    let good = cases.ours(&Spec::leaf(ID)).remove(0);
    cases.refuses("leaf: a bit of the signature is wrong", vec![mark(&good, -1)], Reason::BadSignature);
    // The last character of the ID: what is signed says another name.
    let at = good.windows(ID.len()).position(|w| w == ID.as_bytes()).unwrap() + ID.len() - 1;
    let forged = mark(&good, isize::try_from(at).unwrap());
    cases.refuses_claiming("leaf: a bit of its name is wrong", vec![forged], Reason::BadSignature, Some("spiffe://prod.example/wec"));
    let mut longer = good.to_vec();
    longer.push(0);
    cases.refuses_claiming("leaf: trailing byte", vec![longer.into()], Reason::CertificateMalformed, None);
    let doubled = [good.to_vec(), good.to_vec()].concat();
    cases.refuses_claiming("leaf: two certificates in one", vec![doubled.into()], Reason::CertificateMalformed, None);
    cases.refuses_claiming("leaf: garbage", vec![b"not a certificate".to_vec().into()], Reason::CertificateMalformed, None);
}
