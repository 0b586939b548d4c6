//! What one connection leaves behind.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::Reason;

/// 16 random bytes that name a connection; also its trace ID where no parent context came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId([u8; 16]);

impl ConnectionId {
    /// A new random ID. Never all zero, which is no valid trace ID.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        // aws-lc's generator lives in user space and can only fail where the system has no entropy;
        // an ID is no secret, so a fixed one is better than an end of service.
        if aws_lc_rs::rand::fill(&mut bytes).is_err() || bytes == [0; 16] {
            bytes[15] = 1;
        }
        Self(bytes)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which way a connection goes, as the workload sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

impl Direction {
    /// The stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// How the bytes travelled on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Mutual TLS with SPIFFE identities at both ends.
    Mtls,
    /// As the application sent them.
    Plaintext,
}

/// What the TLS handshake found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HandshakeFacts {
    /// `1.3` or `1.2`.
    pub version: &'static str,
    /// The cipher suite by its IANA name.
    pub cipher: &'static str,
    /// The key exchange group by its IANA name; none on a resumed handshake without one.
    pub group: Option<&'static str>,
    /// The negotiated application protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// The server name that the client asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Whether a session was resumed.
    pub resumed: bool,
    /// Serial number of the peer's certificate, hexadecimal.
    pub peer_serial: String,
    /// When the peer's certificate expires, seconds since the epoch.
    pub peer_not_after: i64,
}

/// What policy said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Whether the connection may be.
    pub allowed: bool,
    /// The rule that decided, with file and line; or the default.
    pub rule: Arc<str>,
}

/// How long each stage took, in microseconds. A stage that was not reached has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stages {
    /// Waiting for the first bytes on a permissive port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detect: Option<u64>,
    /// The TLS handshake, verification included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake: Option<u64>,
    /// Verification of the peer's chain, a part of the handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<u64>,
    /// The policy decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorize: Option<u64>,
    /// TCP connect to the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dial: Option<u64>,
    /// From accept to close.
    pub total: u64,
}

/// The one record that every connection ends in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRecord {
    /// Its name.
    pub connection_id: ConnectionId,
    /// When it was accepted.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// Which way it went.
    pub direction: Direction,
    /// Who connected to us.
    pub downstream: SocketAddr,
    /// Where it was meant to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_destination: Option<SocketAddr>,
    /// Name of the configured destination (outbound) that covered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Arc<str>>,
    /// How the bytes travelled, once that was settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// Our SPIFFE ID in this connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_id: Option<Arc<str>>,
    /// The peer's SPIFFE ID, verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<Arc<str>>,
    /// What a peer that could not be verified claimed to be. Never to be trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_id: Option<String>,
    /// What the handshake found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<HandshakeFacts>,
    /// What policy said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Durations, µs.
    pub stages: Stages,
    /// Application bytes from downstream to upstream.
    pub bytes_up: u64,
    /// Application bytes from upstream to downstream.
    pub bytes_down: u64,
    /// Generation of the snapshot that it was judged by.
    pub generation: u64,
    /// Why it ended.
    pub reason: Reason,
    /// What exactly happened, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl ConnectionRecord {
    /// A record of a connection that has just been accepted.
    #[must_use]
    pub fn new(direction: Direction, downstream: SocketAddr) -> Self {
        Self {
            connection_id: ConnectionId::random(),
            time: SystemTime::now(),
            direction,
            downstream,
            original_destination: None,
            destination: None,
            transport: None,
            local_id: None,
            peer_id: None,
            claimed_id: None,
            tls: None,
            decision: None,
            stages: Stages::default(),
            bytes_up: 0,
            bytes_down: 0,
            generation: 0,
            reason: Reason::Cancelled,
            detail: None,
        }
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_micros(*time))
}
