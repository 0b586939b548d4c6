//! Clients that speak no TLS, another TLS, or have nothing to show.

use rustls::crypto::aws_lc_rs::default_provider;
use sidegate_core::Reason;
use sidegate_tls::{HandshakeFailure, TlsContext, accept};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::material;
use crate::raw::{against_us, config};
use crate::wire::{sockets, within};

/// What our server makes of a client that sends `bytes` and waits, and what it answers.
async fn sends(bytes: &[u8]) -> (HandshakeFailure, Vec<u8>) {
    let choice = TlsContext::new(&material()).unwrap().server(&[]);
    let (server, mut client) = sockets().await;
    client.write_all(bytes).await.unwrap();
    let failure = within(accept(&server, b"", &choice)).await.err().unwrap();
    drop(server);
    let mut answer = Vec::new();
    // A reset instead of an end is as good: something of ours was not read.
    let _ = within(client.read_to_end(&mut answer)).await;
    (failure, answer)
}

/// A fatal alert, not encrypted.
fn alert(description: u8) -> Vec<u8> {
    vec![0x15, 0x03, 0x03, 0x00, 0x02, 0x02, description]
}

#[tokio::test]
async fn who_speaks_no_tls_is_refused_without_an_answer() {
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"[..],
        b"POST /a HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        // SSL 2, as very old clients begin.
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80",
        // TLS's first byte, but no version of it.
        b"\x16\x99\x99\x00\x05hello",
    ] {
        let (failure, answer) = sends(bytes).await;
        assert_eq!(failure.reason, Reason::PlaintextRefused, "{bytes:?}: {failure:?}");
        assert!(!failure.told_the_peer() && answer.is_empty(), "{bytes:?}: {answer:?}");
    }
}

#[tokio::test]
async fn what_begins_like_tls_and_is_none_breaks_the_protocol() {
    for (name, bytes) in [
        ("no handshake message", &b"\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff"[..]),
        ("a ServerHello", b"\x16\x03\x03\x00\x04\x02\x00\x00\x00"),
        ("a ClientHello that is garbage", b"\x16\x03\x01\x00\x0a\x01\x00\x00\x06garbag"),
        ("an empty ClientHello", b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"),
        ("application data", b"\x17\x03\x03\x00\x05hello"),
        ("an empty record", b"\x16\x03\x01\x00\x00"),
        ("a message that is far too long", b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x00"),
    ] {
        let (failure, answer) = sends(bytes).await;
        assert_eq!(failure.reason, Reason::TlsProtocolError, "{name}: {failure:?}");
        assert!(failure.told_the_peer(), "{name}");
        // rustls has no alert for what it can't even parse; then the end alone has to do.
        assert!(answer.is_empty() || answer.starts_with(&[0x15, 0x03, 0x03, 0x00, 0x02, 0x02]), "{name}: {answer:?}");
    }
}

/// A hello of a client that isn't rustls: these suites and extensions.
fn client_hello(suites: &[u16], extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let with_length = |bytes: Vec<u8>| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
    let suites = with_length(suites.iter().flat_map(|suite| suite.to_be_bytes()).collect());
    let extensions = extensions.iter().flat_map(|(kind, content)| [kind.to_be_bytes().to_vec(), with_length(content.to_vec())].concat());
    let body = [&[0x03, 0x03][..], &[0x55; 32], &[0], &suites, &[1, 0], &with_length(extensions.collect())].concat();
    let message = [&[0x01, 0x00][..], &with_length(body)].concat();
    [&[0x16, 0x03, 0x01][..], &with_length(message)].concat()
}

const SIGNATURES: (u16, &[u8]) = (13, &[0, 4, 4, 3, 8, 4]);
const GROUPS: (u16, &[u8]) = (10, &[0, 4, 0, 0x1d, 0, 0x17]);
const TLS_1_3: (u16, &[u8]) = (43, &[2, 3, 4]);
const X25519_SHARE: (u16, &[u8]) =
    (51, &[0, 36, 0, 0x1d, 0, 32, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);

#[tokio::test]
async fn who_has_nothing_in_common_is_told_so() {
    let (aes_128_gcm, ecdhe_gcm, aes_128_ccm) = (0x1301, 0xc02f, 0x1304);
    let unknown_group: (u16, &[u8]) = (10, &[0, 2, 0x01, 0x00]);
    let unknown_share: (u16, &[u8]) = (51, &[0, 5, 0x01, 0x00, 0, 1, 7]);
    for (name, hello, description) in [
        ("TLS 1.2 only", client_hello(&[ecdhe_gcm], &[SIGNATURES, GROUPS]), 70),
        ("TLS 1.2 only, and says so", client_hello(&[ecdhe_gcm], &[SIGNATURES, GROUPS, (43, &[2, 3, 3])]), 70),
        ("TLS 1.0", client_hello(&[0x002f], &[SIGNATURES, GROUPS, (43, &[2, 3, 1])]), 70),
        ("another suite", client_hello(&[aes_128_ccm], &[SIGNATURES, GROUPS, TLS_1_3, X25519_SHARE]), 40),
        ("another group", client_hello(&[aes_128_gcm], &[SIGNATURES, unknown_group, TLS_1_3, unknown_share]), 40),
    ] {
        let (failure, answer) = sends(&hello).await;
        assert_eq!(failure.reason, Reason::NoCommonTls, "{name}: {failure:?}");
        assert!(failure.told_the_peer(), "{name}");
        assert!(answer.ends_with(&alert(description)), "{name}: {answer:?}");
    }
}

/// The signature is chosen after the ServerHello, so that this alert is encrypted.
#[tokio::test]
async fn who_can_check_none_of_our_signatures_is_told_so() {
    let ed448: (u16, &[u8]) = (13, &[0, 2, 8, 8]);
    let (failure, answer) = sends(&client_hello(&[0x1301], &[ed448, GROUPS, TLS_1_3, X25519_SHARE])).await;
    assert_eq!(failure.reason, Reason::NoCommonTls, "{failure:?}");
    assert!(failure.told_the_peer());
    let mut records = Vec::new();
    let mut rest = &answer[..];
    while let Some((header, after)) = rest.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        records.push((header[0], length));
        rest = &after[length..];
    }
    // A sealed alert has two bytes, its type and a tag.
    assert!(records.first().is_some_and(|first| first.0 == 22) && records.last() == Some(&(23, 2 + 1 + 16)), "{records:?}");
}

#[tokio::test]
async fn who_has_no_certificate_is_told_so() {
    let (_tcp, outcome, mut raw) = against_us(&material(), config(None, default_provider())).await;
    let failure = outcome.err().unwrap();
    assert_eq!(failure.reason, Reason::NoPeerCertificate);
    assert!(failure.told_the_peer() && failure.claimed_id.is_none());
    let heard = raw.fill().await.unwrap_err();
    assert_eq!(heard, rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired));
}

#[tokio::test]
async fn who_resets_has_reset() {
    let choice = TlsContext::new(&material()).unwrap().server(&[]);
    let (server, client) = sockets().await;
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(within(accept(&server, b"", &choice)).await.err().unwrap().reason, Reason::HandshakeReset);
}
