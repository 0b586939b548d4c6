//! Why a connection ended: one closed list, used as metric label, log field and row in the docs.

use std::fmt;

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The connection did what it was opened for.
    Normal,
    /// The other end of the network.
    Peer,
    /// The workload that this sidecar guards.
    Workload,
    /// sidegate, because of its configuration, its limits or its state.
    Local,
}

/// The step at which a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is accepted: limits and its original destination are checked.
    Accept,
    /// On a permissive port: TLS is distinguished from plaintext.
    Detect,
    /// TCP to the destination is opened.
    Dial,
    /// TLS is negotiated with the peer.
    Handshake,
    /// The peer's certificate chain is verified, as a part of the handshake.
    Verify,
    /// Policy, or the destination's `spiffeIds`, decides about the peer.
    Authorize,
    /// Bytes are moved until both ends have closed.
    Relay,
    /// sidegate itself ends or fails.
    Lifecycle,
}

impl Stage {
    /// The stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Detect => "detect",
            Self::Dial => "dial",
            Self::Handshake => "handshake",
            Self::Verify => "verify",
            Self::Authorize => "authorize",
            Self::Relay => "relay",
            Self::Lifecycle => "lifecycle",
        }
    }
}

macro_rules! reasons {
    ($($variant:ident $label:literal $stage:ident $party:ident $meaning:literal $cause:literal $remedy:literal;)*) => {
        /// Why a connection ended. Each connection has exactly one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $meaning] $variant,)* }

        impl Reason {
            /// Every reason, in the order of a connection's steps.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The stable name: metric label, log field, `error.type`.
            #[must_use]
            pub const fn label(self) -> &'static str { match self { $(Reason::$variant => $label,)* } }

            /// What it means, in one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str { match self { $(Reason::$variant => $meaning,)* } }

            /// Its likely cause.
            #[must_use]
            pub const fn cause(self) -> &'static str { match self { $(Reason::$variant => $cause,)* } }

            /// What an operator does about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str { match self { $(Reason::$variant => $remedy,)* } }

            /// The step at which it arises.
            #[must_use]
            pub const fn stage(self) -> Stage { match self { $(Reason::$variant => Stage::$stage,)* } }

            /// Whether something went wrong. Everything that counts or shows failures asks this.
            #[must_use]
            pub const fn is_failure(self) -> bool { !matches!(self.party(), Party::Normal) }

            /// Who ended the connection.
            #[must_use]
            pub const fn party(self) -> Party { match self { $(Reason::$variant => Party::$party,)* } }
        }
    };
}

