//! Every instrument: name, kind, unit, attributes, meaning. Docs, export and scrape are made from this.

use opentelemetry_semantic_conventions::attribute as semconv;
use sidegate_config::schema::telemetry::Signal;

use crate::attributes::{ALLOWED, DIRECTION, ERROR_TYPE, PEER_ID, PEER_REVOCATION, REASON, RULE, TLS_RESUMED, TUNNEL};

/// What an instrument measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstrumentKind {
    /// A sum that only grows.
    Counter,
    /// A sum that grows and shrinks.
    UpDownCounter,
    /// A value of the moment.
    Gauge,
    /// A distribution.
    Histogram,
}

impl InstrumentKind {
    /// OpenTelemetry's word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::UpDownCounter => "up-down counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// An instrument.
#[derive(Debug)]
pub struct Instrument {
    /// Its name in OpenTelemetry.
    pub name: &'static str,
    /// What it measures.
    pub kind: InstrumentKind,
    /// UCUM unit; what is counted stands in braces.
    pub unit: &'static str,
    /// The attributes of its points.
    pub attributes: &'static [&'static str],
    /// What it says.
    pub description: &'static str,
}

impl Instrument {
    /// Its name for Prometheus, by the rules of OpenTelemetry's compatibility specification.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        prometheus_name(self.name, self)
    }
}

/// `name` for Prometheus, with the suffixes of `instrument`'s unit and kind.
pub(crate) fn prometheus_name(name: &str, instrument: &Instrument) -> String {
    let mut name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let unit = match instrument.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    if !name.ends_with(unit) {
        name.push_str(unit);
    }
    if instrument.kind == InstrumentKind::Counter {
        name.push_str("_total");
    }
    name
}

macro_rules! instruments {
    ($($constant:ident $name:literal $kind:ident $unit:literal [$($attribute:expr),*] $description:literal;)*) => {
        $(pub(crate) static $constant: Instrument = Instrument {
            name: $name, kind: InstrumentKind::$kind, unit: $unit, attributes: &[$($attribute),*], description: $description,
        };)*

        /// All instruments.
        pub static INSTRUMENTS: &[&Instrument] = &[$(&$constant),*];
    };
}

