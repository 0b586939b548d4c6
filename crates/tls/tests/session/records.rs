//! Conversations by hand after the handshake: records and messages that no library sends.

use std::future::poll_fn;
use std::sync::Arc;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ConnectionTrafficSecrets, ServerConfig, ServerConnection};
use sidegate_core::Reason;
use sidegate_tls::{Filled, Session, WireError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::material;
use crate::pki::TrustsAnybody;
use crate::raw::{against_us, config};
use crate::wire::{connect, read_to_end, sockets, take, within, write_all};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// Content types and plaintexts.
type Records = &'static [(u8, &'static [u8])];

/// Keys of one direction.
struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Keys {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else { panic!("another suite") };
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).unwrap());
        Self { key, iv: iv.as_ref().try_into().unwrap(), sequence }
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// An end whose every record the test writes.
struct Hand {
    tcp: TcpStream,
    out: Keys,
    inward: Keys,
}

impl Hand {
    fn record(&mut self, content: u8, text: &[u8]) -> Vec<u8> {
        let mut body = [text, &[content]].concat();
        let [high, low] = u16::try_from(body.len() + 16).unwrap().to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let nonce = self.out.nonce();
        self.out.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body).unwrap();
        [&header[..], &body].concat()
    }

    async fn send(&mut self, content: u8, text: &[u8]) {
        let record = self.record(content, text);
        self.tcp.write_all(&record).await.unwrap();
    }

    /// The next alert that comes.
    async fn alert(&mut self) -> u8 {
        loop {
            let mut header = [0; 5];
            within(self.tcp.read_exact(&mut header)).await.unwrap();
            let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
            within(self.tcp.read_exact(&mut body)).await.unwrap();
            let nonce = self.inward.nonce();
            let inner = self.inward.key.open_in_place(nonce, Aad::from(header), &mut body).unwrap();
            if let [_, description, ALERT] = inner {
                return *description;
            }
        }
    }
}

fn chacha20() -> CryptoProvider {
    CryptoProvider { cipher_suites: vec![cipher_suite::TLS13_CHACHA20_POLY1305_SHA256], ..default_provider() }
}

/// Our server, and a client by hand.
async fn against_our_server() -> (TcpStream, Session, Hand) {
    let material = material();
    let mut config = config(Some(&material), chacha20());
    config.enable_secret_extraction = true;
    let (tcp, outcome, raw) = against_us(&material, config).await;
    let mut session = outcome.unwrap();
    let secrets = raw.connection.dangerous_extract_secrets().unwrap();
    let mut hand = Hand { tcp: raw.tcp, out: Keys::new(secrets.tx), inward: Keys::new(secrets.rx) };
    // Both have sent what they had, the tickets too.
    write_all(&tcp, &mut session, b"").await.unwrap();
    hand.send(DATA, b"first").await;
    assert_eq!(within(poll_fn(|cx| session.poll_fill(&tcp, cx))).await.unwrap(), Filled::Data);
    assert_eq!(take(&mut session, 100), b"first");
    (tcp, session, hand)
}

/// Our client, and a server by hand.
async fn against_our_client() -> (TcpStream, Session, Hand) {
    let material = material();
    let config = ServerConfig::builder_with_provider(Arc::new(chacha20())).with_protocol_versions(&[&TLS13]).unwrap();
    let key = SingleCertAndKey::from((*material.svid.certified_key).clone());
    let mut config = config.with_client_cert_verifier(Arc::new(TrustsAnybody)).with_cert_resolver(Arc::new(key));
    config.enable_secret_extraction = true;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    let (mut server_tcp, tcp) = sockets().await;
    let choice = sidegate_tls::TlsContext::new(&material).unwrap().client(&[], false);
    let serve = async {
        while server.is_handshaking() {
            let mut bytes = vec![0; 4096];
            let length = server_tcp.read(&mut bytes).await.unwrap();
            server.read_tls(&mut &bytes[..length]).unwrap();
            server.process_new_packets().unwrap();
            let mut out = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut out).unwrap();
            }
            server_tcp.write_all(&out).await.unwrap();
        }
    };
    let (session, ()) = within(async { tokio::join!(connect(&tcp, &choice, "x".try_into().unwrap()), serve) }).await;
    let secrets = server.dangerous_extract_secrets().unwrap();
    (tcp, session.unwrap(), Hand { tcp: server_tcp, out: Keys::new(secrets.tx), inward: Keys::new(secrets.rx) })
}

