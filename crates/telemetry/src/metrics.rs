//! The instruments, and how a finished connection adds to them: only atomics, so that nothing waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use sidegate_config::schema::telemetry as schema;
use sidegate_core::{ConnectionRecord, Direction, Reason, RevocationStatus, Says, TunnelUse};

use crate::attributes::{ALLOWED, DIRECTION, ERROR_TYPE, PEER_ID, PEER_REVOCATION, REASON, RULE, TLS_RESUMED, TUNNEL};
use crate::bounded::Bounded;
use crate::catalog::{self, CAUSE, CPU_MODE, Cause, DropSource, FLOW, OUTCOME, REMARK, SIGNAL, VERSION, WORKER};
use crate::instruments::{Counter, Exemplar, Histogram, UpDownCounter};
use crate::observation::Observation;
use crate::process;
use crate::stream::{PointValue, Stream, Streams, attribute};
use crate::view::Views;

const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];
const REASONS: usize = Reason::ALL.len();

type Observer = Box<dyn Fn() -> Observation + Send + Sync>;

/// All instruments.
pub struct Metrics {
    started: SystemTime,
    ended: [[Counter; REASONS]; 2],
    open: [UpDownCounter; 2],
    durations: [Histogram; 2],
    /// By direction, outcome and whether it was resumed.
    handshakes: [[[Histogram; 2]; 2]; 2],
    handshakes_in_flight: [UpDownCounter; 2],
    handshake_failures: [[Counter; REASONS]; 2],
    /// By direction and whether the session was used before.
    tunnels: [[Counter; 2]; 2],
    idle_tunnels: [UpDownCounter; 2],
    bytes: [[Counter; 2]; 2],
    plaintext: [Counter; 2],
    accept_errors: [Counter; 2],
    admin_evicted: Counter,
    probes: [Counter; 2],
    /// By direction and decision.
    decisions: Bounded<4>,
    remarks: [Counter; Says::ALL.len()],
    /// By direction and outcome.
    peers: Bounded<6>,
    rotations: [Counter; 2],
    policy_reloads: [Counter; 2],
    directory_waits: [Counter; 2],
    revocation_reloads: [Counter; 2],
    /// By whether a list covers the peer but has expired.
    revocation_unsure: [Counter; 2],
    exported: [Counter; 3],
    exports: [[Counter; 2]; 3],
    dropped: [[Counter; 5]; 8],
    audit_records: Counter,
    lag: OnceLock<Vec<Histogram>>,
    observer: OnceLock<Observer>,
    audit_blocking: OnceLock<Arc<AtomicUsize>>,
    /// Events that found their queue full.
    events_lost: OnceLock<Arc<Counter>>,
    /// Lines that standard error has lost.
    stderr_lost: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
    views: Views,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// How often a rule decided so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleHits {
    /// The rule, with file and line; or the default.
    pub rule: Arc<str>,
    /// Of connections in this direction.
    pub direction: Direction,
    /// What it decided.
    pub allowed: bool,
    /// How often.
    pub connections: u64,
}

/// The outcome of a connection for its peer.
#[derive(Clone, Copy)]
enum Outcome {
    Allowed,
    Denied,
    Failed,
}

const OUTCOMES: [&str; 3] = ["allowed", "denied", "failed"];
const RESULTS: [&str; 2] = ["failure", "success"];

