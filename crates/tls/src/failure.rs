//! How a handshake or an established session fails.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, Error, InvalidMessage};
use sidegate_core::{CertificateFacts, Lap, Reason, printable};

/// Why a handshake did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeFailure {
    /// The one reason.
    pub reason: Reason,
    /// What exactly, human-readable.
    pub detail: String,
    /// What the peer's certificate claims to be, if it was refused.
    pub claimed_id: Option<String>,
    /// The certificate that the peer presented, if it came to that.
    pub certificate: Option<Arc<CertificateFacts>>,
    /// When verification was and how long it took, if it came to that.
    pub verify: Option<Lap>,
}

impl HandshakeFailure {
    /// Whether the peer has been sent an alert: then its socket is closed so that it arrives.
    #[must_use]
    pub fn told_the_peer(&self) -> bool {
        !matches!(
            self.reason,
            Reason::HandshakeReset
                | Reason::HandshakeClosed
                | Reason::PlaintextRefused
                | Reason::NotTls
                | Reason::PeerTimeout
                | Reason::PeerRejectedUs
        )
    }

    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: printable(&detail.into()), claimed_id: None, certificate: None, verify: None }
    }

    pub(crate) fn io(error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Reason::HandshakeReset,
            io::ErrorKind::UnexpectedEof => Reason::HandshakeClosed,
            io::ErrorKind::TimedOut => Reason::PeerTimeout,
            _ => Reason::RelayFailed,
        };
        Self::new(reason, error.to_string())
    }

    pub(crate) fn tls(error: &Error) -> Self {
        Self::new(tls_reason(error), error.to_string())
    }
}

/// The reason for an error of rustls that is not about a certificate.
pub(crate) fn tls_reason(error: &Error) -> Reason {
    match error {
        Error::NoCertificatesPresented => Reason::NoPeerCertificate,
        Error::AlertReceived(
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity,
        ) => Reason::NoCommonTls,
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) | Error::NoApplicationProtocol => Reason::NoCommonAlpn,
        Error::AlertReceived(_) => Reason::PeerRejectedUs,
        Error::PeerIncompatible(_) => Reason::NoCommonTls,
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion | InvalidMessage::MessageTooLarge,
        ) => Reason::NotTls,
        // The verifier's own report has the reason; this is a CertificateVerify that does not fit the certificate.
        Error::InvalidCertificate(_) => Reason::BadSignature,
        _ => Reason::TlsProtocolError,
    }
}

/// How reading from or writing to an established connection fails.
#[derive(Debug)]
pub enum WireError {
    /// The other end reset it.
    Reset,
    /// TCP ended without close_notify.
    Truncated,
    /// TLS failed: the reason, and what exactly.
    Tls(Reason, String),
    /// The system says so.
    Io(io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted | io::ErrorKind::NotConnected => {
                Self::Reset
            }
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(error),
        }
    }
}
