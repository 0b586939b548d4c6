//! A certificate of which every part can be chosen, and CAs to sign it.

use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, SigningKey};
use rustls::pki_types::CertificateDer;
use sidegate_identity::unix_now;

use super::der::{BIT_STRING, INTEGER, OCTET_STRING, OID, SET, UTF8, bits, sequence, time, tlv};

/// The contents of object identifiers.
pub(crate) mod oid {
    pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
    pub(crate) const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
    pub(crate) const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    pub(crate) const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
    pub(crate) const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];
    pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    pub(super) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
    pub(super) const UNKNOWN: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x86, 0x8d, 0x1f, 0x01];
    pub(super) const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
}

#[derive(Clone)]
pub(crate) struct Extension {
    oid: &'static [u8],
    critical: bool,
    value: Vec<u8>,
}

impl Extension {
    pub(crate) fn critical(mut self, critical: bool) -> Self {
        self.critical = critical;
        self
    }

    fn der(&self) -> Vec<u8> {
        let critical = if self.critical { tlv(0x01, &[0xff]) } else { Vec::new() };
        sequence(&[tlv(OID, self.oid), critical, tlv(OCTET_STRING, &self.value)])
    }
}

/// A subject alternative name, or the base of a name constraint.
#[derive(Clone, Copy)]
pub(crate) enum Name<'a> {
    Uri(&'a str),
    RawUri(&'a [u8]),
    Dns(&'a str),
    Ip([u8; 4]),
}

impl Name<'_> {
    fn der(self) -> Vec<u8> {
        match self {
            Name::Uri(text) => tlv(0x86, text.as_bytes()),
            Name::RawUri(bytes) => tlv(0x86, bytes),
            Name::Dns(text) => tlv(0x82, text.as_bytes()),
            Name::Ip(bytes) => tlv(0x87, &bytes),
        }
    }
}

/// Bits of key usage.
#[derive(Clone, Copy)]
pub(crate) enum Usage {
    DigitalSignature = 0x80,
    KeyEncipherment = 0x20,
    KeyAgreement = 0x08,
    KeyCertSign = 0x04,
    CrlSign = 0x02,
}

pub(crate) fn key_usage(usages: &[Usage]) -> Extension {
    let byte = usages.iter().fold(0, |all, usage| all | *usage as u8);
    let unused = u8::try_from(byte.trailing_zeros()).unwrap();
    raw(oid::KEY_USAGE, tlv(BIT_STRING, &[unused, byte])).critical(true)
}

pub(crate) fn extended_key_usage(purposes: &[&[u8]]) -> Extension {
    raw(oid::EXTENDED_KEY_USAGE, sequence(&purposes.iter().map(|purpose| tlv(OID, purpose)).collect::<Vec<_>>()))
}

pub(crate) fn basic_constraints(ca: bool, path_length: Option<u8>) -> Extension {
    let ca = if ca { tlv(0x01, &[0xff]) } else { Vec::new() };
    let path_length = path_length.map_or(Vec::new(), |length| tlv(INTEGER, &[length]));
    raw(oid::BASIC_CONSTRAINTS, sequence(&[ca, path_length])).critical(true)
}

pub(crate) fn names(names: &[Name<'_>]) -> Extension {
    raw(oid::SUBJECT_ALT_NAME, sequence(&names.iter().map(|name| name.der()).collect::<Vec<_>>()))
}

pub(crate) fn name_constraints(permitted: &[Name<'_>], excluded: &[Name<'_>]) -> Extension {
    let subtrees = |tag, names: &[Name<'_>]| {
        let all: Vec<_> = names.iter().map(|name| sequence(&[name.der()])).collect();
        if all.is_empty() { Vec::new() } else { tlv(tag, &all.concat()) }
    };
    raw(oid::NAME_CONSTRAINTS, sequence(&[subtrees(0xa0, permitted), subtrees(0xa1, excluded)])).critical(true)
}

/// An extension that nobody knows.
pub(crate) fn unknown(critical: bool) -> Extension {
    raw(oid::UNKNOWN, tlv(UTF8, b"what is this")).critical(critical)
}

pub(crate) fn raw(oid: &'static [u8], value: Vec<u8>) -> Extension {
    Extension { oid, critical: false, value }
}

/// What a certificate says.
#[derive(Clone)]
pub(crate) struct Spec {
    subject: String,
    not_before: i64,
    not_after: i64,
    extensions: Vec<Extension>,
    public_key: Option<Vec<u8>>,
}

impl Spec {
    /// An X.509-SVID as it should be.
    pub(crate) fn leaf(id: &str) -> Self {
        let extensions = vec![
            basic_constraints(false, None),
            key_usage(&[Usage::DigitalSignature]),
            extended_key_usage(&[oid::SERVER_AUTH, oid::CLIENT_AUTH]),
            names(&[Name::Uri(id)]),
        ];
        Self::new("workload", extensions)
    }

    /// A CA certificate as it should be.
    pub(crate) fn ca(subject: &str) -> Self {
        Self::new(subject, vec![basic_constraints(true, None), key_usage(&[Usage::KeyCertSign, Usage::CrlSign])])
    }

    fn new(subject: &str, extensions: Vec<Extension>) -> Self {
        let now = unix_now();
        Self { subject: subject.to_owned(), not_before: now - 3600, not_after: now + 3600, extensions, public_key: None }
    }

    /// With `extension` in the place of what it had of that kind.
    pub(crate) fn with(self, extension: Extension) -> Self {
        self.without(extension.oid).and(extension)
    }

    /// With one more extension, even if there is one of that kind.
    pub(crate) fn and(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    pub(crate) fn without(mut self, oid: &[u8]) -> Self {
        self.extensions.retain(|e| e.oid != oid);
        self
    }

    pub(crate) fn valid(mut self, not_before: i64, not_after: i64) -> Self {
        (self.not_before, self.not_after) = (not_before, not_after);
        self
    }

    /// With this SubjectPublicKeyInfo, whoever has the private key.
    pub(crate) fn public_key(mut self, spki: Vec<u8>) -> Self {
        self.public_key = Some(spki);
        self
    }

    pub(crate) fn signed_by(&self, issuer: &Ca, key: &KeyPair) -> CertificateDer<'static> {
        self.sign(&issuer.subject, &issuer.key, key)
    }

    fn sign(&self, issuer: &str, issuer_key: &KeyPair, key: &KeyPair) -> CertificateDer<'static> {
        static SERIAL: AtomicU32 = AtomicU32::new(0x1000_0000);
        let extensions: Vec<_> = self.extensions.iter().map(Extension::der).collect();
        let to_be_signed = sequence(&[
            tlv(0xa0, &tlv(INTEGER, &[2])),
            tlv(INTEGER, &SERIAL.fetch_add(1, Ordering::Relaxed).to_be_bytes()),
            signature_algorithm(issuer_key),
            common_name(issuer),
            sequence(&[time(self.not_before), time(self.not_after)]),
            common_name(&self.subject),
            self.public_key.clone().unwrap_or_else(|| key.subject_public_key_info()),
            tlv(0xa3, &sequence(&extensions)),
        ]);
        let signature = issuer_key.sign(&to_be_signed).unwrap();
        sequence(&[to_be_signed, signature_algorithm(issuer_key), bits(&signature)]).into()
    }
}

fn common_name(name: &str) -> Vec<u8> {
    sequence(&[tlv(SET, &sequence(&[tlv(OID, oid::COMMON_NAME), tlv(UTF8, name.as_bytes())]))])
}

fn signature_algorithm(key: &KeyPair) -> Vec<u8> {
    let known: [(_, &[u8], &[u8]); 4] = [
        (&PKCS_ECDSA_P256_SHA256, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02], &[]),
        (&PKCS_ECDSA_P384_SHA384, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03], &[]),
        (&PKCS_ED25519, &[0x2b, 0x65, 0x70], &[]),
        (&PKCS_RSA_SHA256, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b], &[0x05, 0x00]),
    ];
    let (_, algorithm, parameters) = known.into_iter().find(|(algorithm, ..)| *algorithm == key.algorithm()).unwrap();
    sequence(&[tlv(OID, algorithm), parameters.to_vec()])
}

/// A CA: its certificate and its key.
pub(crate) struct Ca {
    pub(crate) subject: String,
    pub(crate) key: KeyPair,
    pub(crate) der: CertificateDer<'static>,
}

impl Ca {
    pub(crate) fn root(spec: &Spec) -> Self {
        let key = super::key();
        Self { subject: spec.subject.clone(), der: spec.sign(&spec.subject, &key, &key), key }
    }

    pub(crate) fn under(issuer: &Ca, spec: &Spec) -> Self {
        Self::with_key(issuer, spec, super::key())
    }

    pub(crate) fn with_key(issuer: &Ca, spec: &Spec, key: KeyPair) -> Self {
        Self { subject: spec.subject.clone(), der: spec.signed_by(issuer, &key), key }
    }
}
