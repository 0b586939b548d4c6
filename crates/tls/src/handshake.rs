//! The handshake, both sides. The caller sets the deadline. A ClientHello is read here, and decided on by `ServerChoice::choose`
//! (`configs.rs`).
//!
//! Nobody has proved anything yet, so a peer that is slow holds about what it has sent: 4 KiB to begin with, 16 KiB for a ClientHello,
//! 48 KiB for the messages behind it, of which a certificate message with the longest chain that is verified is the longest.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::{Acceptor, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{AlertDescription, CipherSuite, CommonState, Error, ExtractedSecrets, HandshakeKind, ProtocolVersion, ServerConfig};
use sidegate_core::{HandshakeFacts, Lap, Reason};
use sidegate_identity::unix_now;
use tokio::net::TcpStream;

use crate::configs::{ClientChoice, ServerChoice};
use crate::failure::HandshakeFailure;
use crate::record::{HEADER, PLAINTEXT};
use crate::session::{Kernel, Remains, Session};
use crate::verifier::{Report, take_report};
use crate::verify::{PeerIdentity, Role, TrustStore};
use crate::verify_cache::verify_cached;
use sidegate_net::fairness;
use sidegate_net::transfer;
use sidegate_net::{Buffer, Size};

/// Shakes hands with a client whose first bytes, already read, are `first`. The ticket has not been sent when this returns:
/// it goes with what the session sends first.
///
/// # Errors
/// Why it failed. The alert has been sent then; the caller closes the socket. Who sends no TLS is sent nothing.
pub async fn accept(tcp: &TcpStream, first: &[u8], choice: &ServerChoice) -> Result<Session, HandshakeFailure> {
    let mut inward = Inward::starting_with(first)?;
    let (config, sni) = client_hello(tcp, &mut inward, choice).await?;
    let connection = UnbufferedServerConnection::new(config).map_err(|e| HandshakeFailure::tls(&e))?;
    drive(tcp, inward, Handshaking::Server(connection), &choice.trust, sni).await
}

/// Shakes hands with a server. The client's last flight has not been sent when this returns: what the session sends first
/// goes with it.
///
/// # Errors
/// Why it failed. The alert has been sent then; the caller closes the socket.
pub async fn connect(tcp: &TcpStream, choice: &ClientChoice, name: ServerName<'static>) -> Result<Session, HandshakeFailure> {
    let connection = UnbufferedClientConnection::new(choice.config.clone(), name).map_err(|e| HandshakeFailure::tls(&e))?;
    drive(tcp, Inward::starting_with(&[])?, Handshaking::Client(connection), &choice.trust, None).await
}

/// What has come and rustls has not taken.
struct Inward {
    buffer: Buffer,
    filled: Range<usize>,
}

impl Inward {
    fn starting_with(first: &[u8]) -> Result<Self, HandshakeFailure> {
        let mut inward = Self { buffer: Buffer::take(Size::of(first.len()).unwrap_or(Size::Large)), filled: 0..first.len() };
        match inward.buffer.bytes().get_mut(..first.len()) {
            Some(room) => room.copy_from_slice(first),
            None => return Err(HandshakeFailure::new(Reason::TlsProtocolError, "more came first than a handshake can hold")),
        }
        Ok(inward)
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.buffer.bytes()[self.filled.clone()]
    }

    /// Waits for more, and takes it, into a buffer of `most` at most. What has come lies in the smallest that holds it: who sends
    /// little and then waits costs no more than that.
    async fn read(&mut self, tcp: &TcpStream, most: Size) -> Result<(), HandshakeFailure> {
        // A message may come in several records; rustls wants all of it in one piece.
        if self.filled.end == self.buffer.bytes().len() {
            if self.filled.start > 0 {
                self.buffer.bytes().copy_within(self.filled.clone(), 0);
            } else if let Some(size) = Size::of(self.filled.len() + 1).filter(|size| *size <= most) {
                let mut larger = Buffer::take(size);
                larger.bytes()[..self.filled.len()].copy_from_slice(self.bytes());
                self.buffer = larger;
            } else {
                return Err(HandshakeFailure::new(Reason::TlsProtocolError, "a handshake message is longer than is taken"));
            }
            self.filled = 0..self.filled.len();
        }
        loop {
            tcp.readable().await.map_err(|e| HandshakeFailure::io(&e))?;
            let room = &mut self.buffer.bytes()[self.filled.end..];
            match transfer::read(tcp, &mut [IoSliceMut::new(room)]).map_err(|e| HandshakeFailure::io(&e))? {
                Some(0) => return Err(HandshakeFailure::new(Reason::HandshakeClosed, "the peer closed before the handshake was done")),
                Some(read) => {
                    self.filled.end += read;
                    return Ok(());
                }
                None => {}
            }
        }
    }
}

