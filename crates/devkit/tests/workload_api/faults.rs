//! Every fault, on streams that were open before, on new ones, and after it has ended.

use std::time::Duration;

use sidegate_devkit::authority::workload_api::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
};
use sidegate_devkit::authority::{Entry, Fault};
use tonic::Code;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::client::{Bench, end, fetch, next, open, refusal, within};
use crate::svid::{parse, signed_by};

/// Nothing arrives for a while. A test of absence has to wait; it can only fail to notice, never fail by chance.
async fn silent<F: Future>(future: F) {
    assert!(tokio::time::timeout(Duration::from_millis(200), future).await.is_err(), "it should be silent");
}

fn token() -> JwtsvidRequest {
    JwtsvidRequest { audience: vec!["x".to_owned()], spiffe_id: String::new() }
}

#[tokio::test]
async fn statuses_end_open_streams_and_refuse_new_ones() {
    let bench = Bench::simple().await;
    let mut client = bench.client().await;
    for (fault, code) in [
        (Fault::Unavailable, Code::Unavailable),
        (Fault::PermissionDenied, Code::PermissionDenied),
        (Fault::InvalidArgument, Code::InvalidArgument),
    ] {
        let mut stream = open(&mut client).await;
        next(&mut stream).await;
        bench.authority.set_fault(fault);
        assert_eq!(end(&mut stream).await.code(), code);
        assert_eq!(refusal(&mut client).await.code(), code);
        assert_eq!(within(client.fetch_jwtsvid(token())).await.unwrap_err().code(), code);
        bench.authority.set_fault(Fault::None);
        assert_eq!(fetch(&mut client).await.svids.len(), 1);
    }
}

#[tokio::test]
async fn hang_accepts_and_says_nothing_until_it_ends() {
    let bench = Bench::simple().await;
    let mut client = bench.client().await;
    let mut stream = open(&mut client).await;
    let mut bundles = within(client.fetch_x509_bundles(X509BundlesRequest {})).await.unwrap().into_inner();
    let (first, first_bundles) = (next(&mut stream).await, next(&mut bundles).await);
    bench.authority.set_fault(Fault::Hang);
    bench.authority.rotate_now();
    silent(stream.message()).await;
    silent(client.fetch_x509svid(X509svidRequest {})).await;
    silent(client.fetch_jwtsvid(token())).await;

    // A call that hangs is answered when the fault ends, and so is what was open.
    let mut other = bench.client().await;
    let mut hanging = Box::pin(other.fetch_jwtsvid(token()));
    silent(&mut hanging).await;
    bench.authority.set_fault(Fault::None);
    assert_eq!(within(hanging).await.unwrap().into_inner().svids.len(), 1);
    assert_ne!(next(&mut stream).await.svids[0].x509_svid, first.svids[0].x509_svid);
    assert_eq!(next(&mut bundles).await, first_bundles, "said again although it is the same");
}

#[tokio::test]
async fn reset_cuts_connections() {
    let bench = Bench::simple().await;
    let mut client = bench.client().await;
    let mut stream = open(&mut client).await;
    next(&mut stream).await;
    bench.authority.set_fault(Fault::Reset);
    end(&mut stream).await;
    refusal(&mut client).await;
    let raw = tokio::net::UnixStream::connect(bench.socket()).await.unwrap();
    within(raw.readable()).await.unwrap();
    assert!(matches!(raw.try_read(&mut [0; 1]), Ok(0) | Err(_)), "accepted and closed");

    bench.authority.set_fault(Fault::None);
    assert_eq!(fetch(&mut bench.client().await).await.svids.len(), 1);
}

