//! What one connection leaves behind.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::Reason;
use crate::certificate::CertificateFacts;
use crate::endpoint::{ClientAddr, OriginalDst};
use crate::id::{ConnectionId, SpanId, ids};
use crate::peer::Peer;

/// Which way a connection goes, as the workload sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
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

/// How the bytes of a connection travel on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Mutual TLS with SPIFFE identities at both ends.
    Mtls,
    /// As the application sent them.
    Plaintext,
}

impl Transport {
    /// The stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Plaintext => "plaintext",
        }
    }
}

/// Which kind of session carried a connection through a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelUse {
    /// A session that was opened for this connection.
    New,
    /// A session that carried another connection before, or was opened in advance.
    Reused,
}

impl TunnelUse {
    /// The stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Reused => "reused",
        }
    }
}

/// What the TLS handshake found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
}

/// What policy said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Whether the connection is allowed.
    pub allowed: bool,
    /// The rule that decided, with file and line; or the default.
    pub rule: Arc<str>,
    /// The explanation, if there is one. Boxed, since most connections are simply allowed.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Box<Explanation>>,
}

impl Decision {
    /// A decision without an explanation.
    #[must_use]
    pub fn new(allowed: bool, rule: Arc<str>) -> Self {
        Self { allowed, rule, explanation: None }
    }
}

/// Explains a decision beyond its rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Where no rule allowed the connection: the rules that came nearest, best first, at most three.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<NearestRule>,
    /// Rules that matched, or could not be evaluated, without deciding; the first eight in the order of the files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<Remark>,
    /// How many further remarks there would have been.
    #[serde(skip_serializing_if = "is_zero")]
    pub remarks_left_out: u32,
}

impl Explanation {
    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nearest.is_empty() && self.remarks.is_empty()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// An allow rule of which a single condition does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NearestRule {
    /// The rule, with file and line.
    pub rule: Arc<str>,
    /// The condition that does not hold.
    pub lacked: String,
}

/// The remark of a rule that matched a connection but did not decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Remark {
    /// The rule, with file and line.
    pub rule: Arc<str>,
    /// What it has to say.
    pub says: Says,
    /// Why its condition could not be evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The kind of a remark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Says {
    /// An audit rule matched.
    Audit,
    /// An allow rule in a dry run matched.
    WouldAllow,
    /// A deny rule in a dry run matched.
    WouldDeny,
    /// The rule's `when` could not be evaluated: a deny rule then counts as matching, an allow rule does not.
    ConditionFailed,
}

impl Says {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Audit, Self::WouldAllow, Self::WouldDeny, Self::ConditionFailed];

    /// The stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::WouldAllow => "wouldAllow",
            Self::WouldDeny => "wouldDeny",
            Self::ConditionFailed => "conditionFailed",
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.says.label(), self.rule)?;
        self.detail.iter().try_for_each(|detail| write!(f, ": {detail}"))
    }
}

impl fmt::Display for NearestRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.lacked)
    }
}

/// When a stage began and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lap {
    /// Its beginning.
    pub start: Instant,
    /// How long it took.
    pub took: Duration,
}

impl Lap {
    /// From `start` until now.
    #[must_use]
    pub fn since(start: Instant) -> Self {
        Self { start, took: start.elapsed() }
    }
}

impl Serialize for Lap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        micros(&self.took, serializer)
    }
}

fn micros<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
}

/// How long each stage took. A stage that was not reached has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Stages {
    /// Waiting for the first bytes on a permissive port.
    #[serde(rename = "detectMicros", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>")]
    pub detect: Option<Lap>,
    /// The TLS handshake, verification included.
    #[serde(rename = "handshakeMicros", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>")]
    pub handshake: Option<Lap>,
    /// Verification of the peer's chain, a part of the handshake.
    #[serde(rename = "verifyMicros", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>")]
    pub verify: Option<Lap>,
    /// The policy decision.
    #[serde(rename = "authorizeMicros", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>")]
    pub authorize: Option<Lap>,
    /// TCP connect to the destination.
    #[serde(rename = "dialMicros", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>")]
    pub dial: Option<Lap>,
    /// From accept to close.
    #[serde(rename = "totalMicros", serialize_with = "micros")]
    #[schemars(with = "u64")]
    pub total: Duration,
}

/// The one record that every connection leaves behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRecord {
    /// Its ID; the same at both ends where it went through a tunnel.
    #[schemars(with = "String")]
    pub connection_id: ConnectionId,
    /// The trace that it belongs to, if that is not named by the connection ID.
    #[serde(skip)]
    pub trace_id: Option<ConnectionId>,
    /// The span ID of its root span.
    #[serde(skip)]
    pub span_id: SpanId,
    /// The peer's span of the same connection, of which ours is a part.
    #[serde(skip)]
    pub parent_span: Option<SpanId>,
    /// When it was accepted, by the wall clock.
    #[serde(serialize_with = "rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: SystemTime,
    /// The same moment by the clock that the stages are measured with.
    #[serde(skip)]
    pub accepted: Instant,
    /// Which way it went.
    pub direction: Direction,
    /// Who connected to us.
    #[schemars(with = "String")]
    pub downstream: ClientAddr,
    /// Where it was meant to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub original_destination: Option<OriginalDst>,
    /// Name of the configured destination (outbound) that covered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Arc<str>>,
    /// How the bytes travelled, once that was settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// Our SPIFFE ID in this connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_id: Option<Arc<str>>,
    /// Our certificate in this connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_certificate: Option<Arc<CertificateFacts>>,
    /// Who the other end is.
    #[serde(flatten)]
    pub peer: Peer,
    /// What the handshake found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<HandshakeFacts>>,
    /// Whether it went through a tunnel, and on whose session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelUse>,
    /// What policy said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// How long each stage took.
    pub stages: Stages,
    /// Application bytes from downstream to upstream.
    pub bytes_up: u64,
    /// Application bytes from upstream to downstream.
    pub bytes_down: u64,
    /// Generation of the snapshot that decided about it.
    pub generation: u64,
    /// Why it ended.
    pub reason: Reason,
    /// What exactly happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl ConnectionRecord {
    /// A record of a connection that has just been accepted.
    #[must_use]
    pub fn new(direction: Direction, downstream: ClientAddr) -> Self {
        let (connection_id, span_id) = ids();
        Self {
            connection_id,
            trace_id: None,
            span_id,
            parent_span: None,
            time: SystemTime::now(),
            accepted: Instant::now(),
            direction,
            downstream,
            original_destination: None,
            destination: None,
            transport: None,
            local_id: None,
            local_certificate: None,
            peer: Peer::Unknown,
            tls: None,
            tunnel: None,
            decision: None,
            stages: Stages::default(),
            bytes_up: 0,
            bytes_down: 0,
            generation: 0,
            reason: Reason::Cancelled,
            detail: None,
        }
    }

    /// The ID of its trace.
    #[must_use]
    pub fn trace(&self) -> ConnectionId {
        self.trace_id.unwrap_or(self.connection_id)
    }

    /// Whether nothing went wrong: it ended in order, or as one of its ends wanted.
    #[must_use]
    pub fn is_success(&self) -> bool {
        !self.reason.is_failure()
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_micros(*time))
}