/// A ClientHello at most. With a hybrid key share, a ticket and the names of many protocols it has some 2 KiB.
const LONGEST_HELLO: usize = 16 * 1024;

/// Whether all of a ClientHello has come, by the headers of its records and its own. What is none counts as whole: rustls refuses it.
fn has_hello(bytes: &[u8]) -> Result<bool, HandshakeFailure> {
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    // The message's own header may be spread over records.
    let (mut head, mut come) = (Vec::with_capacity(4), 0);
    let mut rest = bytes;
    while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[..2] != [HANDSHAKE, 3] || length == 0 || length > PLAINTEXT {
            return Ok(true);
        }
        let part = &after[..length.min(after.len())];
        head.extend(part.iter().take(4 - head.len()));
        come += part.len();
        if head.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Ok(true);
        }
        if let [_, high, middle, low] = head[..] {
            let wanted = u32::from_be_bytes([0, high, middle, low]) as usize;
            if wanted > LONGEST_HELLO {
                return Err(HandshakeFailure::new(Reason::TlsProtocolError, "a ClientHello is longer than is taken"));
            }
            if come >= 4 + wanted {
                return Ok(true);
            }
        }
        match after.get(length..) {
            Some(next) => rest = next,
            None => return Ok(false),
        }
    }
    // Plaintext may be shorter than a header.
    Ok(rest.iter().zip([HANDSHAKE, 3]).any(|(byte, expected)| *byte != expected))
}

/// Waits for the ClientHello and lets it choose. It stays where it is, for rustls to read once more.
async fn client_hello(
    tcp: &TcpStream,
    inward: &mut Inward,
    choice: &ServerChoice,
) -> Result<(Arc<ServerConfig>, Option<String>), HandshakeFailure> {
    loop {
        match has_hello(inward.bytes()) {
            Ok(true) => break,
            Ok(false) => inward.read(tcp, Size::Small).await?,
            Err(failure) => {
                const FATAL: u8 = 2;
                let _ = transfer::write(tcp, &[IoSlice::new(&[21, 3, 3, 0, 2, FATAL, AlertDescription::DecodeError.into()])]);
                return Err(failure);
            }
        }
    }
    // It keeps a copy of what it reads, and so reads nothing before all is there.
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        while seen < inward.filled.len() {
            let mut news = &inward.bytes()[seen..];
            let read = acceptor.read_tls(&mut news).map_err(|e| HandshakeFailure::io(&e))?;
            seen += read;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return Ok((choice.choose(&hello), hello.server_name().map(str::to_owned)));
                }
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut failure = HandshakeFailure::tls(&error);
                    if failure.reason == Reason::NotTls {
                        failure.reason = Reason::PlaintextRefused;
                        failure.detail = "the client did not speak TLS".to_owned();
                    } else {
                        let mut text = Vec::new();
                        let _ = alert.write_all(&mut text);
                        let _ = transfer::write(tcp, &[IoSlice::new(&text)]);
                    }
                    return Err(failure);
                }
            }
        }
        inward.read(tcp, Size::Small).await?;
    }
}

/// A connection whose handshake is under way.
enum Handshaking {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What rustls wants next.
enum Next {
    /// To be asked again.
    Again,
    /// More from the peer.
    Read,
    /// Nothing: the handshake is done.
    Ready,
    /// Nothing: the peer has closed.
    Closed,
}

impl Handshaking {
    fn step(&mut self, bytes: &mut [u8], remains: &mut Remains) -> (usize, Result<Next, Error>) {
        match self {
            Self::Client(client) => step(client.process_tls_records(bytes), remains),
            Self::Server(server) => step(server.process_tls_records(bytes), remains),
        }
    }

    fn common(&self) -> &CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }

    fn role_of_peer(&self) -> Role {
        match self {
            Self::Client(_) => Role::Server,
            Self::Server(_) => Role::Client,
        }
    }

    fn establish(self) -> Result<(ExtractedSecrets, Kernel), Error> {
        match self {
            Self::Client(client) => client.dangerous_into_kernel_connection().map(|(secrets, kernel)| (secrets, Kernel::Client(kernel))),
            Self::Server(server) => server.dangerous_into_kernel_connection().map(|(secrets, kernel)| (secrets, Kernel::Server(kernel))),
        }
    }
}