#[tokio::test]
async fn garbage_is_no_certificate_token_or_key() {
    let bench = Bench::simple().await;
    let mut client = bench.client().await;
    let mut stream = open(&mut client).await;
    let good = next(&mut stream).await;
    bench.authority.set_fault(Fault::Garbage);
    let bad = next(&mut stream).await;
    assert_eq!(bad.svids[0].spiffe_id, "spiffe://a.test/web");
    assert!(X509Certificate::from_der(&bad.svids[0].x509_svid).is_err());
    silent(stream.message()).await;

    let mut x509 = within(client.fetch_x509_bundles(X509BundlesRequest {})).await.unwrap().into_inner();
    assert!(X509Certificate::from_der(&next(&mut x509).await.bundles["spiffe://a.test"]).is_err());
    let mut jwt = within(client.fetch_jwt_bundles(JwtBundlesRequest {})).await.unwrap().into_inner();
    let set = next(&mut jwt).await.bundles.remove("spiffe://a.test").unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&set).is_err());
    let tokens = within(client.fetch_jwtsvid(token())).await.unwrap().into_inner();
    let request = ValidateJwtsvidRequest { audience: "x".to_owned(), svid: tokens.svids[0].svid.clone() };
    assert_eq!(within(client.validate_jwtsvid(request.clone())).await.unwrap().into_inner().claims, None);

    bench.authority.set_fault(Fault::None);
    let again = next(&mut stream).await;
    assert!(signed_by(&again.svids[0].x509_svid, &parse(&good.svids[0].bundle)));
    assert_eq!(within(client.validate_jwtsvid(request)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn empty_responses_hold_nothing() {
    let bench = Bench::simple().await;
    let mut client = bench.client().await;
    let mut stream = open(&mut client).await;
    next(&mut stream).await;
    bench.authority.set_fault(Fault::Empty);
    let empty = next(&mut stream).await;
    assert!(empty.svids.is_empty() && empty.federated_bundles.is_empty());
    let mut bundles = within(client.fetch_x509_bundles(X509BundlesRequest {})).await.unwrap().into_inner();
    assert!(next(&mut bundles).await.bundles.is_empty());
    assert!(within(client.fetch_jwtsvid(token())).await.unwrap().into_inner().svids.is_empty());
    bench.authority.set_fault(Fault::None);
    assert_eq!(next(&mut stream).await.svids.len(), 1);
    assert_eq!(next(&mut bundles).await.bundles.len(), 1);
}

#[tokio::test]
async fn svids_from_another_time_are_otherwise_right() {
    let bench = Bench::simple().await;
    let mut client = bench.client().await;
    let mut stream = open(&mut client).await;
    let bundle = next(&mut stream).await.svids.remove(0).bundle;
    let ca = parse(&bundle);

    bench.authority.set_fault(Fault::ClockSkew(Duration::from_secs(600)));
    let early = next(&mut stream).await.svids.remove(0);
    assert!(signed_by(&early.x509_svid, &ca));
    let now = x509_parser::time::ASN1Time::now();
    assert!(parse(&early.x509_svid).validity().not_before.timestamp() > now.timestamp() + 500);

    bench.authority.set_fault(Fault::Expired);
    let late = next(&mut stream).await.svids.remove(0);
    assert!(signed_by(&late.x509_svid, &ca));
    assert!(parse(&late.x509_svid).validity().not_after < now);
    let token = within(client.fetch_jwtsvid(token())).await.unwrap().into_inner().svids.remove(0).svid;
    let request = ValidateJwtsvidRequest { audience: "x".to_owned(), svid: token };
    let refused = within(client.validate_jwtsvid(request)).await.unwrap_err();
    assert!(refused.message().contains("ExpiredSignature"), "{refused}");

    bench.authority.set_fault(Fault::None);
    assert!(parse(&next(&mut stream).await.svids[0].x509_svid).validity().is_valid());
}

#[tokio::test]
async fn a_fault_may_be_there_from_the_start() {
    let bench = Bench::with(|config| {
        config.entries.push(Entry::new("spiffe://a.test/web"));
        config.fault = Some(Fault::Unavailable);
    })
    .await;
    assert_eq!(refusal(&mut bench.client().await).await.code(), Code::Unavailable);
    assert_eq!(bench.authority.issued_count(), 0);
}