/// What the session makes of what comes; it sends its alert.
async fn fails(tcp: &TcpStream, session: &mut Session) -> Reason {
    match read_to_end(tcp, session).await {
        Err(WireError::Tls(reason, _)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_breaks_the_protocol_is_told_the_alert_for_it() {
    const UNEXPECTED_MESSAGE: u8 = 10;
    const ILLEGAL_PARAMETER: u8 = 47;
    const DECODE_ERROR: u8 = 50;
    let cases: &[(&str, Records, u8)] = &[
        ("an alert without content", &[(ALERT, b"")], UNEXPECTED_MESSAGE),
        ("half an alert", &[(ALERT, &[1])], DECODE_ERROR),
        ("an alert and a half", &[(ALERT, &[1, 90, 1])], DECODE_ERROR),
        ("no content type", &[(0, b"")], UNEXPECTED_MESSAGE),
        ("a handshake record without content", &[(HANDSHAKE, b"")], UNEXPECTED_MESSAGE),
        ("a key update without content", &[(HANDSHAKE, &[24, 0, 0, 0])], DECODE_ERROR),
        ("a key update of two bytes", &[(HANDSHAKE, &[24, 0, 0, 2, 0, 0])], DECODE_ERROR),
        ("a key update that asks for what nobody knows", &[(HANDSHAKE, &[24, 0, 0, 1, 2])], ILLEGAL_PARAMETER),
        ("user_canceled within a message", &[(HANDSHAKE, &[24, 0, 0, 1]), (ALERT, &[1, 90])], UNEXPECTED_MESSAGE),
        ("close_notify within a message", &[(HANDSHAKE, &[24, 0, 0]), (ALERT, &[1, 0])], UNEXPECTED_MESSAGE),
        ("data within a message", &[(HANDSHAKE, &[24, 0]), (DATA, b"x")], UNEXPECTED_MESSAGE),
    ];
    for (name, records, alert) in cases {
        for ours_is_server in [true, false] {
            let (tcp, mut session, mut hand) = if ours_is_server { against_our_server().await } else { against_our_client().await };
            for (content, text) in *records {
                hand.send(*content, text).await;
            }
            assert_eq!(fails(&tcp, &mut session).await, Reason::TlsProtocolError, "{name}");
            assert_eq!(hand.alert().await, *alert, "{name}");
        }
    }
}

/// Only four bytes of a message have come, and no more of it ever does.
#[tokio::test]
async fn a_message_that_is_refused_is_refused_by_its_header() {
    let (unexpected, decode_error) = (10, 50);
    for (name, ours_is_server, header, alert) in [
        ("a ticket for a server", true, [4, 0, 0, 100], unexpected),
        ("another hello", true, [1, 0, 0xff, 0xff], unexpected),
        ("a request for a certificate", false, [13, 0, 0xff, 0xff], unexpected),
        ("a message that nobody knows", false, [99, 0, 0, 1], unexpected),
        ("a ticket that is too long", false, [4, 0, 0x40, 1], decode_error),
        ("a ticket that is far too long", false, [4, 0xff, 0xff, 0xff], decode_error),
        ("a key update that is long", true, [24, 0, 0xff, 0xff], decode_error),
    ] {
        let (tcp, mut session, mut hand) = if ours_is_server { against_our_server().await } else { against_our_client().await };
        hand.send(HANDSHAKE, &header).await;
        assert_eq!(fails(&tcp, &mut session).await, Reason::TlsProtocolError, "{name}");
        assert_eq!(hand.alert().await, alert, "{name}");
    }
}

/// The longest ticket that is taken, in small parts.
#[tokio::test]
async fn a_long_ticket_is_a_ticket() {
    let (tcp, mut session, mut hand) = against_our_client().await;
    let ticket = vec![7; 0x4000 - 4 - 4 - 1 - 2 - 2];
    let length = u16::try_from(ticket.len()).unwrap().to_be_bytes();
    let message = [&[4, 0, 0x40, 0][..], &[0, 0, 0, 9], &[1, 2, 3, 4], &[0], &length, &ticket, &[0, 0]].concat();
    for part in message.chunks(1000) {
        hand.send(HANDSHAKE, part).await;
    }
    hand.send(DATA, b"x").await;
    assert_eq!(within(poll_fn(|cx| session.poll_fill(&tcp, cx))).await.unwrap(), Filled::Data);
}

/// Data resets the count, however the records come.
#[tokio::test]
async fn empty_records_between_data_are_borne_with() {
    let (tcp, mut session, mut hand) = against_our_server().await;
    let mut bytes = Vec::new();
    for _ in 0..3000 {
        bytes.extend(hand.record(DATA, b"x"));
        bytes.extend(hand.record(DATA, b""));
    }
    bytes.extend(hand.record(ALERT, &[1, 0]));
    let (sent, read) = tokio::join!(hand.tcp.write_all(&bytes), read_to_end(&tcp, &mut session));
    sent.unwrap();
    assert_eq!(read.unwrap().len(), 3000);
}

#[tokio::test]
async fn records_without_data_come_to_an_end_however_they_are_spread() {
    let (tcp, mut session, mut hand) = against_our_server().await;
    let records: Vec<Vec<u8>> = (0..10_000).map(|_| hand.record(DATA, b"")).collect();
    let mut borne = 0;
    let error = loop {
        hand.tcp.write_all(&records[borne]).await.unwrap();
        // Each is read before the next is sent.
        tcp.readable().await.unwrap();
        match session.try_fill(&tcp) {
            Ok(None) => borne += 1,
            other => break other,
        }
    };
    assert!(matches!(error, Err(WireError::Tls(Reason::TlsProtocolError, _))), "after {borne}: {error:?}");
    assert!((500..2000).contains(&borne), "{borne}");
}

/// A fatal alert after the handshake says what it says: only one about our certificate means that we are refused.
#[tokio::test]
async fn a_fatal_alert_is_recorded_as_what_it_was() {
    for (description, reason) in [
        (20, Reason::PeerAlert),
        (40, Reason::PeerAlert),
        (70, Reason::PeerAlert),
        (71, Reason::PeerAlert),
        (80, Reason::PeerAlert),
        (120, Reason::PeerAlert),
        (42, Reason::PeerRejectedUs),
        (48, Reason::PeerRejectedUs),
        (49, Reason::PeerRejectedUs),
        (116, Reason::PeerRejectedUs),
    ] {
        let (tcp, mut session, mut hand) = against_our_client().await;
        hand.send(ALERT, &[2, description]).await;
        assert_eq!(fails(&tcp, &mut session).await, reason, "alert {description}");
    }
}
