//! A ClientHello comes in pieces as it likes.

use std::io::Write;

use rustls::crypto::aws_lc_rs::default_provider;
use sidegate_core::Reason;
use sidegate_tls::{TlsContext, accept};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::pki::{ID, Spec, World, signing_key, unknown};
use crate::raw::{Raw, config, connection, hello};
use crate::wire::{read_to_end, shake, sockets, within};
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

/// One that is too long is refused as soon as it says so: nobody keeps what a stranger sends.
#[tokio::test]
async fn a_hello_that_is_too_long_is_refused_by_its_header() {
    let choice = TlsContext::new(&material()).unwrap().server(&[]);
    for length in [0x4001_u32, 0x1_0000, 0xff_ffff] {
        let (server, mut client) = sockets().await;
        let [_, high, middle, low] = length.to_be_bytes();
        client.write_all(&[0x16, 3, 1, 0x40, 0, 1, high, middle, low]).await.unwrap();
        let failure = within(accept(&server, b"", &choice)).await.err().unwrap();
        assert_eq!(failure.reason, Reason::TlsProtocolError, "{failure:?}");
        drop(server);
        let mut answer = Vec::new();
        within(client.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 50]);
    }
}

/// The longest chain that is verified fits into what a handshake holds, both ways.
#[tokio::test]
async fn the_longest_chain_comes_through() {
    let world = World::new();
    let leaf = (0..1000).fold(Spec::leaf(ID), |leaf, _| leaf.and(unknown(false))).signed_by(&world.ours, &world.leaf_key);
    assert!((28_000..32 * 1024).contains(&leaf.len()), "{}", leaf.len());
    let long = world.presenting(vec![leaf], signing_key(&world.leaf_key));
    let short = world.material(ID);
    for (server, client) in [(&short, &long), (&long, &short)] {
        let (server, client) = shake(server, client).await;
        server.session();
        client.session();
    }
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