/// One step of rustls; what it makes goes into `remains`. How many bytes it has taken.
fn step<Data>(status: UnbufferedStatus<'_, '_, Data>, remains: &mut Remains) -> (usize, Result<Next, Error>) {
    let UnbufferedStatus { discard, state } = status;
    let next = match state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = remains.out.len();
            let mut encoded = data.encode(&mut []);
            if let Err(EncodeError::InsufficientSize(needed)) = &encoded {
                remains.out.resize(start + needed.required_size, 0);
                encoded = data.encode(&mut remains.out[start..]);
            }
            encoded.map(|_| Next::Again).map_err(|e| Error::General(e.to_string()))
        }
        // It is sent before the next read.
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Next::Closed),
        Ok(ConnectionState::BlockedHandshake) => Ok(Next::Read),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Next::Ready),
        // Neither data nor early data: rustls sees nothing that comes behind the handshake.
        Ok(_) => Err(Error::General("rustls is in a state that no handshake leads to".to_owned())),
        Err(error) => Err(error),
    };
    (discard, next)
}

async fn drive(
    tcp: &TcpStream,
    mut inward: Inward,
    mut handshaking: Handshaking,
    trust: &TrustStore,
    sni: Option<String>,
) -> Result<Session, HandshakeFailure> {
    let mut remains = Remains::default();
    let mut report = None;
    // How much of what has come rustls sees: a record more whenever it wants one, so that what comes behind the handshake is
    // left for the session. Where the next has not come whole, all of it, for rustls to refuse what can be no record; `whole`
    // is where the last whole one ends.
    let (mut whole, mut shown) = (0, 0);
    loop {
        let turn = fairness::turn().await;
        let next = loop {
            let (taken, next) = handshaking.step(&mut inward.bytes()[..shown], &mut remains);
            inward.filled.start += taken;
            (whole, shown) = (whole - taken, shown - taken);
            if let Some(found) = take_report() {
                report = Some(found);
            }
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Read) if shown < inward.filled.len() => match end_of_next_record(inward.bytes(), whole) {
                    Some(end) => (whole, shown) = (end, end),
                    None => shown = inward.filled.len(),
                },
                next => break next,
            }
        };
        drop(turn);
        match next {
            Ok(Next::Again | Next::Ready) => break,
            Ok(Next::Closed) => {
                return Err(HandshakeFailure::new(Reason::HandshakeClosed, "the peer closed before the handshake was done"));
            }
            Ok(Next::Read) => {
                // A peer that rejects us closes while we still write; what it said is worth more than the error. But where it
                // has said nothing the error tells more than the bare end that comes after it.
                let sent = send(tcp, &mut remains.out).await;
                inward.read(tcp, Size::Medium).await.map_err(|ended| sent.err().unwrap_or(ended))?;
            }
            Err(error) => {
                tell(tcp, &mut handshaking, &mut inward.bytes()[..shown], &mut remains);
                return Err(failure(&error, report));
            }
        }
    }
    let facts = Arc::new(facts(handshaking.common(), sni));
    let (peer, verify) = match report {
        Some(Report { outcome: Ok(peer), lap }) => (peer, lap),
        // A resumed session: its chain was verified once, and is verified again, for a verifier was not asked.
        _ => resumed(&handshaking, trust)?,
    };
    remains.sealed = inward.bytes()[whole..].to_vec();
    let broken = |e: Error| HandshakeFailure::tls(&e);
    Session::new(handshaking.establish().map_err(broken)?, peer, facts, verify, remains).map_err(broken)
}

/// Where the record ends that begins at `start`; none if it has not come whole.
fn end_of_next_record(bytes: &[u8], start: usize) -> Option<usize> {
    let header = bytes[start..].first_chunk::<HEADER>()?;
    let end = start + HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
    (end <= bytes.len()).then_some(end)
}

/// Verifies the chain that a resumed session began with.
fn resumed(handshaking: &Handshaking, trust: &TrustStore) -> Result<(Arc<PeerIdentity>, Lap), HandshakeFailure> {
    let start = Instant::now();
    let chain = handshaking.common().peer_certificates().unwrap_or_default();
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(HandshakeFailure::new(Reason::NoPeerCertificate, "the handshake ended without a verified peer"));
    };
    let outcome = verify_cached(leaf, intermediates, handshaking.role_of_peer(), trust, unix_now());
    let lap = Lap::since(start);
    match outcome {
        Ok(peer) => Ok((peer, lap)),
        Err(refused) => {
            let mut failure = HandshakeFailure::new(refused.reason, refused.detail);
            failure.claimed_id = refused.claimed_id;
            failure.certificate = refused.certificate;
            failure.verify = Some(lap);
            Err(failure)
        }
    }
}

