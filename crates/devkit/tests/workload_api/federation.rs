//! Bundles of other trust domains, given and taken.

use sidegate_devkit::authority::Entry;
use sidegate_devkit::authority::workload_api::{JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest};
use tonic::Code;

use crate::client::{Bench, client, fetch, next, open, within};

#[tokio::test]
async fn a_federated_bundle_comes_and_goes() {
    let bench = Bench::with(|config| {
        config.trust_domains[0].federates_with = vec!["b.test".to_owned()];
        config.entries.push(Entry::new("spiffe://a.test/web"));
    })
    .await;
    let mut client = bench.client().await;
    let mut stream = open(&mut client).await;
    let first = next(&mut stream).await;
    let foreign = &first.federated_bundles["spiffe://b.test"];
    let (_, pem) = x509_parser::pem::parse_x509_pem(bench.authority.bundle_pem("b.test").unwrap().as_bytes()).unwrap();
    assert_eq!(*foreign, pem.contents);
    let mut x509 = within(client.fetch_x509_bundles(X509BundlesRequest {})).await.unwrap().into_inner();
    let mut jwt = within(client.fetch_jwt_bundles(JwtBundlesRequest {})).await.unwrap().into_inner();
    assert_eq!((next(&mut x509).await.bundles.len(), next(&mut jwt).await.bundles.len()), (2, 2));

    // Its CA rotates: that is news here as well.
    bench.authority.rotate_ca("b.test").unwrap();
    assert_ne!(next(&mut stream).await.federated_bundles["spiffe://b.test"], *foreign);
    assert_eq!((next(&mut x509).await.bundles.len(), next(&mut jwt).await.bundles.len()), (2, 2));

    bench.authority.set_federation("a.test", &[]).unwrap();
    let withdrawn = next(&mut stream).await;
    assert!(withdrawn.federated_bundles.is_empty());
    assert_eq!(withdrawn.svids[0].x509_svid, first.svids[0].x509_svid, "its own SVID stays");
    assert_eq!((next(&mut x509).await.bundles.len(), next(&mut jwt).await.bundles.len()), (1, 1));

    bench.authority.set_federation("a.test", &["b.test"]).unwrap();
    assert_eq!(next(&mut stream).await.federated_bundles.len(), 1);
    assert!(bench.authority.set_federation("a.test", &["a.test"]).is_err());
    assert!(bench.authority.set_federation("a.test", &["c.test"]).is_err());
    assert!(bench.authority.set_federation("c.test", &[]).is_err());
}

#[tokio::test]
async fn a_foreign_token_is_valid_only_while_federated() {
    let bench = Bench::with(|config| {
        let other = config.sockets[0].with_file_name("b");
        config.sockets.push(other);
        config.trust_domains[0].federates_with = vec!["b.test".to_owned()];
        for (socket, id) in config.sockets.iter().zip(["spiffe://a.test/web", "spiffe://b.test/caller"]) {
            config.entries.push(Entry { socket: Some(socket.clone()), ..Entry::new(id) });
        }
    })
    .await;
    let mut other = client(&bench.folder.path().join("b")).await;
    assert!(fetch(&mut other).await.federated_bundles.is_empty(), "federation has a direction");
    let request = JwtsvidRequest { audience: vec!["spiffe://a.test/web".to_owned()], spiffe_id: String::new() };
    let svid = within(other.fetch_jwtsvid(request)).await.unwrap().into_inner().svids.remove(0).svid;
    let request = ValidateJwtsvidRequest { audience: "spiffe://a.test/web".to_owned(), svid };
    let mut own = bench.client().await;
    let valid = within(own.validate_jwtsvid(request.clone())).await.unwrap().into_inner();
    assert_eq!(valid.spiffe_id, "spiffe://b.test/caller");
    bench.authority.set_federation("a.test", &[]).unwrap();
    let refused = within(own.validate_jwtsvid(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("b.test"), "{refused}");
}
