//! How a session ends: each direction for itself, and in order only by close_notify.

use std::future::poll_fn;
use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use sidegate_core::Reason;
use sidegate_tls::{Filled, Session, WireError};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::material;
use crate::raw::{against_us, config};
use crate::wire::{read_to_end, shake, shutdown, take, within, write_all};

type Side = (TcpStream, Session);

async fn pair() -> (Side, Side) {
    let material = material();
    let (server, client) = shake(&material, &material).await;
    (server.session(), client.session())
}

/// Who closes first still hears the other to the end.
async fn half_close(first: Side, second: Side) {
    let ((first_tcp, mut first), (second_tcp, mut second)) = (first, second);
    write_all(&first_tcp, &mut first, b"all I have").await.unwrap();
    shutdown(&first_tcp, &mut first).await.unwrap();
    assert_eq!(read_to_end(&second_tcp, &mut second).await.unwrap(), b"all I have");
    // Still so when asked again.
    assert_eq!(read_to_end(&second_tcp, &mut second).await.unwrap(), b"");
    let long = vec![7; 1_000_000];
    let (written, read) = tokio::join!(
        async {
            write_all(&second_tcp, &mut second, &long).await?;
            shutdown(&second_tcp, &mut second).await
        },
        read_to_end(&first_tcp, &mut first)
    );
    written.unwrap();
    assert!(read.unwrap() == long);
}

#[tokio::test]
async fn the_client_closes_first() {
    let (server, client) = pair().await;
    half_close(client, server).await;
}

#[tokio::test]
async fn the_server_closes_first() {
    let (server, client) = pair().await;
    half_close(server, client).await;
}

#[tokio::test]
async fn fin_without_close_notify_is_a_truncation() {
    for server_cuts in [true, false] {
        let (server, client) = pair().await;
        let ((cuts_tcp, mut cuts), (hears_tcp, mut hears)) = if server_cuts { (server, client) } else { (client, server) };
        write_all(&cuts_tcp, &mut cuts, b"half a sen").await.unwrap();
        SockRef::from(&cuts_tcp).shutdown(Shutdown::Write).unwrap();
        // What came is handed on; then it is said that more may be missing.
        assert_eq!(within(poll_fn(|cx| hears.poll_fill(&hears_tcp, cx))).await.unwrap(), Filled::Data);
        assert_eq!(take(&mut hears, 100), b"half a sen");
        assert!(matches!(read_to_end(&hears_tcp, &mut hears).await, Err(WireError::Truncated)));
    }
}

#[tokio::test]
async fn fin_within_a_record_is_a_truncation() {
    let ((server_tcp, mut server), (mut client_tcp, _client)) = pair().await;
    client_tcp.write_all(&[0x17, 0x03, 0x03, 0x00, 0x40, 1, 2, 3]).await.unwrap();
    client_tcp.shutdown().await.unwrap();
    assert!(matches!(read_to_end(&server_tcp, &mut server).await, Err(WireError::Truncated)));
}

#[tokio::test]
async fn reset_is_a_reset() {
    let ((server_tcp, mut server), (client_tcp, client)) = pair().await;
    SockRef::from(&client_tcp).set_linger(Some(Duration::ZERO)).unwrap();
    drop((client_tcp, client));
    assert!(matches!(read_to_end(&server_tcp, &mut server).await, Err(WireError::Reset)));
}

#[tokio::test]
async fn a_forged_record_ends_the_session_and_the_peer_is_told() {
    for (name, record) in
        [("wrong tag", [&[0x17, 0x03, 0x03, 0x00, 0x20][..], &[9; 32]].concat()), ("plaintext", b"GET / HTTP/1.1\r\n\r\n".to_vec())]
    {
        let ((server_tcp, mut server), (mut client_tcp, mut client)) = pair().await;
        client_tcp.write_all(&record).await.unwrap();
        let error = read_to_end(&server_tcp, &mut server).await;
        assert!(matches!(error, Err(WireError::Tls(Reason::TlsProtocolError, _))), "{name}: {error:?}");
        let error = read_to_end(&client_tcp, &mut client).await;
        assert!(matches!(error, Err(WireError::Tls(Reason::PeerAlert, _))), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn keys_are_updated_also_after_our_half_close() {
    let material = material();
    for closed_before in [false, true] {
        let (tcp, outcome, mut raw) = against_us(&material, config(Some(&material), default_provider())).await;
        let mut session = outcome.unwrap();
        if closed_before {
            shutdown(&tcp, &mut session).await.unwrap();
        }
        for round in 0..3 {
            raw.connection.refresh_traffic_keys().unwrap();
            raw.connection.writer().write_all(&[round]).unwrap();
            raw.flush().await;
            assert_eq!(within(poll_fn(|cx| session.poll_fill(&tcp, cx))).await.unwrap(), Filled::Data);
            assert_eq!(take(&mut session, 100), [round]);
        }
        raw.connection.send_close_notify();
        raw.flush().await;
        assert_eq!(read_to_end(&tcp, &mut session).await.unwrap(), b"");
        if !closed_before {
            write_all(&tcp, &mut session, b"with our new keys").await.unwrap();
            shutdown(&tcp, &mut session).await.unwrap();
        }
        while raw.fill().await.unwrap() > 0 {}
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut raw.connection.reader(), &mut answer).unwrap();
        assert_eq!(answer, if closed_before { &b""[..] } else { b"with our new keys" });
    }
}
