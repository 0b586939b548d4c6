//! Why a connection ended: one closed list, used as metric label, log field and row in the docs.

use std::fmt;

/// Whose doing an end was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The connection did what it was opened for.
    Normal,
    /// The other end of the network.
    Peer,
    /// The workload next to us.
    Workload,
    /// sidegate: by its configuration, its limits or its state.
    Local,
}

macro_rules! reasons {
    ($($variant:ident $label:literal $side:ident $meaning:literal $remedy:literal;)*) => {
        /// Why a connection ended. Each connection has exactly one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $meaning] $variant,)* }

        impl Reason {
            /// Every reason, in the order of the way of a connection.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The stable name: metric label, log field, `error.type`.
            #[must_use]
            pub const fn label(self) -> &'static str { match self { $(Reason::$variant => $label,)* } }

            /// What it means, in one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str { match self { $(Reason::$variant => $meaning,)* } }

            /// What an operator does about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str { match self { $(Reason::$variant => $remedy,)* } }

            /// Whose doing it was.
            #[must_use]
            pub const fn side(self) -> Side { match self { $(Reason::$variant => Side::$side,)* } }
        }
    };
}

reasons! {
    Closed "closed" Normal "Both ends finished and closed in order." "Nothing: this is how a connection should end.";
    // accept and capture
    OriginalDestinationUnknown "original_destination_unknown" Local "The kernel knows no original destination: the connection was not redirected but made to our port directly." "Connect to the service's own address; check `sidegate redirect verify`.";
    OwnPort "own_port" Local "The original destination is one of sidegate's own ports, or an address that is not this pod's." "Connect to the service's own port; sidegate never relays to itself or to third parties.";
    ConnectionLimit "connection_limit" Local "`limits.connections` was reached." "Find who opens so many connections, or raise the limit.";
    HandshakeLimit "handshake_limit" Local "`limits.handshakes` were in flight already." "A reconnect storm, or slow peers; look at the handshake duration, or raise the limit.";
    NotReady "not_ready" Local "No valid X.509-SVID is at hand, or a destination's name has not been resolved yet: nothing can be decided." "Look at /readyz: it names what the identity source lacks.";
    NotInMesh "not_in_mesh" Local "No configured destination covers the address, and `outbound.otherwise` is `refuse`." "Add the destination to `outbound.destinations`.";
    // detect
    PlaintextRefused "plaintext_refused" Peer "The peer sent no TLS to a port that is `strict`." "Give the client a sidecar, or make the port permissive with a written reason.";
    DetectTimeout "detect_timeout" Peer "Neither end said anything on a permissive port before the deadline." "Set the port's `serverFirst`, or find out why the client is silent.";
    // dial
    DialRefused "dial_refused" Peer "Nobody listens at the destination." "Inbound: is the application up, and on this address? Outbound: is the peer up?";
    DialTimeout "dial_timeout" Peer "The destination did not answer before `timeouts.dial`." "A network policy or firewall that drops, or a host that is down.";
    DialUnreachable "dial_unreachable" Peer "There is no route to the destination." "Check the pod's routes and network policies.";
    DialFailed "dial_failed" Local "The socket to the destination could not be made." "The detail has the system's error; often the descriptor limit.";
    // handshake
    HandshakeTimeout "handshake_timeout" Peer "The TLS handshake did not finish before `timeouts.handshake`." "A slow or hostile peer, or one that does not speak TLS.";
    HandshakeClosed "handshake_closed" Peer "The peer closed during the TLS handshake." "Read the peer's own log; outbound: does the port speak TLS at all?";
    HandshakeReset "handshake_reset" Peer "The peer reset the connection during the TLS handshake." "Outbound: its sidecar refused us before TLS (limits, not ready); read its log.";
    NotTls "not_tls" Peer "What the peer answered is not TLS." "The destination is not in the mesh: take it out of `outbound.destinations`.";
    NoCommonTls "no_common_tls" Peer "No TLS version, cipher suite or group in common; the mesh speaks TLS 1.3 only." "Make the peer offer TLS 1.3 with a usual suite and group.";
    NoCommonAlpn "no_common_alpn" Peer "The peer speaks none of the application protocols that were offered." "Compare the port's or destination's `alpn` with the peer's.";
    TlsProtocolError "tls_protocol_error" Peer "The peer broke the TLS protocol." "A broken or hostile peer; the detail says how.";
    PeerRejectedUs "peer_rejected_us" Peer "The peer ended the handshake with a TLS alert: it does not accept us." "The detail has the alert; the peer's log says which of our properties it did not like.";
    // verify
    NoPeerCertificate "no_peer_certificate" Peer "The peer sent no certificate." "The client needs a sidecar, or an X.509-SVID of its own.";
    CertificateMalformed "certificate_malformed" Peer "A certificate of the peer can't be parsed." "Look at what issued it.";
    NoSpiffeId "no_spiffe_id" Peer "The peer's certificate has no URI SAN, so no SPIFFE ID (X509-SVID §2)." "The peer uses a certificate that is no X.509-SVID.";
    MultipleUriSans "multiple_uri_sans" Peer "The peer's certificate has more than one URI SAN (X509-SVID §2)." "Reissue it with exactly one.";
    SpiffeIdInvalid "spiffe_id_invalid" Peer "The peer's URI SAN is not a valid SPIFFE ID (SPIFFE-ID §2)." "Reissue it with a valid ID; the detail says what is wrong.";
    SpiffeIdWithoutPath "spiffe_id_without_path" Peer "The peer's SPIFFE ID has no path: it names a trust domain, not a workload (X509-SVID §5.2)." "Reissue it with the ID of a workload.";
    LeafIsCa "leaf_is_ca" Peer "The peer presents a CA certificate as its own (X509-SVID §4.1)." "A signing certificate must not identify a workload.";
    LeafKeyUsage "leaf_key_usage" Peer "The peer's key usage is absent, not critical, lacks digitalSignature or has keyCertSign or cRLSign (X509-SVID §4.3)." "Reissue it with a critical key usage of digitalSignature.";
    LeafExtendedKeyUsage "leaf_extended_key_usage" Peer "The extended key usage of a certificate in the peer's chain lacks serverAuth or clientAuth (X509-SVID §4.4)." "Reissue it with both, or without the extension.";
    WeakKey "weak_key" Peer "The peer's key is too weak: RSA below 2048 bits, or an unusual curve." "Reissue it with ECDSA P-256 or RSA 2048.";
    NotYetValid "not_yet_valid" Peer "A certificate in the peer's chain is not valid yet." "Compare the clocks of both hosts and of the issuer.";
    Expired "expired" Peer "A certificate in the peer's chain has expired." "The peer's SVID was not rotated: look at its identity source.";
    TrustDomainUnknown "trust_domain_unknown" Peer "There is no trust bundle for the peer's trust domain." "Federate with that trust domain, or refuse it knowingly.";
    UnknownIssuer "unknown_issuer" Peer "The peer's chain does not lead to the trust bundle of its own trust domain." "A stale bundle on either side, or somebody who claims to be another.";
    BadSignature "bad_signature" Peer "A signature in the peer's chain is wrong." "A forged or damaged certificate.";
    SignatureAlgorithm "signature_algorithm" Peer "A signature algorithm in the peer's chain is not acceptable." "Reissue with ECDSA or RSA, and SHA-256 or better.";
    CaBasicConstraints "ca_basic_constraints" Peer "A certificate in the peer's chain signs others and is no CA, or its path is too long (X509-SVID §4.1)." "Look at what issued the chain.";
    CaKeyUsage "ca_key_usage" Peer "A CA in the peer's chain lacks keyCertSign (X509-SVID §4.3)." "Reissue the CA with keyCertSign.";
    CaSpiffeId "ca_spiffe_id" Peer "An intermediate CA in the peer's chain carries a SPIFFE ID with a path, or of another trust domain (X509-SVID §4.1)." "A signing certificate may only carry the ID of its own trust domain.";
    UnknownCriticalExtension "unknown_critical_extension" Peer "A certificate in the peer's chain has a critical extension that nobody here understands (RFC 5280 §4.2)." "Reissue it without.";
    NameConstraints "name_constraints" Peer "A name constraint in the peer's chain forbids its name, or can't be evaluated." "Reissue the chain.";
    PathInvalid "path_invalid" Peer "The peer's chain is not acceptable for another reason." "The detail says which.";
    // authorize
    DeniedByRule "denied_by_rule" Local "A deny rule covers the connection." "The decision names the rule, its file and line.";
    DeniedByDefault "denied_by_default" Local "No allow rule covers the connection." "Add a rule if the peer should be let in.";
    UnexpectedPeer "unexpected_peer" Local "The server proved an identity that the destination's `spiffeIds` do not allow." "Is the address the right one? Else correct `spiffeIds`.";
    // relay
    DownstreamReset "downstream_reset" Normal "Whoever opened the connection reset it." "Usually a client that gave up.";
    UpstreamReset "upstream_reset" Normal "Whoever accepted the connection reset it." "Usually a server that crashed or refused; inbound: read the application's log.";
    Truncated "truncated" Peer "The peer's TCP ended without TLS close_notify: what it sent may be incomplete." "A crash of the peer, or somebody cutting on the way.";
    IdleTimeout "idle_timeout" Local "No byte passed for `timeouts.idle`." "Use keep-alives in the application, or raise the timeout.";
    HalfOpenTimeout "half_open_timeout" Local "One direction was closed and no byte passed in the other for `timeouts.halfOpen`." "The side that is still open forgot its connection.";
    PeerTimeout "peer_timeout" Peer "Sent data was not acknowledged before `timeouts.tcpUser`, or keepalives went unanswered." "The other host is gone or unreachable.";
    RelayFailed "relay_failed" Local "The system reported another error while relaying." "The detail has it.";
    // lifecycle
    Drained "drained" Local "The connection was still open when the drain deadline passed." "Raise `drain.deadline`, or close earlier in the application.";
    Cancelled "cancelled" Local "sidegate ended without waiting for the connection." "A second termination signal ends at once.";
    Panicked "panicked" Local "A defect in sidegate ended this connection, and only this one." "Report it with the log.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_plain() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|r| r.label()).collect();
        assert!(labels.iter().all(|l| l.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
    }
}
