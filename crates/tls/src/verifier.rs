//! The rustls verifiers.
//!
//! rustls calls a verifier in the middle of `process_new_packets` and hands only an error code on. What it found, and
//! how long that took, is left in a thread-local, from which the handshake takes it directly after that same call: on
//! the same thread and without an await between, so that no other connection can come in between.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use sidegate_core::{Lap, Reason};

use crate::provider::provider;
use crate::verify::{PeerIdentity, Role, TrustStore, VerifyFailure};
use crate::verify_cache::verify_cached;

/// What the last verification on this thread found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) lap: Lap,
    pub(crate) outcome: Result<Arc<PeerIdentity>, VerifyFailure>,
}

thread_local! {
    static REPORT: RefCell<Option<Report>> = const { RefCell::new(None) };
}

/// Takes what the verifier found during the call to rustls that has just returned.
pub(crate) fn take_report() -> Option<Report> {
    REPORT.take()
}

/// Verifies servers and clients by the SPIFFE rules against one generation of trust bundles.
#[derive(Debug)]
pub(crate) struct SpiffeVerifier {
    trust: Arc<TrustStore>,
}

impl SpiffeVerifier {
    pub(crate) fn new(trust: Arc<TrustStore>) -> Arc<Self> {
        Arc::new(Self { trust })
    }

    fn verify(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], role: Role, now: UnixTime) -> Result<(), Error> {
        let start = Instant::now();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let outcome = verify_cached(leaf, intermediates, role, &self.trust, now);
        let result = outcome.as_ref().map(drop).map_err(|failure| alerting(failure.reason));
        REPORT.set(Some(Report { lap: Lap::since(start), outcome }));
        result
    }
}

/// The error that makes rustls send the alert which tells the peer most.
fn alerting(reason: Reason) -> Error {
    Error::InvalidCertificate(match reason {
        Reason::Expired => CertificateError::Expired,
        Reason::NotYetValid => CertificateError::NotValidYet,
        Reason::UnknownIssuer | Reason::TrustDomainUnknown => CertificateError::UnknownIssuer,
        Reason::BadSignature => CertificateError::BadSignature,
        Reason::CertificateMalformed
        | Reason::UnknownCriticalExtension
        | Reason::NoSpiffeId
        | Reason::MultipleUriSans
        | Reason::SpiffeIdInvalid
        | Reason::SpiffeIdWithoutPath => CertificateError::BadEncoding,
        Reason::LeafIsCa | Reason::LeafKeyUsage | Reason::LeafExtendedKeyUsage | Reason::WeakKey => CertificateError::InvalidPurpose,
        _ => CertificateError::ApplicationVerificationFailure,
    })
}

impl ServerCertVerifier for SpiffeVerifier {
    // The server's name plays no part: a SPIFFE peer is known by its ID, which is authorized afterwards.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, Role::Server, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    // No hints: the names of our CAs are nobody's business, and a SPIFFE client has one certificate anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, Role::Client, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
