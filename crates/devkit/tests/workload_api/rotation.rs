//! Rotation of SVIDs and of CAs, in real time but by no sleep.

use std::time::{Duration, Instant};

use sidegate_devkit::authority::workload_api::{JwtBundlesRequest, X509BundlesRequest};
use sidegate_devkit::authority::{AuthorityConfig, Entry};

use crate::client::{Bench, next, open, seconds, within};
use crate::svid::{parse, parse_all, signed_by};

fn short(config: &mut AuthorityConfig) {
    config.trust_domains[0].ttl = seconds(5);
    config.entries.push(Entry::new("spiffe://a.test/web"));
}

#[tokio::test]
async fn svids_are_rotated_at_half_of_their_life() {
    let bench = Bench::with(short).await;
    let begin = Instant::now();
    let mut stream = open(&mut bench.client().await).await;
    let mut old = next(&mut stream).await;
    for _ in 0..2 {
        let new = next(&mut stream).await;
        let (before, after) = (parse(&old.svids[0].x509_svid), parse(&new.svids[0].x509_svid));
        assert_ne!(before.raw_serial(), after.raw_serial());
        assert_ne!(before.public_key().raw, after.public_key().raw, "a new key each time");
        assert!(before.validity().not_after < after.validity().not_after);
        assert!(signed_by(&new.svids[0].x509_svid, &parse(&old.svids[0].bundle)));
        old = new;
    }
    assert!(begin.elapsed() >= Duration::from_millis(4900), "half of 5 s, twice: {:?}", begin.elapsed());
    assert_eq!(bench.authority.issued_count(), 3);
}

#[tokio::test]
async fn rotation_may_be_asked_for() {
    let bench = Bench::simple().await;
    let mut stream = open(&mut bench.client().await).await;
    let old = next(&mut stream).await;
    bench.authority.rotate_now();
    let new = next(&mut stream).await;
    assert_ne!(old.svids[0].x509_svid, new.svids[0].x509_svid);
    assert_eq!(old.svids[0].bundle, new.svids[0].bundle);
}

#[tokio::test]
async fn a_new_ca_is_published_then_signs_then_stands_alone() {
    let bench = Bench::with(short).await;
    let mut stream = open(&mut bench.client().await).await;
    let old = next(&mut stream).await.svids.remove(0);
    bench.authority.rotate_ca("a.test").unwrap();

    let published = next(&mut stream).await.svids.remove(0);
    assert_eq!(published.x509_svid, old.x509_svid, "nothing is signed by what peers do not know yet");
    let bundle = parse_all(&published.bundle);
    assert_eq!(bundle.len(), 2);
    assert!(signed_by(&old.x509_svid, &bundle[1]));

    let signed = next(&mut stream).await.svids.remove(0);
    assert!(signed_by(&signed.x509_svid, &bundle[0]));
    assert_eq!(signed.bundle, published.bundle);

    loop {
        let svid = next(&mut stream).await.svids.remove(0);
        let left = parse_all(&svid.bundle);
        if left.len() == 1 {
            assert!(signed_by(&svid.x509_svid, &left[0]));
            assert_eq!(left[0].raw_serial(), bundle[0].raw_serial());
            break;
        }
    }
    assert!(parse(&old.x509_svid).validity().time_to_expiration().is_none(), "withdrawn only after its last SVID");
}

#[tokio::test]
async fn ca_rotation_shows_in_both_kinds_of_bundles() {
    let bench = Bench::simple().await;
    let mut client = bench.client().await;
    let mut x509 = within(client.fetch_x509_bundles(X509BundlesRequest {})).await.unwrap().into_inner();
    let mut jwt = within(client.fetch_jwt_bundles(JwtBundlesRequest {})).await.unwrap().into_inner();
    assert_eq!(parse_all(&next(&mut x509).await.bundles["spiffe://a.test"]).len(), 1);
    assert_eq!(keys(&next(&mut jwt).await.bundles["spiffe://a.test"]), 1);
    bench.authority.rotate_ca("a.test").unwrap();
    assert_eq!(parse_all(&next(&mut x509).await.bundles["spiffe://a.test"]).len(), 2);
    assert_eq!(keys(&next(&mut jwt).await.bundles["spiffe://a.test"]), 2);
    assert!(bench.authority.rotate_ca("c.test").is_err());
}

fn keys(set: &[u8]) -> usize {
    serde_json::from_slice::<serde_json::Value>(set).unwrap()["keys"].as_array().unwrap().len()
}
