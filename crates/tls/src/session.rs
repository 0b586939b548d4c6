//! An established TLS session: records in, records out, each sealed and opened where it lies.
//!
//! The session owns no socket, so that a relay can watch both of its sockets while it moves bytes.

mod inward;
mod outward;

use std::ops::Range;
use std::sync::Arc;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error, ExtractedSecrets};
use sidegate_core::{HandshakeFacts, Lap, Reason};

use crate::failure::{WireError, tls_reason};
use crate::record::{Opener, Sealer};
use crate::verify::PeerIdentity;
use sidegate_net::{Buffer, Size};

pub(crate) use inward::LONGEST_TICKET;
pub use outward::SealError;

/// What rustls still does for an established session.
pub(crate) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Kernel {
    fn next_secret(&mut self, ours: bool) -> Result<ConnectionTrafficSecrets, Error> {
        let secret = match (self, ours) {
            (Self::Client(client), true) => client.update_tx_secret(),
            (Self::Client(client), false) => client.update_rx_secret(),
            (Self::Server(server), true) => server.update_tx_secret(),
            (Self::Server(server), false) => server.update_rx_secret(),
        };
        secret.map(|(_, secret)| secret)
    }

    fn key_limit(&self) -> u64 {
        let suite = match self {
            Self::Client(client) => client.negotiated_cipher_suite(),
            Self::Server(server) => server.negotiated_cipher_suite(),
        };
        suite.tls13().map_or(1 << 20, |suite| suite.common.confidentiality_limit)
    }
}

/// What a session's end of the handshake leaves for it.
#[derive(Default)]
pub(crate) struct Remains {
    /// Records that have been made and not sent.
    pub(crate) out: Vec<u8>,
    /// What came behind the handshake.
    pub(crate) sealed: Vec<u8>,
}

/// What there is to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// Plaintext.
    Data,
    /// The peer has half-closed.
    End,
}

/// What lies in front of the payload of each record that is sealed, by the payload's length.
pub type Prefix = fn(usize) -> [u8; 4];

/// A session after its handshake.
pub struct Session {
    /// Who the peer is.
    pub peer: Arc<PeerIdentity>,
    /// What the handshake found.
    pub facts: Arc<HandshakeFacts>,
    /// When the peer's chain was verified and how long that took.
    pub verify: Lap,
    kernel: Kernel,
    // Outwards: first the head, then what lies in the buffer, then the tail.
    sealer: Sealer,
    head: Vec<u8>,
    /// Boxed, as the other: most of the time there is none.
    out: Option<Box<Buffer>>,
    unsent: Range<usize>,
    tail: Vec<u8>,
    out_size: Size,
    /// The peer has asked for a new key of ours.
    owes_key: bool,
    closing: bool,
    // Inwards: sealed bytes of the buffer that have not been opened, behind the plaintext that has not been taken.
    opener: Opener,
    inward: Option<Box<Buffer>>,
    sealed: Range<usize>,
    in_size: Size,
    ended: bool,
    failed: Option<Box<WireError>>,
    message: Vec<u8>,
    updates: u8,
    /// Records and messages since the last data.
    fruitless: u16,
}

impl Session {
    pub(crate) fn new(
        (secrets, kernel): (ExtractedSecrets, Kernel),
        peer: Arc<PeerIdentity>,
        facts: Arc<HandshakeFacts>,
        verify: Lap,
        remains: Remains,
    ) -> Result<Self, Error> {
        let mut inward = None;
        let behind = remains.sealed.len();
        if behind > 0 {
            let mut buffer = Buffer::take(if behind > Size::Small.bytes() { Size::Large } else { Size::Small });
            let Some(room) = buffer.bytes().get_mut(..behind) else {
                return Err(Error::General("too much came with the handshake".to_owned()));
            };
            room.copy_from_slice(&remains.sealed);
            inward = Some(Box::new(buffer));
        }
        Ok(Self {
            peer,
            facts,
            verify,
            sealer: Sealer::new(secrets.tx.0, &secrets.tx.1, kernel.key_limit())?,
            opener: Opener::new(secrets.rx.0, &secrets.rx.1)?,
            kernel,
            head: Vec::new(),
            out: None,
            unsent: 0..0,
            tail: remains.out,
            out_size: Size::Small,
            owes_key: false,
            closing: false,
            inward,
            sealed: 0..behind,
            in_size: Size::Small,
            ended: false,
            failed: None,
            message: Vec::new(),
            updates: 0,
            fruitless: 0,
        })
    }
}

/// What an alert of the peer means that ends an established session. A server verifies its client after that is done with the
/// handshake (RFC 8446 §4.4.2.4); what is not about our certificate is no such verdict.
fn ended_by(alert: AlertDescription) -> WireError {
    let reason = match alert {
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError
        | AlertDescription::CertificateRequired => Reason::PeerRejectedUs,
        _ => Reason::PeerAlert,
    };
    WireError::Tls(reason, Error::AlertReceived(alert).to_string())
}

/// What an error of an established session means; that the peer speaks TLS is settled.
fn broken(error: &Error) -> WireError {
    let reason = match tls_reason(error) {
        Reason::NotTls => Reason::TlsProtocolError,
        reason => reason,
    };
    WireError::Tls(reason, error.to_string())
}
