//! Who gets what: selectors, refusals, withdrawal.

use std::os::unix::fs::{MetadataExt, symlink};

use sidegate_devkit::authority::Entry;
use sidegate_devkit::authority::workload_api::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use sidegate_devkit::authority::workload_api::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
};
use tonic::Code;

use crate::client::{Bench, channel, client, end, fetch, next, open, refusal, within};

fn own_ids() -> (u32, u32) {
    let own = std::fs::metadata("/proc/self").unwrap();
    (own.uid(), own.gid())
}

#[tokio::test]
async fn all_selectors_of_an_entry_must_fit() {
    let (uid, gid) = own_ids();
    let bench = Bench::with(|config| {
        let socket = Some(config.sockets[0].clone());
        let path = Some(std::env::current_exe().unwrap());
        let link = config.sockets[0].with_file_name("link");
        symlink(path.as_ref().unwrap(), &link).unwrap();
        let fits = Entry { uid: Some(uid), gid: Some(gid), path, socket, ..Entry::default() };
        let entry = |name: &str, change: fn(&mut Entry)| {
            let mut entry = Entry { spiffe_id: format!("spiffe://a.test/{name}"), ..fits.clone() };
            change(&mut entry);
            entry
        };
        config.entries = vec![
            entry("uid", |entry| entry.uid = entry.uid.map(|uid| uid + 1)),
            entry("gid", |entry| entry.gid = entry.gid.map(|gid| gid + 1)),
            entry("path", |entry| entry.path = Some("/bin/sh".into())),
            entry("all", |_| {}),
            Entry { path: Some(link), ..entry("link", |_| {}) },
        ];
    })
    .await;
    let svids = fetch(&mut bench.client().await).await.svids;
    let ids: Vec<_> = svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    assert_eq!(ids, ["spiffe://a.test/all", "spiffe://a.test/link"]);
}

#[tokio::test]
async fn sockets_tell_callers_apart() {
    let bench = Bench::with(|config| {
        let other = config.sockets[0].with_file_name("deep/er/b");
        config.sockets.push(other);
        for (socket, id) in config.sockets.iter().zip(["spiffe://a.test/one", "spiffe://b.test/two"]) {
            config.entries.push(Entry { socket: Some(socket.clone()), ..Entry::new(id) });
        }
    })
    .await;
    let one = fetch(&mut bench.client().await).await;
    let two = fetch(&mut client(&bench.folder.path().join("deep/er/b")).await).await;
    assert_eq!((one.svids.len(), one.svids[0].spiffe_id.as_str()), (1, "spiffe://a.test/one"));
    assert_eq!((two.svids.len(), two.svids[0].spiffe_id.as_str()), (1, "spiffe://b.test/two"));
}

#[tokio::test]
async fn a_caller_without_an_entry_is_refused_everything() {
    let (uid, _) = own_ids();
    let bench = Bench::with(|config| {
        config.entries.push(Entry { uid: Some(uid + 1), ..Entry::new("spiffe://a.test/other") });
    })
    .await;
    let mut client = bench.client().await;
    let refused = refusal(&mut client).await;
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "no identity issued"));
    let token = JwtsvidRequest { audience: vec!["x".to_owned()], spiffe_id: String::new() };
    let validate = ValidateJwtsvidRequest { audience: "x".to_owned(), svid: "x".to_owned() };
    let codes = [
        within(client.fetch_x509_bundles(X509BundlesRequest {})).await.err().unwrap().code(),
        within(client.fetch_jwt_bundles(JwtBundlesRequest {})).await.err().unwrap().code(),
        within(client.fetch_jwtsvid(token)).await.unwrap_err().code(),
        within(client.validate_jwtsvid(validate)).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::PermissionDenied; 4]);
}

#[tokio::test]
async fn a_call_without_the_header_is_refused() {
    let bench = Bench::simple().await;
    let mut client = SpiffeWorkloadApiClient::new(channel(&bench.socket()).await);
    let token = JwtsvidRequest { audience: vec!["x".to_owned()], spiffe_id: String::new() };
    let validate = ValidateJwtsvidRequest { audience: "x".to_owned(), svid: "x".to_owned() };
    let codes = [
        within(client.fetch_x509svid(X509svidRequest {})).await.err().unwrap().code(),
        within(client.fetch_x509_bundles(X509BundlesRequest {})).await.err().unwrap().code(),
        within(client.fetch_jwt_bundles(JwtBundlesRequest {})).await.err().unwrap().code(),
        within(client.fetch_jwtsvid(token)).await.unwrap_err().code(),
        within(client.validate_jwtsvid(validate)).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::InvalidArgument; 5]);
}

#[tokio::test]
async fn entries_change_under_open_streams() {
    let bench = Bench::simple().await;
    let mut client = bench.client().await;
    let mut stream = open(&mut client).await;
    let first = next(&mut stream).await;

    let both = [Entry::new("spiffe://a.test/web"), Entry::new("spiffe://b.test/more")];
    bench.authority.set_entries(&both).unwrap();
    let second = next(&mut stream).await;
    assert_eq!(second.svids.len(), 2);
    assert_eq!(second.svids[0].x509_svid, first.svids[0].x509_svid, "an entry that stays keeps its SVID");

    assert!(bench.authority.set_entries(&[Entry::new("spiffe://c.test/x")]).is_err());
    bench.authority.set_entries(&[]).unwrap();
    assert_eq!(end(&mut stream).await.code(), Code::PermissionDenied);
    assert_eq!(refusal(&mut client).await.code(), Code::PermissionDenied);

    bench.authority.set_entries(&[Entry::new("spiffe://a.test/web")]).unwrap();
    assert_eq!(fetch(&mut client).await.svids.len(), 1);
}