reasons! {
    Closed "closed" Relay Normal "Both ends finished and closed in order." "The ordinary end of a connection." "Nothing.";
    // accept and capture
    OriginalDestinationUnknown "original_destination_unknown" Accept Local "The kernel knows no original destination: the connection was not redirected but made to our port directly." "The redirect rules are missing in this network namespace, so the kernel does not track the connection." "Run `sidegate redirect verify`, and `sidegate redirect apply` if rules are missing; connect to the service's own address.";
    OwnPort "own_port" Accept Local "The original destination is one of sidegate's own ports, or an address that is not this pod's." "The client is set to sidegate's port instead of the service's, or a neighbour routes foreign traffic through this pod." "Set the client to the service's own port; if the address is not this pod's, correct the route that leads here.";
    ConnectionLimit "connection_limit" Accept Local "As many connections are open in this direction as `limits.connections` or the descriptor limit allows." "The clients or the workload open connections faster than they close them, such as a pool without a bound." "Find who holds them with `ss -tn` in the pod and bound its pool, or raise `limits.connections` and the descriptor limit.";
    Evicted "evicted" Accept Peer "The connection had no identity yet, or a plaintext port's, and was closed to make room: it was silent for the longest, of the address that had the most." "A client opens connections and sends nothing, more than `limits.unidentified` or `limits.handshakes` allow." "Find the address by `downstream` and what runs there; raise the limits only if those connections are wanted.";
    HandshakeLimit "handshake_limit" Accept Local "`limits.handshakes` connections were in their handshake, or in detection on permissive ports, for as long as `timeouts.handshake` lets one wait for its turn." "A reconnect storm after a restart, or peers that begin a handshake and do not go on." "Look at `sidegate_handshake_duration_seconds`: if handshakes are quick, raise the limit; if slow, find the silent peers or give sidegate more CPU.";
    AuditUnavailable "audit_unavailable" Accept Local "The audit log can't be written, and the configuration says that no connection may be served without a record." "The disk of the audit log is full, or a destination with `onFailure: block-new-connections` accepts no more records." "Read `sidegate.audit.failing` in the log for which; make room or repair it, and new connections are admitted again.";
    NotReady "not_ready" Accept Local "No valid X.509-SVID is at hand, or a destination's name has not been resolved yet: nothing can be decided." "The identity source is down or has no SVID for this workload, our SVID expired before a new one came, or DNS does not answer." "Look at /readyz, which names what the identity source lacks; if `detail` names a host, see that it resolves in this pod.";
    DirectoryUnavailable "directory_unavailable" Accept Local "The directory did not say who is expected at the address." "`sidegate-controller` can't be reached or is too slow, and the address was not known before." "Look at the event `sidegate.directory.unavailable`, then at the controller; what is known already stays valid meanwhile.";
    NoIdentity "no_identity" Accept Local "The directory knows the address, and nobody there can prove an identity." "A pod on its node's network, or a service with nothing behind it; `detail` says which." "Take the workload off the node's network, or see why no endpoint of the service is ready; `redirect.outbound.excludeCidrs` takes an address out of the mesh.";
    NotInMesh "not_in_mesh" Accept Local "No destination covers the address, nor does a directory, and `outbound.otherwise` is `refuse`." "The application calls something that nobody has listed, or an address that a listed name no longer resolves to." "Add the destination to `outbound.destinations`; if it has no sidecar, let it pass unprotected by `redirect.outbound.excludeCidrs`.";
    // detect
    DetectTimeout "detect_timeout" Detect Peer "On a permissive port, too little was said before `timeouts.silent` to tell TLS from plaintext." "A client that connects in advance and stays idle, such as a pool, or one that stalled in the first bytes of its TLS hello." "Find out why the client is silent; if it is a plaintext client that may be, set the port's `serverFirst` or raise `timeouts.silent`.";
    // dial
    DialRefused "dial_refused" Dial Peer "Nobody listens at the destination." "The application (inbound) or the peer (outbound) is down, still starting, or listens on another address or port, such as localhost only." "Inbound: see that the application runs and listens on the pod's address. Outbound: see that the peer runs and the port is right.";
    DialReset "dial_reset" Dial Peer "The destination reset the connection while it was being made." "What answers there was full or was just ending: a listener whose queue overflows or that closes with connections in its queue, or a firewall that rejects by reset." "Look at the load and the restarts of the destination at that moment; if it is a sidecar, at its `sidegate_connections_total` by reason.";
    DialTimeout "dial_timeout" Dial Peer "The destination did not answer before `timeouts.dial`." "A network policy or firewall drops the packets, the host is down, or (inbound) the application has stopped accepting." "Inbound: see whether the application hangs. Outbound: check network policies and firewalls on the path, and that the host is up.";
    DialUnreachable "dial_unreachable" Dial Peer "There is no route to the destination." "The host is gone and its address is stale, or a router or firewall rejects the packets by ICMP." "See that the address is current, then check the pod's routes and network policies.";
    DialFailed "dial_failed" Dial Local "The socket to the destination could not be made." "Descriptors or local ports are exhausted, or `redirect.exemptMark` is set without CAP_NET_ADMIN." "Read the system's error in `detail`; raise the descriptor limit, close idle connections, or grant CAP_NET_ADMIN.";
    // handshake
    PlaintextRefused "plaintext_refused" Handshake Peer "The peer sent no TLS to a port that is `strict`." "The client has no sidecar, its traffic is excluded from capture, or it is a plaintext health check." "Give the client a sidecar, or make the port permissive with a written reason; a kubelet asks the sidecar instead, by `admin.probes`.";
    HandshakeTimeout "handshake_timeout" Handshake Peer "The TLS handshake did not finish before `timeouts.handshake`." "Outbound: the peer still waits for its first SVID, is overloaded, or speaks no TLS; inbound: the client connected and stays silent." "Outbound: look at the peer's /readyz and CPU, then at the MTU of the path. Inbound: find the client by `downstream`.";
    HandshakeClosed "handshake_closed" Handshake Peer "The peer closed during the TLS handshake." "Inbound: a TCP health check or port scan, which connects and closes again; outbound: a server that expects no TLS, or is shutting down." "Inbound: a kubelet asks the sidecar instead, by `admin.probes`. Outbound: read the peer's log, and see whether the port speaks TLS at all.";
    HandshakeReset "handshake_reset" Handshake Peer "The peer reset the connection during the TLS handshake." "Outbound: the peer's sidecar refused us before TLS (a limit, no valid SVID or, on a permissive port, its application is down); inbound: the client gave up." "Outbound: read the record of the same connection at the peer's sidecar. Inbound: read the client's log.";
    NotTls "not_tls" Handshake Peer "What the peer answered is not TLS." "The application itself answered: the destination has no sidecar, or its port is excluded from capture or of mode `plaintext`." "Give the destination a sidecar that protects this port, or take it out of `outbound.destinations`.";
    NoCommonTls "no_common_tls" Handshake Peer "No TLS version, cipher suite or group in common; the mesh speaks TLS 1.3 only." "The peer has an old TLS library, or a configuration that stops at TLS 1.2 or allows unusual groups only." "Make the peer offer TLS 1.3 with AES-GCM or ChaCha20, and with the group X25519 or P-256.";
    NoCommonAlpn "no_common_alpn" Handshake Peer "The peer speaks none of the application protocols that were offered." "The destination's `alpn` is out of date, or its address leads to another server than meant." "Set the destination's `alpn` to what the server speaks, or leave it out.";
    TlsProtocolError "tls_protocol_error" Handshake Peer "The peer broke the TLS protocol." "A faulty TLS library, a middlebox that changes bytes on the way, or somebody who probes the port." "Read in `detail` how; compare it with the peer's log, and capture packets at both ends if they disagree.";
    PeerRejectedUs "peer_rejected_us" Handshake Peer "The peer ended the handshake with a TLS alert: it does not accept us." "The peer lacks our trust bundle, its clock differs from ours, or our SVID breaks one of its rules." "Read the alert in `detail`, then the peer's record or log, which says what it did not accept.";
    // verify
    NoPeerCertificate "no_peer_certificate" Verify Peer "The peer sent no certificate." "The client speaks TLS by itself, without a sidecar, as a browser or an HTTPS health check does." "Give the client a sidecar, or an X.509-SVID of its own.";
    CertificateMalformed "certificate_malformed" Verify Peer "A certificate of the peer can't be parsed." "A faulty or home-made issuer, or a certificate file that was damaged." "Read in `detail` which part is broken, correct the issuer, and reissue the certificate.";
    NoSpiffeId "no_spiffe_id" Verify Peer "The peer's certificate has no URI SAN, so no SPIFFE ID (X509-SVID §2)." "The peer uses an ordinary certificate, such as a web server's, and not an X.509-SVID." "Give the peer an X.509-SVID; outbound: see first that the address is the right one.";
    MultipleUriSans "multiple_uri_sans" Verify Peer "The peer's certificate has more than one URI SAN (X509-SVID §2)." "The issuer adds a URI SAN of its own, or one certificate was made for several workloads." "Reissue it with exactly one URI SAN, the workload's SPIFFE ID.";
    SpiffeIdInvalid "spiffe_id_invalid" Verify Peer "The peer's URI SAN is not a valid SPIFFE ID (SPIFFE-ID §2)." "The issuer was given an ID with an upper-case trust domain, a trailing slash, another scheme, or characters that SPIFFE does not allow." "Reissue it with a valid ID; `detail` says what is wrong.";
    SpiffeIdWithoutPath "spiffe_id_without_path" Verify Peer "The peer's SPIFFE ID has no path: it names a trust domain, not a workload (X509-SVID §5.2)." "The issuer was given the bare trust domain as the workload's ID." "Reissue it with the ID of a workload, such as `spiffe://prod.example/web`.";
    LeafIsCa "leaf_is_ca" Verify Peer "The peer presents a CA certificate as its own (X509-SVID §4.1)." "A self-signed certificate of `openssl req -x509`, which makes a CA unless told otherwise, or a CA's file in place of the workload's." "Give the peer a certificate that a CA has signed for it, and keep the CA's key out of workloads.";
    LeafKeyUsage "leaf_key_usage" Verify Peer "The peer's key usage is absent, not critical, lacks digitalSignature or has keyCertSign or cRLSign (X509-SVID §4.3)." "An issuer's template that lacks key usage or its `critical` flag, as OpenSSL configurations often do, or one that is meant for CAs." "Reissue it with a critical key usage of digitalSignature.";
    LeafExtendedKeyUsage "leaf_extended_key_usage" Verify Peer "The extended key usage of a certificate in the peer's chain lacks serverAuth or clientAuth (X509-SVID §4.4)." "An issuer's template for servers only or clients only, as of a public CA." "Reissue the leaf, or the CA that is restricted, with both or without the extension.";
    WeakKey "weak_key" Verify Peer "The peer's key is not acceptable: RSA below 2048 bits, an unusual curve, or another algorithm." "An old issuer, or a key that somebody made by hand, such as one on secp256k1." "Reissue it with ECDSA P-256 or RSA 2048.";
    NotYetValid "not_yet_valid" Verify Peer "A certificate in the peer's chain is not valid yet." "This host's clock is behind, or the issuer's is ahead." "Compare the clocks of both hosts and of the issuer, and repair the one that is wrong.";
    Expired "expired" Verify Peer "A certificate in the peer's chain has expired." "The peer got no new SVID in time, this host's clock is ahead, or every CA in our bundle for its trust domain has run out." "Look at the peer's identity source and at this host's clock; if `detail` names a bundle, look at our own identity source.";
    TrustDomainUnknown "trust_domain_unknown" Verify Peer "There is no usable trust bundle for the peer's trust domain." "The two trust domains are not federated, or the peer belongs to another environment, such as staging." "If the peer should be admitted, federate: `federatesWith` in our SPIRE registration entry, or `federatedBundles` of a files source.";
    UnknownIssuer "unknown_issuer" Verify Peer "The peer's chain does not lead to the trust bundle of its own trust domain." "After a change of CA our bundle or the peer's SVID is stale, the peer leaves out an intermediate, or somebody claims to be another." "Compare the peer's issuer with the CAs in our bundle and renew what is stale; if nothing is, treat the peer as an impostor.";
    BadSignature "bad_signature" Verify Peer "A signature in the peer's chain is wrong, or the one by which it proves that it holds the key." "A CA was made again under its old name and one side keeps the old one, a CA has RSA below 2048 bits, or the certificate is forged or damaged." "Renew the stale bundle or SVID, or the weak CA; if neither is the case, treat the peer as an impostor.";
    SignatureAlgorithm "signature_algorithm" Verify Peer "A signature algorithm in the peer's chain is not acceptable." "A CA that signs with SHA-1, or whose key is on an unusual curve such as secp256k1." "Reissue the chain with ECDSA or RSA, and SHA-256 or better.";
    CaBasicConstraints "ca_basic_constraints" Verify Peer "A certificate in the peer's chain signs others and is no CA, or its path is too long (X509-SVID §4.1)." "A workload's certificate was used to sign another, or an intermediate was added below a CA that allows none." "Reissue the CAs of the chain with a path length that suffices; if a workload signed, take its key for stolen.";
    CaKeyUsage "ca_key_usage" Verify Peer "A CA in the peer's chain lacks keyCertSign (X509-SVID §4.3)." "The intermediate was issued from a template for workloads, or from one without key usage." "Reissue the CA with keyCertSign.";
    CaSpiffeId "ca_spiffe_id" Verify Peer "An intermediate CA in the peer's chain carries a SPIFFE ID with a path, or of another trust domain (X509-SVID §4.1)." "The CA was issued as if it were a workload, or comes from another trust domain that signs across." "Reissue the CA with the ID of its own trust domain and no path, or with no SPIFFE ID.";
    UnknownCriticalExtension "unknown_critical_extension" Verify Peer "A certificate in the peer's chain has a critical extension that nobody here understands (RFC 5280 §4.2)." "The issuer marks an extension of its own, or a rare one, as critical." "Reissue it without that extension, or with the extension not critical.";
    NameConstraints "name_constraints" Verify Peer "A name constraint in the peer's chain forbids its name, or can't be evaluated." "A CA above the peer is limited to other names, or has URI constraints, which are refused even where they would fit." "Reissue the CA without URI constraints, or the peer's SVID with only those DNS names that the CA permits.";
    PathInvalid "path_invalid" Verify Peer "The peer's chain is not acceptable for another reason." "Mostly more than six intermediates, or a number of them alike such that the search for a path was given up." "Read `detail`; make the peer send fewer intermediates, or reissue it below a shorter chain.";
    CertificateRevoked "certificate_revoked" Verify Peer "A certificate of the peer's chain is on a revocation list of its trust domain." "Its issuer has withdrawn it: the key was lost, or the workload is gone." "If the peer should continue, give it a new certificate; `detail` says what the list was asked for.";
    RevocationUnknown "revocation_unknown" Verify Peer "No usable revocation list covers a certificate of the peer's chain, and `onUnknown` is `reject`." "The list of one of its issuers is missing, could not be fetched, or is signed by another key." "Look at the event `sidegate.revocation.trouble`; add the list of each issuer, or set `depth: leaf` or `onUnknown: allow`.";
    RevocationListExpired "revocation_list_expired" Verify Local "The revocation list that covers the peer has expired, and `onExpired` is `reject`." "The issuer has published no new list in time, or it could not be fetched." "See that the issuer publishes and that the URL can be reached from here; `onExpired: allow` bridges an outage.";
    PeerDenied "peer_denied" Verify Peer "A deny list of `revocation.denyLists` names the peer." "Somebody has put it there, by its SPIFFE ID or its certificate's serial number." "Read in `detail` why; take it off the list if that no longer holds.";
    // authorize
    DeniedByRule "denied_by_rule" Authorize Local "A deny rule covers the connection." "The rule was written against this peer, or reaches further than meant: deny wins over every allow." "Read the rule that `decision.rule` names with file and line, and narrow it if the peer should be admitted.";
    DeniedByDefault "denied_by_default" Authorize Local "No allow rule covers the connection." "The peer is new, has another SPIFFE ID than before, or uses a port that the rules for it do not name." "If the peer should be admitted, add an allow rule for `peerId` and the port, or widen one that `decision.nearest` names; if there is one, see whether `sidegate_policy_reloads_total{sidegate_outcome=\"failure\"}` has grown.";
    UnexpectedPeer "unexpected_peer" Authorize Local "The server proved an identity that the destination's `spiffeIds` do not allow." "The address now belongs to another workload, or the server's SPIFFE ID has changed and `spiffeIds` has not." "Compare `peerId` with the workload that you meant to reach, then correct the address or `spiffeIds`.";
    // tunnel
    PeerRefused "peer_refused" Authorize Peer "The peer's sidecar refused the connection and said so in the tunnel." "Its policy does not allow us, or the application behind it does not answer; the reason that it gives is in `detail`." "Look up that reason here; the peer's record of the same `connectionId` has the whole of it.";
    DuplicateConnectionId "duplicate_connection_id" Authorize Peer "The peer named the connection as one of its own that is still open." "A sidecar of another make that draws its connection IDs badly, or somebody who tries to confuse the records." "Find out what the peer runs; connection IDs are 16 random bytes.";
    NotOpened "not_opened" Authorize Peer "The peer's sidecar opened nothing, also on a new session." "It is draining, or its limits are reached." "Nothing if it is just being replaced; else see the peer's limits and its log.";
    OpenTimeout "open_timeout" Authorize Peer "The peer's sidecar did not answer in time whether it opens the connection." "The peer vanished without a word while a session to it was kept, or its application does not take connections." "See that the peer is up; the next connection dials its address again.";
    TunnelProtocolError "tunnel_protocol_error" Authorize Peer "The peer broke the tunnel protocol." "A sidecar of another version that is faulty, or somebody who probes the port." "Read in `detail` how; compare both sidecars' versions.";
    Prepared "prepared" Authorize Normal "A session was made in advance; connections on it have records of their own." "The client's sidecar keeps a session ready for the next connection." "Nothing.";
    // relay
    PeerAborted "peer_aborted" Relay Peer "The peer's sidecar ended the connection and said why." "The reason that it gives is in `detail`." "Look up that reason here; the peer's record of the same `connectionId` has the whole of it.";
    PeerAlert "peer_alert" Relay Peer "The peer ended the session with a fatal TLS alert after the handshake." "Its TLS library met an error, in what it received or in its own process; the alert is in `detail`." "Read the alert in `detail`, then the peer's log of that moment.";
    DownstreamReset "downstream_reset" Relay Normal "The side that opened the connection reset it." "Usually a client that gave up: its own timeout, a cancelled request, or a crash." "If there are many, compare the client's timeouts with the time that the server takes.";
    UpstreamReset "upstream_reset" Relay Normal "The side that accepted the connection reset it." "Outbound before any byte: the server's sidecar denied us, or its application is down; else the application crashed, or closed without reading all." "Outbound: read the record of the server's sidecar. Inbound: read the application's log.";
    Truncated "truncated" Relay Peer "The peer's TCP ended without TLS close_notify: what it sent may be incomplete." "The peer crashed, its TLS library leaves out close_notify, or somebody cut the connection on the way." "Take what came last for incomplete and read the peer's log; if it never sends close_notify, correct how it closes.";
    IdleTimeout "idle_timeout" Relay Local "No byte passed for `timeouts.idle`." "A connection that was kept in reserve, such as in a pool, or that both ends forgot." "Use keep-alives in the application, or raise the timeout.";
    HalfOpenTimeout "half_open_timeout" Relay Local "One direction was closed and no byte passed in the other for `timeouts.halfOpen`." "The side that is still open forgot the connection, or takes longer than that for its answer." "Find out why that side neither sends nor closes; raise `timeouts.halfOpen` if it needs the time.";
    PeerTimeout "peer_timeout" Relay Peer "Sent data was not acknowledged before `timeouts.tcpUser`, or keepalives went unanswered." "The other host crashed or was cut off without a word, or its application has read nothing for that long." "See that the other host and the path to it are up, and that its application reads; raise `timeouts.tcpUser` if it may pause for longer.";
    RelayFailed "relay_failed" Relay Local "The system reported an error on a socket for which there is no other reason." "The route to an end was lost, or the kernel is out of memory." "Read the system's error in `detail`, then check the node's routes, memory and kernel log.";
    // lifecycle
    NoLongerAllowed "no_longer_allowed" Lifecycle Local "The policy has changed, and would not let the connection in any more." "A rule was added, changed or removed while it was open." "Nothing, if that was meant; `detail` has the rule that decides now. `liveConnections.onChange` says what becomes of such connections.";
    NoLongerTrusted "no_longer_trusted" Lifecycle Local "The peer is not trusted any more: it was revoked or denied, or its trust bundle was withdrawn." "A revocation list, a deny list or the trust bundles have changed while the connection was open." "Read in `detail` what the peer's chain breaks now; a peer that should continue needs a new certificate.";
    MaxAge "max_age" Lifecycle Local "The connection was as old as `liveConnections.maxAge` allows." "A long-lived connection, such as a pool's." "Nothing: the client opens another.";
    PeerExpired "peer_expired" Lifecycle Local "The peer's certificate has expired while the connection was open, and `liveConnections.onPeerExpiry` ends those." "A connection that lives longer than an SVID." "Nothing: with its next connection the peer shows its new certificate.";
    Drained "drained" Lifecycle Local "The connection was still open when the drain deadline passed." "A long-lived connection, such as a stream or a pool's, that neither end closed after SIGTERM." "Close connections in the application on SIGTERM, or raise `drain.deadline` together with the pod's grace period.";
    Cut "cut" Lifecycle Local "An operator cut the connection over the admin API." "Somebody ran `sidegate cut`." "Look for the event `sidegate.admin.cut`: it says which user did it.";
    Cancelled "cancelled" Lifecycle Local "sidegate ended without waiting for the connection." "A second termination signal, which ends sidegate at once." "Send one signal only, and wait until sidegate has drained.";
    Panicked "panicked" Lifecycle Local "A defect in sidegate ended this connection, and only this one." "A bug that something in this connection brought out." "Report it with the log and this record.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl schemars::JsonSchema for Reason {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Reason".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let each = Self::ALL
            .iter()
            .map(|reason| schemars::json_schema!({ "type": "string", "const": reason.label(), "description": reason.meaning() }));
        schemars::json_schema!({ "description": "Why a connection ended.", "oneOf": each.collect::<Vec<_>>() })
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

    #[test]
    fn each_reason_is_explained() {
        for reason in Reason::ALL {
            let texts = [reason.meaning(), reason.cause(), reason.remedy()];
            for (at, text) in texts.iter().enumerate() {
                assert!(text.len() > 1 && text.ends_with('.') && text.trim() == *text, "{reason}: `{text}`");
                assert!(!texts[..at].contains(text), "{reason}: `{text}` twice");
            }
        }
    }
}
