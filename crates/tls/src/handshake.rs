//! The handshake, both sides. The caller sets the deadline.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::server::{Accepted, Acceptor};
use rustls::{CipherSuite, ClientConfig, ClientConnection, Connection, HandshakeKind, ProtocolVersion, ServerConnection};
use sidegate_core::{HandshakeFacts, Reason};
use tokio::net::TcpStream;

use crate::configs::ServerChoice;
use crate::failure::HandshakeFailure;
use crate::session::{Session, Socket};
use crate::verifier::{Report, take_report};

/// Shakes hands with a client whose first bytes, already read, are `first`.
///
/// # Errors
/// Why it failed. The alert has been sent then; the caller closes the socket. Who sends no TLS is sent nothing.
pub async fn accept(tcp: &TcpStream, first: &[u8], choice: &ServerChoice) -> Result<Session, HandshakeFailure> {
    let accepted = client_hello(tcp, first).await?;
    let config = choice.choose(&accepted.client_hello());
    match accepted.into_connection(config) {
        Ok(connection) => drive(tcp, connection.into()).await,
        Err((error, mut alert)) => {
            let _ = alert.write_all(&mut Socket(tcp));
            Err(HandshakeFailure::tls(&error))
        }
    }
}

/// Shakes hands with a server.
///
/// # Errors
/// Why it failed. The alert has been sent then; the caller closes the socket.
pub async fn connect(tcp: &TcpStream, config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Session, HandshakeFailure> {
    let connection = ClientConnection::new(config, name).map_err(|e| HandshakeFailure::tls(&e))?;
    drive(tcp, connection.into()).await
}

async fn client_hello(tcp: &TcpStream, mut first: &[u8]) -> Result<Accepted, HandshakeFailure> {
    let mut acceptor = Acceptor::default();
    loop {
        let read = if first.is_empty() {
            read_some(tcp, |socket| acceptor.read_tls(socket)).await?
        } else {
            acceptor.read_tls(&mut first).map_err(|e| HandshakeFailure::io(&e))?
        };
        if read == 0 {
            return Err(closed());
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut failure = HandshakeFailure::tls(&error);
                if failure.reason == Reason::NotTls {
                    failure.reason = Reason::PlaintextRefused;
                    failure.detail = "the client did not speak TLS".to_owned();
                } else {
                    let _ = alert.write_all(&mut Socket(tcp));
                }
                return Err(failure);
            }
        }
    }
}

async fn drive(tcp: &TcpStream, mut connection: Connection) -> Result<Session, HandshakeFailure> {
    let mut report = None;
    // What the acceptor read may hold more than the ClientHello.
    process(tcp, &mut connection, &mut report)?;
    loop {
        while connection.wants_write() {
            tcp.writable().await.map_err(|e| HandshakeFailure::io(&e))?;
            match connection.write_tls(&mut Socket(tcp)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that rejects us closes while we still write; what it said is worth more than the error.
                Err(_) if connection.is_handshaking() => break,
                Err(error) => return Err(HandshakeFailure::io(&error)),
            }
        }
        if !connection.is_handshaking() {
            break;
        }
        if read_some(tcp, |socket| connection.read_tls(socket)).await? == 0 {
            return Err(closed());
        }
        process(tcp, &mut connection, &mut report)?;
    }
    let Some(Report { outcome: Ok(peer), lap }) = report else {
        // Not reached: without resumption rustls ends no handshake that a verifier has not passed.
        return Err(HandshakeFailure::new(Reason::NoPeerCertificate, "the handshake ended without a verified peer"));
    };
    let facts = facts(&connection);
    Ok(Session::new(connection, peer, facts, lap))
}

fn process(tcp: &TcpStream, connection: &mut Connection, report: &mut Option<Report>) -> Result<(), HandshakeFailure> {
    let result = connection.process_new_packets();
    if let Some(found) = take_report() {
        *report = Some(found);
    }
    let Err(error) = result else { return Ok(()) };
    let _ = connection.write_tls(&mut Socket(tcp));
    let mut failure = HandshakeFailure::tls(&error);
    if let Some(Report { outcome, lap }) = report.take() {
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
                failure.certificate = Some(claimed.certificate);
            }
        }
    }
    Err(failure)
}

async fn read_some(tcp: &TcpStream, mut read: impl FnMut(&mut Socket<'_>) -> io::Result<usize>) -> Result<usize, HandshakeFailure> {
    loop {
        tcp.readable().await.map_err(|e| HandshakeFailure::io(&e))?;
        match read(&mut Socket(tcp)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other.map_err(|e| HandshakeFailure::io(&e)),
        }
    }
}

fn closed() -> HandshakeFailure {
    HandshakeFailure::new(Reason::HandshakeClosed, "the peer closed before the handshake was done")
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

fn facts(connection: &Connection) -> HandshakeFacts {
    let sni = match connection {
        Connection::Server(server) => ServerConnection::server_name(server).map(str::to_owned),
        Connection::Client(_) => None,
    };
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