instruments! {
    CONNECTIONS "sidegate.connections" Counter "{connection}" [DIRECTION, REASON] "Connections that ended, by the reason for it.";
    CONNECTIONS_OPEN "sidegate.connections.open" UpDownCounter "{connection}" [DIRECTION] "Connections open now.";
    CONNECTION_DURATION "sidegate.connection.duration" Histogram "s" [DIRECTION] "From accept to close.";
    HANDSHAKE_DURATION "sidegate.handshake.duration" Histogram "s" [DIRECTION, OUTCOME, TLS_RESUMED] "TLS handshakes, verification included.";
    HANDSHAKES_IN_FLIGHT "sidegate.handshakes.in_flight" UpDownCounter "{handshake}" [DIRECTION] "TLS handshakes under way now.";
    HANDSHAKE_FAILURES "sidegate.handshake.failures" Counter "{handshake}" [DIRECTION, ERROR_TYPE] "TLS handshakes that failed, by the reason for it.";
    TUNNEL_CONNECTIONS "sidegate.tunnel.connections" Counter "{connection}" [DIRECTION, TUNNEL] "Connections through tunnels that ended.";
    TUNNELS_IDLE "sidegate.tunnels.idle" UpDownCounter "{session}" [DIRECTION] "Sessions of tunnels that wait for a connection.";
    BYTES "sidegate.bytes" Counter "By" [DIRECTION, FLOW] "Application bytes of connections that ended.";
    DECISIONS "sidegate.authorization.decisions" Counter "{decision}" [DIRECTION, ALLOWED, RULE] "Decisions about connections that ended, by the rule that decided; rare rules are together in other.";
    REMARKS "sidegate.policy.remarks" Counter "{remark}" [REMARK] "What rules that decide nothing said of connections that ended, as far as their records have it.";
    PEER_CONNECTIONS "sidegate.peer.connections" Counter "{connection}" [DIRECTION, PEER_ID, OUTCOME] "Connections that ended, by the peer's verified SPIFFE ID; rare peers, and those without an identity, are together in other.";
    PLAINTEXT "sidegate.plaintext.connections" Counter "{connection}" [DIRECTION] "Connections that are not protected on the network, counted as they begin.";
    SVID_TIME_LEFT "sidegate.svid.time_left" Gauge "s" [] "Until our X.509-SVID expires; negative once it has; absent as long as there is none.";
    BUNDLE_TIME_LEFT "sidegate.bundle.time_left" Gauge "s" [TRUST_DOMAIN] "Until the last CA certificate of a trust bundle expires.";
    ROTATIONS "sidegate.identity.rotations" Counter "{rotation}" [OUTCOME] "SVID or bundles were replaced (success), or what a source offered could not be used (failure).";
    SOURCE_HEALTHY "sidegate.identity.source.healthy" Gauge "" [IDENTITY_SOURCE] "1 while the last thing that an identity source said was of use.";
    POLICY_RELOADS "sidegate.policy.reloads" Counter "{reload}" [OUTCOME] "Policy files were read again (success), or refused so that the last good policy stays (failure).";
    DIRECTORY_REACHABLE "sidegate.directory.reachable" Gauge "" [] "1 while the directory can be asked; absent where none is configured.";
    DIRECTORY_ADDRESSES "sidegate.directory.addresses" Gauge "{address}" [] "Addresses of which it is known what the directory says.";
    DIRECTORY_WAITS "sidegate.directory.waits" Counter "{connection}" [OUTCOME] "Connections to an address that was not known: the directory said who is expected there (success), or did not in time (failure).";
    REVOCATION_RELOADS "sidegate.revocation.reloads" Counter "{reload}" [OUTCOME] "Revocation lists or deny lists were read or fetched again (success), or could not be used so that the last good ones stay (failure).";
    REVOCATION_UNSURE "sidegate.revocation.unsure" Counter "{handshake}" [PEER_REVOCATION] "Handshakes with peers that may be revoked or not, for no list says, and that the configuration admits all the same.";
    READY "sidegate.ready" Gauge "" [] "1 while ready.";
    CAPTURE_PROVEN "sidegate.capture.proven" Gauge "" [] "1 while the kernel rules of this configuration are in place, 0 while they are not: then traffic may pass the sidecar by. Absent where nothing is redirected or redirect.withoutProof is set.";
    LOAD_AGE "sidegate.load.age" Gauge "s" [SUBJECT] "How long the policy, the revocation data or the identity material that is in force has been so.";
    LOAD_REFUSED "sidegate.load.refused" Gauge "{source}" [SUBJECT] "Files and other sources whose present content is refused, so that what was loaded before stays in force.";
    BUFFERED "sidegate.buffers.held" Gauge "By" [] "Bytes in the buffers of all connections: of handshakes, relays and tunnels.";
    BUFFERED_LIMIT "sidegate.buffers.limit" Gauge "By" [] "What they may hold together, by limits.bufferedBytes or the cgroup's memory limit.";
    ACCEPT_ERRORS "sidegate.accept.errors" Counter "{error}" [DIRECTION] "accept() failures, such as an exhausted descriptor table.";
    ADMIN_EVICTED "sidegate.admin.evicted" Counter "{connection}" [] "Connections to the admin port that were closed to make room for others: the longest silent, of the address that holds the most.";
    PROBES "sidegate.probes" Counter "{check}" [OUTCOME] "Health checks of the application, as asked for at the admin port; those who ask at the same time share one.";
    EXPORTED "sidegate.telemetry.exported" Counter "{item}" [SIGNAL] "Spans, data points and log records that a collector has taken.";
    EXPORTS "sidegate.telemetry.exports" Counter "{request}" [SIGNAL, OUTCOME] "Export requests and their repetitions.";
    DROPPED "sidegate.telemetry.dropped" Counter "{item}" [SIGNAL, CAUSE] "What never reached its reader: spans, data points, log records, lines of the access log or of standard error, audit records (audit) and their copies (audit_copies), and under records connections whose span, log record, peer and rule are unknown to telemetry.";
    AUDIT_RECORDS "sidegate.audit.records" Counter "{record}" [] "Records written to the audit log.";
    AUDIT_BLOCKED "sidegate.audit.blocked" UpDownCounter "{destination}" [] "Destinations of the audit log that take no records while new connections are refused for that.";
    RUNTIME_LAG "sidegate.runtime.lag" Histogram "s" [WORKER] "How late a worker's timer fires: how long anything waits for its turn.";
    BUILD_INFO "sidegate.build.info" Gauge "" [VERSION] "Always 1.";
    PROCESS_CPU_TIME "process.cpu.time" Counter "s" [CPU_MODE] "CPU time of this process.";
    PROCESS_MEMORY "process.memory.usage" UpDownCounter "By" [] "Resident memory of this process.";
    PROCESS_DESCRIPTORS "process.unix.file_descriptor.count" UpDownCounter "{file_descriptor}" [] "Open descriptors of this process.";
}

/// How a handshake, a connection, a reload or an export came out.
pub(crate) const OUTCOME: &str = "sidegate.outcome";
pub(crate) const FLOW: &str = "sidegate.flow";
pub(crate) const REMARK: &str = "sidegate.remark";
pub(crate) const TRUST_DOMAIN: &str = "sidegate.trust_domain";
pub(crate) const IDENTITY_SOURCE: &str = "sidegate.identity.source";
pub(crate) const SIGNAL: &str = "sidegate.telemetry.signal";
pub(crate) const CAUSE: &str = "sidegate.telemetry.cause";
pub(crate) const SUBJECT: &str = "sidegate.load.subject";
pub(crate) const WORKER: &str = "sidegate.worker";
pub(crate) const VERSION: &str = "sidegate.version";
pub(crate) const CPU_MODE: &str = semconv::CPU_MODE;

