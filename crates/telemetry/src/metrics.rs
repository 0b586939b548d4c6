//! The instruments, and their text for Prometheus.
//!
//! The handles are made once; a connection only adds to atomics.

use std::sync::OnceLock;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use sidegate_core::{ConnectionRecord, Direction, Reason, Transport};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    direction: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handshake {
    direction: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Flow {
    direction: &'static str,
    flow: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    direction: &'static str,
    decision: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

/// Every metric as it is scraped: name, labels, meaning. The reference in the docs is made from this, and a test holds
/// it against a real scrape.
pub const METRICS: &[(&str, &str, &str)] = &[
    ("sidegate_connections_total", "direction, reason", "Connections that ended, by the reason for it"),
    ("sidegate_connections_open", "direction", "Connections open now"),
    ("sidegate_handshake_duration_seconds", "direction, outcome", "TLS handshakes, verification included"),
    ("sidegate_handshakes_in_flight", "", "TLS handshakes under way now"),
    ("sidegate_connection_duration_seconds", "direction", "From accept to close"),
    ("sidegate_bytes_total", "direction, flow", "Application bytes; up is from who connected to who accepted"),
    ("sidegate_authorization_decisions_total", "direction, decision", "Decisions of policy"),
    ("sidegate_plaintext_connections_total", "direction", "Connections that were not protected on the network"),
    ("sidegate_svid_expiry_timestamp_seconds", "", "When our X.509-SVID expires; 0 without one"),
    ("sidegate_identity_rotations_total", "", "How often SVID or bundles were replaced"),
    ("sidegate_policy_reloads_failed_total", "", "Policy files that were refused; the last good policy stays"),
    ("sidegate_ready", "", "1 while ready"),
    ("sidegate_accept_errors_total", "direction", "accept() failures, such as an exhausted descriptor table"),
    ("sidegate_telemetry_dropped_total", "queue", "Records that found a queue full"),
    ("sidegate_build_info", "version", "Always 1"),
];

/// All instruments.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ended: Family<Ended, Counter>,
    ended_handles: [Vec<OnceLock<Counter>>; 2],
    open: [Gauge; 2],
    handshakes: [[Histogram; 2]; 2],
    durations: [Histogram; 2],
    bytes: [[Counter; 2]; 2],
    decisions: [[Counter; 2]; 2],
    plaintext: [Counter; 2],
    accept_errors: [Counter; 2],
    /// Handshakes under way.
    pub handshakes_in_flight: Gauge,
    /// When our SVID expires.
    pub svid_expiry: Gauge<i64, AtomicI64>,
    /// How often material was replaced.
    pub rotations: Counter,
    /// Policy reloads that failed.
    pub policy_failures: Counter,
    /// 1 while ready.
    pub ready: Gauge,
    /// Lines that the access log dropped.
    pub log_dropped: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sidegate");
        let help = |name: &str| METRICS.iter().find(|(n, _, _)| n.strip_prefix("sidegate_") == Some(name)).map_or("", |(_, _, h)| *h);
        let ended = Family::<Ended, Counter>::default();
        registry.register("connections", help("connections_total"), ended.clone());
        let open = Family::<Way, Gauge>::default();
        registry.register("connections_open", help("connections_open"), open.clone());
        let handshakes = Family::<Handshake, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_25, 2.0, 16)));
        registry.register_with_unit("handshake_duration", help("handshake_duration_seconds"), Unit::Seconds, handshakes.clone());
        let handshakes_in_flight = Gauge::default();
        registry.register("handshakes_in_flight", help("handshakes_in_flight"), handshakes_in_flight.clone());
        let durations = Family::<Way, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 4.0, 12)));
        registry.register_with_unit("connection_duration", help("connection_duration_seconds"), Unit::Seconds, durations.clone());
        let bytes = Family::<Flow, Counter>::default();
        registry.register("bytes", help("bytes_total"), bytes.clone());
        let decisions = Family::<Decided, Counter>::default();
        registry.register("authorization_decisions", help("authorization_decisions_total"), decisions.clone());
        let plaintext = Family::<Way, Counter>::default();
        registry.register("plaintext_connections", help("plaintext_connections_total"), plaintext.clone());
        let svid_expiry = Gauge::default();
        registry.register_with_unit("svid_expiry_timestamp", help("svid_expiry_timestamp_seconds"), Unit::Seconds, svid_expiry.clone());
        let rotations = Counter::default();
        registry.register("identity_rotations", help("identity_rotations_total"), rotations.clone());
        let policy_failures = Counter::default();
        registry.register("policy_reloads_failed", help("policy_reloads_failed_total"), policy_failures.clone());
        let ready = Gauge::default();
        registry.register("ready", help("ready"), ready.clone());
        let accept_errors = Family::<Way, Counter>::default();
        registry.register("accept_errors", help("accept_errors_total"), accept_errors.clone());
        let dropped = Family::<Queue, Counter>::default();
        registry.register("telemetry_dropped", help("telemetry_dropped_total"), dropped.clone());
        let build = Family::<Build, Gauge>::default();
        registry.register("build_info", help("build_info"), build.clone());
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);

        let way = |d: Direction| Way { direction: d.label() };
        let pair = |d: Direction, names: [&'static str; 2]| names.map(|n| (d.label(), n));
        Self {
            ended_handles: DIRECTIONS.map(|_| Reason::ALL.iter().map(|_| OnceLock::new()).collect()),
            ended,
            open: DIRECTIONS.map(|d| open.get_or_create_owned(&way(d))),
            handshakes: DIRECTIONS.map(|d| {
                pair(d, ["failed", "established"])
                    .map(|(direction, outcome)| handshakes.get_or_create_owned(&Handshake { direction, outcome }))
            }),
            durations: DIRECTIONS.map(|d| durations.get_or_create_owned(&way(d))),
            bytes: DIRECTIONS
                .map(|d| pair(d, ["up", "down"]).map(|(direction, flow)| bytes.get_or_create_owned(&Flow { direction, flow }))),
            decisions: DIRECTIONS.map(|d| {
                pair(d, ["denied", "allowed"]).map(|(direction, decision)| decisions.get_or_create_owned(&Decided { direction, decision }))
            }),
            plaintext: DIRECTIONS.map(|d| plaintext.get_or_create_owned(&way(d))),
            accept_errors: DIRECTIONS.map(|d| accept_errors.get_or_create_owned(&way(d))),
            log_dropped: dropped.get_or_create_owned(&Queue { queue: "access_log" }),
            handshakes_in_flight,
            svid_expiry,
            rotations,
            policy_failures,
            ready,
            registry,
        }
    }

    /// Counts a finished connection.
    pub(crate) fn count(&self, record: &ConnectionRecord) {
        let way = record.direction as usize;
        let reason = record.reason;
        let ended = &self.ended_handles[way][reason as usize];
        ended.get_or_init(|| self.ended.get_or_create_owned(&Ended { direction: record.direction.label(), reason: reason.label() })).inc();
        if let Some(took) = record.stages.handshake {
            self.handshakes[way][usize::from(record.tls.is_some())].observe(seconds(took));
        }
        if let Some(decision) = &record.decision {
            self.decisions[way][usize::from(decision.allowed)].inc();
        }
        if record.transport == Some(Transport::Plaintext) {
            self.plaintext[way].inc();
        }
        self.durations[way].observe(seconds(record.stages.total));
        self.bytes[way][0].inc_by(record.bytes_up);
        self.bytes[way][1].inc_by(record.bytes_down);
    }

    /// Connections open now, by direction.
    #[must_use]
    pub fn open(&self, direction: Direction) -> &Gauge {
        &self.open[direction as usize]
    }

    /// Failures of accept, by direction.
    #[must_use]
    pub fn accept_errors(&self, direction: Direction) -> &Counter {
        &self.accept_errors[direction as usize]
    }

    /// Everything in OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: the sink is a string.
    pub fn scrape(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn seconds(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference names what a scrape has, and nothing else.
    #[test]
    fn the_list_of_metrics_is_that_of_a_scrape() {
        let metrics = Metrics::new();
        let mut record = ConnectionRecord::new(Direction::Inbound, ([127, 0, 0, 1], 1).into());
        record.reason = Reason::Closed;
        metrics.count(&record);
        let text = metrics.scrape().unwrap();
        let scraped: std::collections::BTreeSet<&str> = text
            .lines()
            .filter(|l| !l.starts_with('#'))
            .map(|l| l.split(['{', ' ']).next().unwrap())
            .map(|name| ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name))
            .collect();
        let listed: std::collections::BTreeSet<&str> = METRICS.iter().map(|(name, _, _)| *name).collect();
        assert_eq!(scraped, listed);
        for (_, _, help) in METRICS {
            assert!(text.contains(help), "{help}");
        }
    }
}