fn each<T: Default, const N: usize>() -> [T; N] {
    std::array::from_fn(|_| T::default())
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new(config: &schema::Metrics) -> Self {
        Self {
            started: SystemTime::now(),
            ended: [each(), each()],
            open: each(),
            durations: each(),
            handshakes: each(),
            handshakes_in_flight: each(),
            handshake_failures: [each(), each()],
            tunnels: [each(), each()],
            idle_tunnels: each(),
            bytes: each(),
            plaintext: each(),
            accept_errors: each(),
            admin_evicted: Counter::default(),
            probes: each(),
            decisions: Bounded::new(config.rules.into()),
            remarks: each(),
            peers: Bounded::new(config.peers.into()),
            rotations: each(),
            policy_reloads: each(),
            directory_waits: each(),
            revocation_reloads: each(),
            revocation_unsure: each(),
            exported: each(),
            exports: each(),
            dropped: each(),
            audit_records: Counter::default(),
            lag: OnceLock::new(),
            observer: OnceLock::new(),
            audit_blocking: OnceLock::new(),
            events_lost: OnceLock::new(),
            stderr_lost: OnceLock::new(),
            views: Views::new(config),
        }
    }

    /// Counts a finished connection, but for its peer and rule, which need a lookup: [`Metrics::count_names`].
    pub(crate) fn count(&self, record: &ConnectionRecord) {
        let way = record.direction as usize;
        self.ended[way][record.reason as usize].inc();
        self.durations[way].record(record.stages.total);
        self.bytes[way][0].add(record.bytes_up);
        self.bytes[way][1].add(record.bytes_down);
        if let Some(tunnel) = record.tunnel {
            self.tunnels[way][tunnel as usize].inc();
        }
        let explanation = record.decision.as_ref().and_then(|decision| decision.explanation.as_ref());
        explanation.iter().flat_map(|explanation| &explanation.remarks).for_each(|remark| self.remarks[remark.says as usize].inc());
    }

    /// Counts a handshake that has just succeeded: whether it resumed a session, and how long it took.
    pub fn handshake_established(&self, direction: Direction, resumed: bool, took: Duration) {
        self.handshakes[direction as usize][1][usize::from(resumed)].record(took);
    }

    /// Counts a handshake that has just failed.
    pub fn handshake_failed(&self, direction: Direction, reason: Reason, took: Duration) {
        self.handshakes[direction as usize][0][0].record(took);
        self.handshake_failures[direction as usize][reason as usize].inc();
    }

    /// Counts a connection that is not protected on the network, as it begins.
    pub fn plaintext(&self, direction: Direction) {
        self.plaintext[direction as usize].inc();
    }

    fn handshake(&self, record: &ConnectionRecord) -> &Histogram {
        let resumed = record.tls.as_ref().is_some_and(|tls| tls.resumed);
        &self.handshakes[record.direction as usize][usize::from(record.tls.is_some())][usize::from(resumed)]
    }

    /// Counts a finished connection's peer and rule. Only the telemetry thread does so.
    pub(crate) fn count_names(&self, record: &ConnectionRecord) {
        self.peers.count(record.peer.id(), outcome(record));
        if let Some(decision) = &record.decision {
            self.decisions.count(Some(&decision.rule), decided(record.direction, decision.allowed));
        }
    }

    /// Counts a connection whose record did not reach the telemetry thread.
    pub(crate) fn count_unheard(&self, record: &ConnectionRecord) {
        self.dropped(DropSource::Records, Cause::QueueFull).inc();
        self.peers.count_other(outcome(record));
        if let Some(decision) = &record.decision {
            self.decisions.count_other(decided(record.direction, decision.allowed));
        }
    }

    /// Makes a connection the exemplar of its durations.
    pub(crate) fn exemplify(&self, record: &ConnectionRecord) {
        let exemplar = |took: Duration| Exemplar {
            trace_id: record.trace(),
            span_id: record.span_id,
            seconds: took.as_secs_f64(),
            time: record.time + record.stages.total,
        };
        if let Some(lap) = &record.stages.handshake {
            self.handshake(record).exemplify(exemplar(lap.took));
        }
        self.durations[record.direction as usize].exemplify(exemplar(record.stages.total));
    }

    /// Gives series to the peers and rules that have become frequent.
    pub(crate) fn rebalance(&self) {
        self.peers.rebalance();
        self.decisions.rebalance();
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self, direction: Direction) -> &UpDownCounter {
        &self.open[direction as usize]
    }

    /// Handshakes under way.
    #[must_use]
    pub fn handshakes_in_flight(&self, direction: Direction) -> &UpDownCounter {
        &self.handshakes_in_flight[direction as usize]
    }

    /// Sessions that wait for a connection.
    #[must_use]
    pub fn idle_tunnels(&self, direction: Direction) -> &UpDownCounter {
        &self.idle_tunnels[direction as usize]
    }

    /// Failures of accept.
    #[must_use]
    pub fn accept_errors(&self, direction: Direction) -> &Counter {
        &self.accept_errors[direction as usize]
    }

    /// Connections to the admin port that were closed to make room.
    #[must_use]
    pub fn admin_evicted(&self) -> &Counter {
        &self.admin_evicted
    }

    /// Health checks of the application, by success.
    #[must_use]
    pub fn probes(&self, success: bool) -> &Counter {
        &self.probes[usize::from(success)]
    }

    /// Replacements of SVID or bundles, by success.
    #[must_use]
    pub fn rotations(&self, success: bool) -> &Counter {
        &self.rotations[usize::from(success)]
    }

    /// Revocation lists that were read or fetched again, by success.
    pub fn revocation_reloads(&self, success: bool) -> &Counter {
        &self.revocation_reloads[usize::from(success)]
    }

    /// Counts a handshake after which it is not sure whether the peer is revoked.
    pub fn revocation(&self, status: RevocationStatus) {
        match status {
            RevocationStatus::UnknownAllowed => self.revocation_unsure[0].inc(),
            RevocationStatus::ExpiredAllowed => self.revocation_unsure[1].inc(),
            RevocationStatus::NotChecked | RevocationStatus::Good => {}
        }
    }

    /// Connections that waited for the directory, by whether it answered.
    #[must_use]
    pub fn directory_waits(&self, success: bool) -> &Counter {
        &self.directory_waits[usize::from(success)]
    }

    /// Reloads of policy files, by success.
    #[must_use]
    pub fn policy_reloads(&self, success: bool) -> &Counter {
        &self.policy_reloads[usize::from(success)]
    }

    /// Connections that ended, for one reason.
    #[must_use]
    pub fn ended(&self, direction: Direction, reason: Reason) -> u64 {
        self.ended[direction as usize][reason as usize].get()
    }

    /// Items that were dropped.
    #[must_use]
    pub fn dropped(&self, way: DropSource, cause: Cause) -> &Counter {
        &self.dropped[way as usize][cause as usize]
    }

    /// Items that were dropped, for any cause.
    #[must_use]
    pub fn dropped_in_all(&self, way: DropSource) -> u64 {
        Cause::ALL.iter().map(|cause| self.dropped(way, *cause).get()).sum()
    }

    /// Records written to the audit log.
    #[must_use]
    pub fn audit_records(&self) -> &Counter {
        &self.audit_records
    }

    /// Items of a signal that the collector has accepted.
    #[must_use]
    pub fn exported(&self, signal: schema::Signal) -> &Counter {
        &self.exported[signal as usize]
    }

    /// Export requests that succeeded, or not.
    #[must_use]
    pub fn exports(&self, signal: schema::Signal, success: bool) -> &Counter {
        &self.exports[signal as usize][usize::from(success)]
    }

    /// How late the timers of each of `workers` workers fire.
    pub fn lag(&self, workers: usize) -> &[Histogram] {
        self.lag.get_or_init(|| (0..workers).map(|_| Histogram::default()).collect())
    }

    /// Takes the count of the audit log's destinations that block new connections; the log itself changes it.
    pub fn observe_audit_blocking(&self, count: Arc<AtomicUsize>) {
        let _ = self.audit_blocking.set(count);
    }

    /// How many destinations of the audit log block new connections.
    #[must_use]
    pub fn audit_blocking(&self) -> usize {
        self.audit_blocking.get().map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Connections through tunnels, by the kind of their session.
    #[must_use]
    pub fn tunnels(&self, direction: Direction, tunnel: TunnelUse) -> u64 {
        self.tunnels[direction as usize][tunnel as usize].get()
    }

    /// Handshakes that were completed, and how long they took together.
    #[must_use]
    pub fn handshakes(&self, direction: Direction) -> (u64, Duration) {
        let [full, resumed] = self.handshakes[direction as usize][1].each_ref().map(Histogram::totals);
        (full.0 + resumed.0, full.1 + resumed.1)
    }

    /// How often each rule decided. Rules without a series of their own are one, `other`.
    #[must_use]
    pub fn rule_hits(&self) -> Vec<RuleHits> {
        let mut all: Vec<RuleHits> = Vec::new();
        for counted in self.decisions.all() {
            for direction in DIRECTIONS {
                for allowed in [false, true] {
                    let connections = counted.counts[decided(direction, allowed)];
                    let is_same = |hits: &&mut RuleHits| (&hits.rule, hits.direction, hits.allowed) == (&counted.key, direction, allowed);
                    match all.iter_mut().rev().take(8).find(is_same) {
                        Some(hits) => hits.connections += connections,
                        None if connections > 0 => all.push(RuleHits { rule: counted.key.clone(), direction, allowed, connections }),
                        None => {}
                    }
                }
            }
        }
        all
    }

    /// Sets the function that reports readiness, expiry and sources. Only the first call has an effect.
    pub fn observe(&self, observer: impl Fn() -> Observation + Send + Sync + 'static) {
        let _ = self.observer.set(Box::new(observer));
    }

    /// Sets the function that reports how many lines standard error has lost. Only the first call has an effect.
    pub fn count_lost_stderr(&self, lost: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.stderr_lost.set(Box::new(lost));
    }

    pub(crate) fn count_lost_events(&self, lost: Arc<Counter>) {
        let _ = self.events_lost.set(lost);
    }

    /// When counting began.
    pub(crate) fn started(&self) -> SystemTime {
        self.started
    }

    /// The state of all instruments, as the views want them.
    pub(crate) fn collect(&self) -> Vec<Stream> {
        self.collect_all().into_iter().filter_map(|stream| self.views.apply(stream)).collect()
    }

    /// What a view makes of an instrument's histograms in OTLP.
    pub(crate) fn views(&self) -> &Views {
        &self.views
    }

    #[allow(clippy::too_many_lines, reason = "a list")]
    fn collect_all(&self) -> Vec<Stream> {
        let mut streams = Streams(Vec::with_capacity(catalog::INSTRUMENTS.len()));
        for direction in DIRECTIONS {
            let way = direction as usize;
            let d = || attribute(DIRECTION, direction.label());
            for reason in Reason::ALL {
                let (ended, failed) = (&self.ended[way][*reason as usize], &self.handshake_failures[way][*reason as usize]);
                streams.some(&catalog::CONNECTIONS, [d(), attribute(REASON, reason.label())], ended.get());
                streams.some(&catalog::HANDSHAKE_FAILURES, [d(), attribute(ERROR_TYPE, reason.label())], failed.get());
            }
            streams.level(&catalog::CONNECTIONS_OPEN, [d()], self.open[way].get());
            streams.level(&catalog::HANDSHAKES_IN_FLIGHT, [d()], self.handshakes_in_flight[way].get());
            streams.level(&catalog::TUNNELS_IDLE, [d()], self.idle_tunnels[way].get());
            for session in [TunnelUse::New, TunnelUse::Reused] {
                streams.sum(
                    &catalog::TUNNEL_CONNECTIONS,
                    [d(), attribute(TUNNEL, session.label())],
                    self.tunnels[way][session as usize].get(),
                );
            }
            let values = self.durations[way].distribution();
            streams.push(&catalog::CONNECTION_DURATION, [d()], PointValue::Distribution(values));
            for (outcome, name) in ["failed", "established"].into_iter().enumerate() {
                for resumed in [false, true] {
                    // Nothing fails by being resumed, and with no resumption there is nothing to show.
                    let values = self.handshakes[way][outcome][usize::from(resumed)].distribution();
                    if !resumed || values.count() > 0 {
                        let attributes = [d(), attribute(OUTCOME, name), attribute(TLS_RESUMED, resumed)];
                        streams.push(&catalog::HANDSHAKE_DURATION, attributes, PointValue::Distribution(values));
                    }
                }
            }
            for (flow, name) in ["up", "down"].into_iter().enumerate() {
                streams.sum(&catalog::BYTES, [d(), attribute(FLOW, name)], self.bytes[way][flow].get());
            }
            streams.sum(&catalog::PLAINTEXT, [d()], self.plaintext[way].get());
            streams.sum(&catalog::ACCEPT_ERRORS, [d()], self.accept_errors[way].get());
        }
        streams.sum(&catalog::ADMIN_EVICTED, [], self.admin_evicted.get());
        for counted in self.decisions.all() {
            for direction in DIRECTIONS {
                for allowed in [false, true] {
                    let count = counted.counts[decided(direction, allowed)];
                    let names =
                        [attribute(DIRECTION, direction.label()), attribute(ALLOWED, allowed), attribute(RULE, counted.key.clone())];
                    streams.counted(&catalog::DECISIONS, names, count, &counted.series);
                }
            }
        }
        for counted in self.peers.all() {
            for direction in DIRECTIONS {
                for (i, outcome) in OUTCOMES.into_iter().enumerate() {
                    let count = counted.counts[direction as usize * OUTCOMES.len() + i];
                    let names =
                        [attribute(DIRECTION, direction.label()), attribute(PEER_ID, counted.key.clone()), attribute(OUTCOME, outcome)];
                    streams.counted(&catalog::PEER_CONNECTIONS, names, count, &counted.series);
                }
            }
        }
        for says in Says::ALL {
            streams.sum(&catalog::REMARKS, [attribute(REMARK, says.label())], self.remarks[says as usize].get());
        }
        for (i, outcome) in RESULTS.into_iter().enumerate() {
            streams.sum(&catalog::ROTATIONS, [attribute(OUTCOME, outcome)], self.rotations[i].get());
            streams.sum(&catalog::POLICY_RELOADS, [attribute(OUTCOME, outcome)], self.policy_reloads[i].get());
            streams.sum(&catalog::REVOCATION_RELOADS, [attribute(OUTCOME, outcome)], self.revocation_reloads[i].get());
            streams.sum(&catalog::DIRECTORY_WAITS, [attribute(OUTCOME, outcome)], self.directory_waits[i].get());
            streams.sum(&catalog::PROBES, [attribute(OUTCOME, outcome)], self.probes[i].get());
        }
        for (i, status) in [RevocationStatus::UnknownAllowed, RevocationStatus::ExpiredAllowed].into_iter().enumerate() {
            streams.sum(&catalog::REVOCATION_UNSURE, [attribute(PEER_REVOCATION, status.label())], self.revocation_unsure[i].get());
        }
        for signal in schema::Signal::ALL {
            let s = || attribute(SIGNAL, signal.label());
            streams.sum(&catalog::EXPORTED, [s()], self.exported(signal).get());
            for (i, outcome) in RESULTS.into_iter().enumerate() {
                streams.sum(&catalog::EXPORTS, [s(), attribute(OUTCOME, outcome)], self.exports[signal as usize][i].get());
            }
        }
        for way in DropSource::ALL {
            for cause in Cause::ALL {
                let elsewhere = match (way, cause) {
                    (DropSource::Stderr, Cause::QueueFull) => self.stderr_lost.get().map_or(0, |lost| lost()),
                    (DropSource::Logs, Cause::QueueFull) => self.events_lost.get().map_or(0, |lost| lost.get()),
                    _ => 0,
                };
                let lost = self.dropped(way, cause).get() + elsewhere;
                // Every source has a queue; other causes appear once they have a count.
                if cause == Cause::QueueFull || lost > 0 {
                    streams.sum(&catalog::DROPPED, [attribute(SIGNAL, way.label()), attribute(CAUSE, cause.label())], lost);
                }
            }
        }
        streams.sum(&catalog::AUDIT_RECORDS, [], self.audit_records.get());
        for (i, lag) in self.lag.get().into_iter().flatten().enumerate() {
            let value = PointValue::Distribution(lag.distribution());
            streams.push(&catalog::RUNTIME_LAG, [attribute(WORKER, i.to_string().as_str())], value);
        }
        streams.level(&catalog::AUDIT_BLOCKED, [], i64::try_from(self.audit_blocking()).unwrap_or(i64::MAX));
        if let Some(observe) = self.observer.get() {
            streams.observed(observe());
        }
        streams.number(&catalog::BUILD_INFO, [attribute(VERSION, env!("CARGO_PKG_VERSION"))], 1.0);
        if let Some([user, system]) = process::cpu_time() {
            streams.number(&catalog::PROCESS_CPU_TIME, [attribute(CPU_MODE, "user")], user.as_secs_f64());
            streams.number(&catalog::PROCESS_CPU_TIME, [attribute(CPU_MODE, "system")], system.as_secs_f64());
        }
        #[allow(clippy::cast_precision_loss, reason = "a measure")]
        for (instrument, value) in [(&catalog::PROCESS_MEMORY, process::memory()), (&catalog::PROCESS_DESCRIPTORS, process::descriptors())]
        {
            if let Some(value) = value {
                streams.number(instrument, [], value as f64);
            }
        }
        streams.0
    }
}

fn outcome(record: &ConnectionRecord) -> usize {
    let outcome = match (&record.decision, record.is_success()) {
        (Some(decision), _) if !decision.allowed => Outcome::Denied,
        (_, true) => Outcome::Allowed,
        (_, false) => Outcome::Failed,
    };
    record.direction as usize * OUTCOMES.len() + outcome as usize
}

fn decided(direction: Direction, allowed: bool) -> usize {
    direction as usize * 2 + usize::from(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::AttributeValue;
    use std::collections::BTreeSet;
    use std::time::Instant;

    fn record(reason: Reason) -> ConnectionRecord {
        let mut record = ConnectionRecord::new(Direction::Inbound, ([127, 0, 0, 1], 1).into());
        record.reason = reason;
        record.stages.handshake = Some(sidegate_core::Lap { start: Instant::now(), took: Duration::from_millis(3) });
        record.decision = Some(sidegate_core::Decision::new(true, "r".into()));
        record
    }

    fn observed(metrics: &Metrics) {
        metrics.lag(1);
        metrics.observe(|| Observation {
            ready: true,
            svid_time_left: Some(60),
            bundles_time_left: vec![("a.b".into(), 600)],
            captured: Some(true),
            directory: Some((true, 3)),
            loads: vec![("policy", Some(Duration::from_secs(3)), 0)],
            buffered: (4096, 1 << 20),
            sources: vec![("files".into(), true)],
        });
    }

    /// The reference lists what is collected, with its attributes, and nothing else.
    #[test]
    fn the_catalog_is_what_is_collected() {
        let metrics = Metrics::new(&schema::Metrics::default());
        observed(&metrics);
        for reason in [Reason::Closed, Reason::Expired] {
            metrics.count(&record(reason));
            metrics.count_names(&record(reason));
        }
        metrics.handshake_failed(Direction::Inbound, Reason::Expired, Duration::from_millis(3));
        let streams = metrics.collect();
        let names: BTreeSet<&str> = streams.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, catalog::INSTRUMENTS.iter().map(|i| i.name).collect());
        for stream in &streams {
            for point in &stream.points {
                let keys: Vec<&str> = point.attributes.iter().map(|(key, _)| *key).collect();
                assert_eq!(keys, stream.instrument.attributes, "{}", stream.name);
                for (key, value) in &point.attributes {
                    let (_, kind, _) = catalog::METRIC_ATTRIBUTES.iter().find(|(name, _, _)| name == key).unwrap();
                    let boolean = matches!(value, AttributeValue::Boolean(_));
                    assert_eq!(*kind, if boolean { "boolean" } else { "string" }, "{key}");
                }
            }
        }
    }

    #[test]
    fn a_connection_counts_once_everywhere() {
        let metrics = Metrics::new(&schema::Metrics::default());
        metrics.handshake_failed(Direction::Inbound, Reason::Expired, Duration::from_millis(3));
        metrics.count(&record(Reason::Expired));
        metrics.count_unheard(&record(Reason::Expired));
        let sum = |name: &str| -> u64 {
            let points = metrics.collect().into_iter().filter(|s| s.name == name).flat_map(|s| s.points);
            points.map(|p| if let PointValue::Sum(n) = p.value { n } else { 0 }).sum()
        };
        for name in ["connections", "handshake.failures", "authorization.decisions", "peer.connections", "telemetry.dropped"] {
            assert_eq!(sum(&format!("sidegate.{name}")), 1, "{name}");
        }
    }
}