/// The attributes of metrics: name, type, and what it says. Those that spans have too are named alike.
pub const METRIC_ATTRIBUTES: &[(&str, &str, &str)] = &[
    (DIRECTION, "string", "inbound or outbound, as the workload sees it."),
    (REASON, "string", "Why a connection ended: one of the reasons below."),
    (ERROR_TYPE, "string", "Why a handshake failed: one of the reasons below."),
    (OUTCOME, "string", "Of handshakes established or failed; of peers' connections allowed, denied or failed; else success or failure."),
    (TUNNEL, "string", "new if the tunnel's session was made for the connection, reused if it had carried others or was made in advance."),
    (TLS_RESUMED, "boolean", "Whether a TLS session was resumed."),
    (FLOW, "string", "up from who connected to who accepted, down the other way."),
    (ALLOWED, "boolean", "Whether the connection may be."),
    (RULE, "string", "The rule that decided, with file and line; or other."),
    (
        REMARK,
        "string",
        "audit, wouldAllow or wouldDeny of audit rules and dry runs; conditionFailed where a `when` could not be evaluated.",
    ),
    (PEER_ID, "string", "The peer's SPIFFE ID, verified; or other."),
    (TRUST_DOMAIN, "string", "Whose bundle it is."),
    (IDENTITY_SOURCE, "string", "The identity source: its kind and place."),
    (PEER_REVOCATION, "string", "unknown_allowed if no list covers the peer, expired_allowed if the one that does has expired."),
    (SIGNAL, "string", "traces, metrics or logs; where things are dropped also records, access_log, stderr, audit and audit_copies."),
    (CAUSE, "string", "Why it was dropped: queue_full, rate_limited, export_failed, rejected or shutdown."),
    (SUBJECT, "string", "What is loaded: policy, revocation or identity."),
    (WORKER, "string", "The worker's number."),
    (VERSION, "string", "sidegate's version."),
    (CPU_MODE, "string", "user or system."),
];

/// Why something was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its queue was full.
    QueueFull,
    /// A failed connection beyond the rate for its reason.
    RateLimited,
    /// The collector could not be reached, or did not answer, for too long.
    ExportFailed,
    /// The collector refused it.
    Rejected,
    /// It was still waiting when the process ended.
    Shutdown,
}

impl Cause {
    pub(crate) const ALL: [Self; 5] = [Self::QueueFull, Self::RateLimited, Self::ExportFailed, Self::Rejected, Self::Shutdown];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::RateLimited => "rate_limited",
            Self::ExportFailed => "export_failed",
            Self::Rejected => "rejected",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What was dropped: each of these has a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropSource {
    /// Spans to the collector.
    Traces,
    /// Data points to the collector.
    Metrics,
    /// Log records to the collector.
    Logs,
    /// Connections to the thread that makes spans and log records of them.
    Records,
    /// Lines to standard output.
    AccessLog,
    /// Lines to standard error.
    Stderr,
    /// Records to the audit log.
    Audit,
    /// Records of the audit log to further destinations.
    AuditCopies,
}

impl From<Signal> for DropSource {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Traces => Self::Traces,
            Signal::Metrics => Self::Metrics,
            Signal::Logs => Self::Logs,
        }
    }
}

impl DropSource {
    pub(crate) const ALL: [Self; 8] =
        [Self::Traces, Self::Metrics, Self::Logs, Self::Records, Self::AccessLog, Self::Stderr, Self::Audit, Self::AuditCopies];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
            Self::Records => "records",
            Self::AccessLog => "access_log",
            Self::Stderr => "stderr",
            Self::Audit => "audit",
            Self::AuditCopies => "audit_copies",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::ATTRIBUTES;
    use std::collections::BTreeSet;

    #[test]
    fn every_attribute_of_a_metric_is_explained() {
        let used: BTreeSet<&str> = INSTRUMENTS.iter().flat_map(|i| i.attributes).copied().collect();
        assert_eq!(used, METRIC_ATTRIBUTES.iter().map(|(name, _, _)| *name).collect());
        let causes = METRIC_ATTRIBUTES.iter().find(|(name, _, _)| *name == CAUSE).unwrap().2;
        assert!(Cause::ALL.iter().all(|cause| causes.contains(cause.label())));
    }

    /// A join of metrics and spans finds one name, of one type.
    #[test]
    fn what_spans_say_too_has_the_same_type() {
        let of_spans = |name: &str| ATTRIBUTES.iter().find(|(key, _, _)| *key == name);
        let shared: Vec<_> = METRIC_ATTRIBUTES.iter().filter_map(|(name, kind, _)| Some((*kind, of_spans(name)?.1))).collect();
        assert_eq!(shared.len(), 9);
        assert!(shared.iter().all(|(metric, span)| metric == span), "{shared:?}");
    }
}
