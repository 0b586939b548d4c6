//! Certificates, by an X.509 parser that had no part in making them.

use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, PublicKeyData};
use sidegate_devkit::authority::Entry;
use tokio_stream::StreamExt;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_KEY_USAGE;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::client::{Bench, fetch, next, open, seconds};

pub(crate) fn parse(der: &[u8]) -> X509Certificate<'_> {
    let (rest, certificate) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty(), "one certificate");
    certificate
}

/// The certificates of a bundle.
pub(crate) fn parse_all(mut der: &[u8]) -> Vec<X509Certificate<'_>> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, certificate) = X509Certificate::from_der(der).unwrap();
        all.push(certificate);
        der = rest;
    }
    all
}

pub(crate) fn signed_by(leaf: &[u8], ca: &X509Certificate<'_>) -> bool {
    parse(leaf).verify_signature(Some(ca.public_key())).is_ok()
}

fn names<'a>(certificate: &'a X509Certificate<'_>) -> Vec<GeneralName<'a>> {
    certificate.subject_alternative_name().unwrap().unwrap().value.general_names.clone()
}

fn key_usage_is_critical(certificate: &X509Certificate<'_>) -> bool {
    let found = certificate.get_extension_unique(&OID_X509_EXT_KEY_USAGE).unwrap().unwrap();
    assert!(matches!(found.parsed_extension(), ParsedExtension::KeyUsage(_)));
    found.critical
}

fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

#[tokio::test]
async fn leaf_has_the_properties_of_an_x509_svid() {
    let bench = Bench::with(|config| {
        let dns_names = vec!["web.test".to_owned(), "*.web.test".to_owned()];
        let ttl = Some(seconds(60));
        config.entries.push(Entry { dns_names, ttl, ..Entry::new("spiffe://a.test/ns/one/sa/web") });
    })
    .await;
    let response = fetch(&mut bench.client().await).await;
    let svid = &response.svids[0];
    let leaf = parse(&svid.x509_svid);

    let expected =
        [GeneralName::URI("spiffe://a.test/ns/one/sa/web"), GeneralName::DNSName("web.test"), GeneralName::DNSName("*.web.test")];
    assert_eq!(names(&leaf), expected);
    assert_eq!(leaf.subject().iter_common_name().next().unwrap().as_str().unwrap(), "web.test");
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    assert!(key_usage_is_critical(&leaf));
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth);

    let validity = leaf.validity();
    assert!((now() - 40..now()).contains(&validity.not_before.timestamp()), "a little in the past");
    assert!((now() + 30..=now() + 60).contains(&validity.not_after.timestamp()), "the entry's TTL");

    let key = KeyPair::try_from(svid.x509_svid_key.as_slice()).expect("PKCS#8");
    assert_eq!(key.subject_public_key_info(), leaf.public_key().raw);
    assert!(signed_by(&svid.x509_svid, &parse(&svid.bundle)));
}

#[tokio::test]
async fn ca_has_the_properties_of_a_signing_certificate() {
    let bench = Bench::simple().await;
    let response = fetch(&mut bench.client().await).await;
    let ca = parse(&response.svids[0].bundle);

    assert_eq!(names(&ca), [GeneralName::URI("spiffe://a.test")]);
    assert!(ca.basic_constraints().unwrap().unwrap().value.ca);
    let usage = ca.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && !usage.digital_signature());
    assert!(key_usage_is_critical(&ca));
    assert!(ca.verify_signature(None).is_ok(), "self-signed");
}

#[tokio::test]
async fn entries_come_in_their_order_with_their_hints() {
    let bench = Bench::with(|config| {
        config.entries.push(Entry { hint: Some("outer".to_owned()), ..Entry::new("spiffe://b.test/gate") });
        config.entries.push(Entry::new("spiffe://a.test/web"));
        config.entries.push(Entry { hint: Some("outer".to_owned()), ..Entry::new("spiffe://a.test/again") });
    })
    .await;
    let svids = fetch(&mut bench.client().await).await.svids;
    let found: Vec<_> = svids.iter().map(|svid| (svid.spiffe_id.as_str(), svid.hint.as_str())).collect();
    // A hint is unique in a response: the first that has it keeps it.
    assert_eq!(found, [("spiffe://b.test/gate", "outer"), ("spiffe://a.test/web", ""), ("spiffe://a.test/again", "")]);
    assert_ne!(svids[0].bundle, svids[1].bundle, "each trust domain has a CA of its own");
    assert!(!signed_by(&svids[0].x509_svid, &parse(&svids[1].bundle)));
}

#[tokio::test]
async fn callers_of_an_entry_share_its_svid() {
    let bench = Bench::simple().await;
    let one = fetch(&mut bench.client().await).await;
    let two = fetch(&mut bench.client().await).await;
    assert_eq!(one.svids[0].x509_svid, two.svids[0].x509_svid);
    assert_eq!(bench.authority.issued_count(), 1);
}

#[tokio::test]
async fn what_is_issued_for_files_verifies_by_the_bundle() {
    let bench = Bench::simple().await;
    let mut stream = open(&mut bench.client().await).await;
    let bundle = next(&mut stream).await.svids[0].bundle.clone();
    let issued = bench.authority.issue("spiffe://a.test/envoy", Duration::from_secs(60)).unwrap();
    assert!(signed_by(&issued.chain_der[0], &parse(&bundle)));
    assert_eq!(names(&parse(&issued.chain_der[0])), [GeneralName::URI("spiffe://a.test/envoy")]);

    let pem = bench.authority.bundle_pem("a.test").unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    assert_eq!(pem.contents, bundle);
    assert_eq!(KeyPair::from_pem(&issued.key_pem).unwrap().serialize_der(), issued.key_der);
    let shown = format!("{issued:?}");
    assert!(shown.contains("BEGIN CERTIFICATE") && !shown.contains("PRIVATE"), "{shown}");

    assert!(bench.authority.bundle_pem("c.test").is_none());
    let day = Duration::from_secs(60);
    assert!(bench.authority.issue("spiffe://c.test/x", day).unwrap_err().to_string().contains("a.test, b.test"));
    assert!(bench.authority.issue("spiffe://a.test", day).is_err(), "no path");
    assert!(bench.authority.issue("spiffe://a.test/x", Duration::from_secs(4)).is_err(), "too short");

    // None of that was news to the stream: the next message is the one that is asked for here.
    bench.authority.rotate_now();
    assert_ne!(next(&mut stream).await.svids[0].x509_svid, Vec::<u8>::new());
    let quiet = tokio::time::timeout(Duration::from_millis(100), stream.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}
