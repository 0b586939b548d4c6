//! Keys and signatures: what is strong enough.

use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256};
use sidegate_core::Reason;

use super::Cases;
use crate::pki::{Ca, ID, Spec, fixture, signing_key};

pub(super) fn add(cases: &mut Cases<'_>) {
    strong(cases);
    weak_by_openssl(cases);
    weak_by_hand(cases);
}

fn strong(cases: &mut Cases<'_>) {
    for (name, algorithm, signs) in [
        ("RSA 2048", &PKCS_RSA_SHA256, true),
        ("P-384", &PKCS_ECDSA_P384_SHA384, true),
        ("P-521", &PKCS_ECDSA_P521_SHA512, false),
        ("Ed25519", &PKCS_ED25519, true),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let chain = cases.ours_with_key(&Spec::leaf(ID), &key);
        cases.accepts(&format!("key: {name}"), chain).key = signing_key(&key);
        if signs {
            let intermediate = Ca::with_key(&cases.world.ours, &Spec::ca("intermediate"), key);
            let chain = vec![Spec::leaf(ID).signed_by(&intermediate, &cases.world.leaf_key), intermediate.der];
            cases.accepts(&format!("key: {name} of an intermediate"), chain);
        }
    }
}

/// Their signatures are right; it is only that they must not count.
fn weak_by_openssl(cases: &mut Cases<'_>) {
    for (name, chain, reason) in [
        ("key: RSA 1024", vec!["rsa1024"], Reason::WeakKey),
        ("key: secp256k1", vec!["secp256k1"], Reason::WeakKey),
        ("key: Ed448", vec!["ed448"], Reason::WeakKey),
        ("signature: SHA-1", vec!["sha1"], Reason::SignatureAlgorithm),
        ("key: RSA 1024 of an intermediate", vec!["by-rsa1024-ca", "rsa1024-ca"], Reason::BadSignature),
        ("key: secp256k1 of an intermediate", vec!["by-secp256k1-ca", "secp256k1-ca"], Reason::SignatureAlgorithm),
    ] {
        let chain = chain.into_iter().map(fixture).collect();
        cases.refuses_claiming(name, chain, reason, Some("spiffe://legacy.example/old"));
    }
}

/// Nobody has these private keys; nobody needs them to present the certificate.
fn weak_by_hand(cases: &mut Cases<'_>) {
    let modulus = |bytes: usize| [&[0x00, 0xc1][..], &vec![0x55; bytes - 1]].concat();
    let rsa = |bytes| rsa(&modulus(bytes));
    for (name, spki, reason) in [
        ("RSA 2040", rsa(255), Reason::WeakKey),
        ("RSA that can't be read", hex("3012 300d 06092a864886f70d0101010500 0301 00"), Reason::CertificateMalformed),
        ("P-224", hex("301a 3010 06072a8648ce3d0201 06052b81040021 0306 00 04 01020304"), Reason::WeakKey),
        ("EC without a curve", hex("3013 3009 06072a8648ce3d0201 0306 00 04 01020304"), Reason::WeakKey),
        ("X25519", hex("302a 3005 06032b656e 0321 00 0102030405060708091011121314151617181920212223242526272829303132"), Reason::WeakKey),
        ("DSA", hex("3014 3009 06072a8648ce380401 0307 00 02040102 0304"), Reason::WeakKey),
    ] {
        let chain = cases.ours(&Spec::leaf(ID).public_key(spki));
        cases.refuses(&format!("key: {name}"), chain, reason);
    }
}

fn rsa(modulus: &[u8]) -> Vec<u8> {
    let long = |tag: u8, content: &[u8]| [&[tag, 0x82][..], &u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat();
    let key = long(0x30, &[long(0x02, modulus), vec![0x02, 0x03, 0x01, 0x00, 0x01]].concat());
    long(0x30, &[hex("300d 06092a864886f70d0101010500"), long(0x03, &[&[0][..], &key].concat())].concat())
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|two| u8::try_from(two[0] * 16 + two[1]).unwrap()).collect()
}