/// Sends what rustls still has for the peer, the alert last, as far as the socket takes it. rustls hands out one piece each time it
/// is asked, and wants to see the same bytes.
fn tell(tcp: &TcpStream, handshaking: &mut Handshaking, bytes: &mut [u8], remains: &mut Remains) {
    /// A flight and an alert, with room to spare.
    const MOST_STEPS: usize = 32;
    for _ in 0..MOST_STEPS {
        // With nothing left to hand out it would take up the bytes once more.
        if !handshaking.common().wants_write() || !matches!(handshaking.step(bytes, remains), (0, Ok(Next::Again))) {
            break;
        }
    }
    let _ = transfer::write(tcp, &[IoSlice::new(&remains.out)]);
}

async fn send(tcp: &TcpStream, out: &mut Vec<u8>) -> Result<(), HandshakeFailure> {
    let mut sent = 0;
    while sent < out.len() {
        tcp.writable().await.map_err(|e| HandshakeFailure::io(&e))?;
        sent += transfer::write(tcp, &[IoSlice::new(&out[sent..])]).map_err(|e| HandshakeFailure::io(&e))?.unwrap_or(0);
    }
    out.clear();
    Ok(())
}

fn failure(error: &Error, report: Option<Report>) -> HandshakeFailure {
    let mut failure = HandshakeFailure::tls(error);
    if let Some(Report { outcome, lap }) = report {
        failure.verify = Some(lap);
        match outcome {
            Err(refused) => {
                failure.reason = refused.reason;
                failure.detail = refused.detail;
                failure.claimed_id = refused.claimed_id;
                failure.certificate = refused.certificate;
            }
            // The certificate is good, but the peer has not proved that it is its own.
            Ok(claimed) => {
                failure.claimed_id = Some(claimed.text.to_string());
                failure.certificate = Some(claimed.certificate.clone());
            }
        }
    }
    failure
}

/// rustls marks the suites of TLS 1.3 in their names; IANA does not.
fn iana_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}

fn facts(connection: &CommonState, sni: Option<String>) -> HandshakeFacts {
    HandshakeFacts {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "unknown",
        },
        cipher: connection.negotiated_cipher_suite().map_or("unknown", |s| iana_name(s.suite())),
        group: connection.negotiated_key_exchange_group().and_then(|g| g.name().as_str()),
        alpn: connection.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
        sni,
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What a peer sends lies in little more than it needs, and what is longer than may be is not taken.
    #[tokio::test]
    async fn a_peer_holds_about_what_it_has_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut client, (server, _)) = (client.unwrap(), server.unwrap());
        let mut inward = Inward::starting_with(b"").unwrap();
        assert_eq!(inward.buffer.size(), Size::Tiny);
        for (length, most, size) in [
            (4096, Size::Small, Size::Tiny),
            (4097, Size::Small, Size::Small),
            (Size::Small.bytes(), Size::Small, Size::Small),
            (Size::Small.bytes() + 1, Size::Medium, Size::Medium),
            (Size::Medium.bytes(), Size::Medium, Size::Medium),
        ] {
            while inward.filled.len() < length {
                client.write_all(&[0]).await.unwrap();
                inward.read(&server, most).await.unwrap();
            }
            assert_eq!((inward.filled.len(), inward.buffer.size()), (length, size));
        }
        client.write_all(&[0]).await.unwrap();
        assert!(inward.read(&server, Size::Medium).await.is_err());
    }

    /// Whole exactly when its last byte has come, in whatever records, and refused as soon as it says that it is too long.
    #[test]
    fn a_hello_is_seen_whole_when_it_is() {
        let message = |length: u32| [&[1][..], &length.to_be_bytes()[1..], &vec![7; length as usize]].concat();
        let in_records = |message: &[u8], of: usize| -> Vec<u8> {
            let record = |part: &[u8]| [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
            message.chunks(of).flat_map(record).collect()
        };
        for of in [1, 3, 4, 100, 1000, PLAINTEXT] {
            let bytes = in_records(&message(300), of);
            for end in 0..bytes.len() {
                assert_eq!(has_hello(&bytes[..end]), Ok(false), "{end} bytes in records of {of}");
            }
            assert_eq!(has_hello(&bytes), Ok(true));
            assert!(has_hello(&in_records(&message(16 * 1024 + 1), of)).is_err());
        }
        assert_eq!(has_hello(&in_records(&message(16 * 1024), PLAINTEXT)), Ok(true));
        for other in [&b"G"[..], b"\x16\x02", b"\x17\x03\x03\0\x01", b"\x16\x03\x01\0\0", b"\x16\x03\x01\xff\0", b"\x16\x03\x01\0\x05\x02"]
        {
            assert_eq!(has_hello(other), Ok(true), "{other:?}");
        }
    }
}
