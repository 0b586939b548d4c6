//! Servers that are none, as our client sees them.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ServerConfig, ServerConnection};
use sidegate_core::Reason;
use sidegate_tls::{HandshakeFailure, ServerName, TlsContext, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::material;
use crate::wire::{sockets, within};

/// What our client makes of a server that hears its hello and then does as `server` does, which may hand the socket
/// back to keep it open.
async fn against<F: Future<Output = Option<TcpStream>>>(alpn: &[String], server: impl FnOnce(TcpStream, Vec<u8>) -> F) -> HandshakeFailure {
    let config = TlsContext::new(&material()).unwrap().client(alpn, false);
    let (mut server_tcp, client_tcp) = sockets().await;
    let serve = async {
        let mut record = vec![0; 5];
        server_tcp.read_exact(&mut record).await.unwrap();
        let start = record.len();
        record.resize(start + usize::from(u16::from_be_bytes([record[3], record[4]])), 0);
        server_tcp.read_exact(&mut record[start..]).await.unwrap();
        server(server_tcp, record).await
    };
    let name = ServerName::try_from("web.prod.example").unwrap();
    let (outcome, _open) = within(async { tokio::join!(connect(&client_tcp, &config, name), serve) }).await;
    outcome.err().unwrap()
}

async fn answers(bytes: &[u8]) -> HandshakeFailure {
    against(&[], async |mut tcp, _| {
        tcp.write_all(bytes).await.unwrap();
        Some(tcp)
    })
    .await
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_none() {
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"220 smtp.example ESMTP\r\n", b"-ERR unknown command\r\n"] {
        let failure = answers(answer).await;
        assert_eq!(failure.reason, Reason::NotTls, "{failure:?}");
        assert!(!failure.told_the_peer());
    }
}

#[tokio::test]
async fn a_server_that_refuses_our_hello_says_why() {
    for (description, reason) in [
        (70, Reason::NoCommonTls),
        (40, Reason::NoCommonTls),
        (71, Reason::NoCommonTls),
        (120, Reason::NoCommonAlpn),
        (112, Reason::PeerRejectedUs),
        (80, Reason::PeerRejectedUs),
    ] {
        let failure = answers(&[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, description]).await;
        assert_eq!(failure.reason, reason, "alert {description}: {failure:?}");
    }
}

#[tokio::test]
async fn a_server_of_tls_1_2_has_nothing_in_common_with_us() {
    // A ServerHello of TLS 1.2: version, random, no session, a suite, no compression, no extensions.
    let body = [&[0x03, 0x03][..], &[0x77; 32], &[0, 0xc0, 0x2f, 0, 0, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    let message = [&[0x16, 0x03, 0x03, 0x00, length + 4, 0x02, 0x00, 0x00, length][..], &body].concat();
    let failure = answers(&message).await;
    assert_eq!(failure.reason, Reason::NoCommonTls, "{failure:?}");
}

#[tokio::test]
async fn a_server_that_closes_or_resets_has_done_so() {
    let failure = against(&[], async |_, _| None).await;
    assert_eq!(failure.reason, Reason::HandshakeClosed, "{failure:?}");
    let failure = against(&[], async |tcp, _| {
        socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
        None
    })
    .await;
    assert_eq!(failure.reason, Reason::HandshakeReset, "{failure:?}");
    let failure = against(&[], async |mut tcp, _| {
        tcp.write_all(&[0x16, 0x03, 0x03, 0x00, 0x7a, 0x02]).await.unwrap();
        None
    })
    .await;
    assert_eq!(failure.reason, Reason::HandshakeClosed, "{failure:?}");
}

#[tokio::test]
async fn a_server_that_insists_on_its_own_alpn_has_none_in_common() {
    let material = material();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(&[&TLS13]).unwrap();
    let key = SingleCertAndKey::from((*material.svid.certified_key).clone());
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(key));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let failure = against(&["sidegate/1".to_owned()], async |mut tcp, hello| {
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        server.read_tls(&mut &hello[..]).unwrap();
        assert_eq!(server.process_new_packets().unwrap_err(), rustls::Error::NoApplicationProtocol);
        let mut alert = Vec::new();
        server.write_tls(&mut alert).unwrap();
        tcp.write_all(&alert).await.unwrap();
        Some(tcp)
    })
    .await;
    assert_eq!(failure.reason, Reason::NoCommonAlpn, "{failure:?}");
}
