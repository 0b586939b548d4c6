//! A connection as the log tells it, as it is read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A connection: the access log's record, as far as it was known. Lists and meaning of the words: docs/reference/telemetry.md.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Connection")]
pub struct ConnectionEntry {
    /// The same at both ends where both are sidegates and the connection went through a tunnel.
    pub connection_id: String,
    /// When it was accepted, RFC 3339.
    pub time: String,
    /// `inbound` or `outbound`, as the workload sees it.
    pub direction: String,
    /// Who connected.
    pub downstream: String,
    /// Where it was meant to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_destination: Option<String>,
    /// Name of the configured destination (outbound).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// `mtls` or `plaintext`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Our SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_id: Option<String>,
    /// Our certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_certificate: Option<CertificateEntry>,
    /// The peer's SPIFFE ID, verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<String>,
    /// What a peer that could not be verified claimed to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_id: Option<String>,
    /// The certificate that the peer presented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_certificate: Option<CertificateEntry>,
    /// Whether its chain was looked up in revocation lists: `good`, `not_checked`, `unknown_allowed` or `expired_allowed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<String>,
    /// What the handshake found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<HandshakeEntry>,
    /// `new` or `reused`, if it went through a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// What policy said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionEntry>,
    /// How long each stage took; when it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<StagesEntry>,
    /// Application bytes from downstream to upstream; when it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    /// The other way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
    /// Generation of what decided about it.
    pub generation: u64,
    /// Why it ended; when it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What exactly happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What names a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Certificate")]
pub struct CertificateEntry {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// SHA-256 of its DER.
    pub sha256: String,
    /// Since when it is valid, RFC 3339; null for a time before 1970.
    pub not_before: Option<String>,
    /// Until when it is valid.
    pub not_after: Option<String>,
}

/// What a TLS handshake found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Handshake")]
pub struct HandshakeEntry {
    /// `1.3`.
    pub version: String,
    /// The cipher suite by its IANA name.
    pub cipher: String,
    /// The key exchange group by its IANA name.
    pub group: Option<String>,
    /// The negotiated application protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// The server name that the client asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Whether a session was resumed.
    pub resumed: bool,
}

/// What policy said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Decision")]
pub struct DecisionEntry {
    /// Whether the connection may be.
    pub allowed: bool,
    /// The rule that decided, with file and line.
    pub rule: String,
    /// Where no rule allowed the connection: those that came nearest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<NearestRuleEntry>,
    /// Rules that matched, or could not be evaluated, without deciding.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<RemarkEntry>,
    /// How many further remarks there would have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remarks_left_out: Option<u32>,
}

/// An allow rule that lacked one condition only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Nearest")]
pub struct NearestRuleEntry {
    /// The rule, with file and line.
    pub rule: String,
    /// The condition that it lacked.
    pub lacked: String,
}

/// What a rule that did not decide has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Remark")]
pub struct RemarkEntry {
    /// The rule, with file and line.
    pub rule: String,
    /// What it has to say.
    pub says: String,
    /// Why its condition could not be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How long each stage took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Stages")]
pub struct StagesEntry {
    /// Telling TLS from plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect_micros: Option<u64>,
    /// The TLS handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake_micros: Option<u64>,
    /// Verification of the peer, a part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_micros: Option<u64>,
    /// The decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorize_micros: Option<u64>,
    /// TCP connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dial_micros: Option<u64>,
    /// From accept to close.
    pub total_micros: u64,
}
