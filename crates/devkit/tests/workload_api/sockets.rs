//! The sockets' files, and how the authority ends.

use std::os::unix::fs::PermissionsExt;

use sidegate_devkit::authority::{Authority, AuthorityError, Entry};
use tempfile::TempDir;

use crate::client::{Bench, client, config, end, fetch, next, open, within};

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
    let folder = TempDir::new().unwrap();
    let mut config = config(folder.path());
    config.entries.push(Entry::new("spiffe://a.test/web"));
    drop(std::os::unix::net::UnixListener::bind(&config.sockets[0]).unwrap());
    let authority = Authority::start(config.clone()).await.unwrap();
    let mode = std::fs::metadata(&config.sockets[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);

    let second = Authority::start(config.clone()).await.unwrap_err();
    assert!(matches!(second, AuthorityError::SocketInUse(_)), "{second}");
    assert_eq!(fetch(&mut client(&config.sockets[0]).await).await.svids.len(), 1, "the first serves on");

    within(authority.shutdown()).await;
    assert!(!config.sockets[0].exists());
    std::fs::write(&config.sockets[0], "mine").unwrap();
    let third = Authority::start(config.clone()).await.unwrap_err();
    assert!(matches!(third, AuthorityError::NotASocket(_)), "{third}");
    assert_eq!(std::fs::read(&config.sockets[0]).unwrap(), b"mine");
}

#[tokio::test]
async fn shutdown_and_drop_end_open_streams() {
    for gently in [true, false] {
        let bench = Bench::simple().await;
        let mut stream = open(&mut bench.client().await).await;
        next(&mut stream).await;
        let socket = bench.socket();
        if gently {
            within(bench.authority.shutdown()).await;
        } else {
            drop(bench.authority);
        }
        end(&mut stream).await;
        assert!(!socket.exists());
    }
}

#[tokio::test]
async fn an_authority_leaves_no_tasks() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let bench = Bench::simple().await;
    let mut stream = open(&mut bench.client().await).await;
    next(&mut stream).await;
    drop(bench);
    drop(stream);
    within(async {
        while metrics.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
