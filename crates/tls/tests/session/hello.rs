//! A ClientHello comes in pieces as it likes.

use std::io::Write;

use rustls::crypto::aws_lc_rs::default_provider;
use sidegate_core::Reason;
use sidegate_tls::{TlsContext, accept};
use tokio::io::AsyncWriteExt;

use crate::pki::ID;
use crate::raw::{Raw, config, connection, hello};
use crate::wire::{read_to_end, sockets, within};
use crate::{material, raw};

#[tokio::test]
async fn a_client_that_closes_within_its_hello_has_closed() {
    let material = material();
    let choice = TlsContext::new(&material).unwrap().server(&[]);
    let hello = hello(&material);
    for length in 0..hello.len() {
        let (server, mut client) = sockets().await;
        client.write_all(&hello[..length]).await.unwrap();
        client.shutdown().await.unwrap();
        let failure = within(accept(&server, b"", &choice)).await.err().unwrap();
        assert_eq!(failure.reason, Reason::HandshakeClosed, "after {length} bytes: {failure:?}");
        assert!(!failure.told_the_peer() && failure.verify.is_none() && failure.claimed_id.is_none());
    }
    // After all of it, too: what follows was never sent.
    let (server, mut client) = sockets().await;
    client.write_all(&hello).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(within(accept(&server, b"", &choice)).await.err().unwrap().reason, Reason::HandshakeClosed);
}

#[tokio::test]
async fn a_hello_of_single_bytes_is_a_hello() {
    let material = material();
    let choice = TlsContext::new(&material).unwrap().server(&[]);
    let (server_tcp, tcp) = sockets().await;
    tcp.set_nodelay(true).unwrap();
    let mut raw = Raw { connection: connection(config(Some(&material), default_provider())), tcp };
    let hello = raw.waiting();
    let client = async {
        for byte in hello {
            raw.tcp.write_all(&[byte]).await.unwrap();
            // The server has its turn, and reads it.
            tokio::task::yield_now().await;
        }
        raw.shake().await;
    };
    let (server, ()) = within(async { tokio::join!(accept(&server_tcp, b"", &choice), client) }).await;
    assert_eq!(&*server.unwrap().peer.text, ID);
}

#[tokio::test]
async fn what_was_read_before_the_handshake_counts() {
    let material = material();
    let choice = TlsContext::new(&material).unwrap().server(&[]);
    for part in [1, 5, 6, 100, usize::MAX] {
        let (server_tcp, tcp) = sockets().await;
        let mut raw = Raw { connection: connection(config(Some(&material), default_provider())), tcp };
        let hello = raw.waiting();
        let (before, after) = hello.split_at(part.min(hello.len()));
        let client = async {
            raw.tcp.write_all(after).await.unwrap();
            raw.shake().await;
        };
        let (server, ()) = within(async { tokio::join!(accept(&server_tcp, before, &choice), client) }).await;
        assert_eq!(&*server.unwrap().peer.text, ID, "{part} bytes before");
    }
}

/// A hello may be longer than what is read at a time.
#[tokio::test]
async fn a_long_hello_is_a_hello() {
    let material = material();
    let mut long = config(Some(&material), default_provider());
    long.alpn_protocols = (0..100).map(|number| format!("{number:0>120}").into_bytes()).collect();
    let (_, outcome, _raw) = raw::against_us(&material, long).await;
    assert_eq!(&*outcome.unwrap().peer.text, ID);
}

/// Application data and the end may come with the client's last handshake message.
/// The client's last flight, data and its end arrive in two pieces, cut anywhere.
#[tokio::test]
async fn what_comes_with_the_handshake_is_not_lost_wherever_it_is_cut() {
    let material = material();
    let choice = TlsContext::new(&material).unwrap().server(&[]);
    let mut cut = 0;
    loop {
        let (server_tcp, tcp) = sockets().await;
        let mut raw = Raw { connection: connection(config(Some(&material), default_provider())), tcp };
        let client = async {
            raw.flush().await;
            while raw.connection.is_handshaking() {
                raw.fill().await.unwrap();
            }
            raw.connection.writer().write_all(b"in a hurry").unwrap();
            raw.connection.send_close_notify();
            let bytes = raw.waiting();
            let (one, other) = bytes.split_at(cut.min(bytes.len()));
            raw.tcp.write_all(one).await.unwrap();
            // The server reads what has come before more does.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            raw.tcp.write_all(other).await.unwrap();
            raw.tcp.shutdown().await.unwrap();
            bytes.len()
        };
        let (server, length) = within(async { tokio::join!(accept(&server_tcp, b"", &choice), client) }).await;
        let mut server = server.unwrap_or_else(|failure| panic!("cut at {cut}: {failure:?}"));
        assert_eq!(read_to_end(&server_tcp, &mut server).await.unwrap(), b"in a hurry", "cut at {cut}");
        if cut >= length {
            return;
        }
        // Every byte at the ends, where the small records are, and many between.
        cut += if cut < 16 || cut + 80 > length { 1 } else { 11 };
    }
}
