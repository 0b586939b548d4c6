//! The `spiffe` crate's client, which knows nothing of ours, has the same opinion.

use sidegate_core::{SpiffeId, TrustDomain};
use sidegate_devkit::authority::{Entry, Fault};
use spiffe::{JwtSvid, WorkloadApiClient, WorkloadApiError};
use tokio_stream::StreamExt;

use crate::client::{Bench, within};

async fn connect(bench: &Bench) -> WorkloadApiClient {
    within(WorkloadApiClient::connect_to(format!("unix://{}", bench.socket().display()))).await.unwrap()
}

#[tokio::test]
async fn it_takes_the_x509_context_and_its_updates() {
    let bench = Bench::with(|config| {
        config.trust_domains[0].federates_with = vec!["b.test".to_owned()];
        config.entries.push(Entry { hint: Some("main".to_owned()), ..Entry::new("spiffe://a.test/web") });
    })
    .await;
    let client = connect(&bench).await;
    let mut stream = within(client.stream_x509_contexts()).await.unwrap();
    let context = within(stream.next()).await.unwrap().unwrap();
    let svid = context.default_svid().unwrap();
    assert_eq!(svid.spiffe_id().to_string(), "spiffe://a.test/web");
    assert_eq!(svid.hint(), Some("main"));
    for domain in ["a.test", "b.test"] {
        let bundle = context.bundle_set().get(&TrustDomain::new(domain).unwrap()).unwrap();
        assert_eq!(bundle.authorities().len(), 1);
    }

    bench.authority.rotate_now();
    let rotated = within(stream.next()).await.unwrap().unwrap();
    assert_ne!(rotated.default_svid().unwrap().cert_chain(), svid.cert_chain());
    bench.authority.set_federation("a.test", &[]).unwrap();
    let alone = within(stream.next()).await.unwrap().unwrap();
    assert!(alone.bundle_set().get(&TrustDomain::new("b.test").unwrap()).is_none());
    bench.authority.set_fault(Fault::Garbage);
    assert!(within(stream.next()).await.unwrap().is_err());
}

#[tokio::test]
async fn it_verifies_tokens_by_the_jwt_bundles() {
    let bench = Bench::simple().await;
    let client = connect(&bench).await;
    let id = SpiffeId::new("spiffe://a.test/web").unwrap();
    let token = within(client.fetch_jwt_token(["one"], Some(&id))).await.unwrap();
    let bundles = within(client.fetch_jwt_bundles()).await.unwrap();
    let svid = JwtSvid::parse_and_validate(&token, &bundles, &["one"]).unwrap();
    assert_eq!(*svid.spiffe_id(), id);
    assert!(JwtSvid::parse_and_validate(&token, &bundles, &["two"]).is_err());
    within(client.validate_jwt_token("one", &token)).await.unwrap();
    within(client.validate_jwt_token("two", &token)).await.unwrap_err();
}

#[tokio::test]
async fn it_understands_refusals() {
    let bench = Bench::with(|_| {}).await;
    let client = connect(&bench).await;
    let refused = within(client.fetch_x509_context()).await.unwrap_err();
    assert!(matches!(refused, WorkloadApiError::NoIdentityIssued), "{refused:?}");
    bench.authority.set_fault(Fault::InvalidArgument);
    assert!(within(client.fetch_x509_context()).await.unwrap_err().is_invalid_argument());
    bench.authority.set_fault(Fault::None);
    bench.authority.set_entries(&[Entry::new("spiffe://a.test/web")]).unwrap();
    bench.authority.set_fault(Fault::Empty);
    assert!(within(client.fetch_x509_context()).await.is_err());
}
