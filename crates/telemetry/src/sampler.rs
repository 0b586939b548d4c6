//! Chooses the connections to export: a sample of the successful ones, and a limited rate of failed ones for each reason. Only
//! the telemetry thread uses it.

use std::time::Instant;

use sidegate_config::schema::telemetry as schema;
use sidegate_core::{ConnectionRecord, Reason, SpiffeId, SpiffeIdPattern};

/// The choice for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Export,
    /// It was not sampled, and does not count as dropped.
    Leave,
    /// It failed, and is beyond the rate.
    TooMany,
}

/// A rate a second, with bursts of the same size.
#[derive(Debug)]
struct Rate {
    per_second: u32,
    left: f64,
    last: Instant,
}

impl Rate {
    fn new(per_second: u32) -> Self {
        Self { per_second, left: f64::from(per_second), last: Instant::now() }
    }

    fn take(&mut self, now: Instant) -> bool {
        let most = f64::from(self.per_second);
        self.left = (self.left + now.saturating_duration_since(self.last).as_secs_f64() * most).min(most);
        self.last = now;
        let free = self.left >= 1.0;
        if free {
            self.left -= 1.0;
        }
        free
    }
}

/// Failures, each reason with a rate of its own.
#[derive(Debug)]
pub(crate) struct Failures(Vec<Rate>);

impl Failures {
    pub(crate) fn new(per_second: u32) -> Self {
        Self(Reason::ALL.iter().map(|_| Rate::new(per_second)).collect())
    }

    pub(crate) fn take(&mut self, reason: Reason, now: Instant) -> bool {
        self.0[reason as usize].take(now)
    }
}

/// A fraction of connections, at a limited rate.
#[derive(Debug)]
struct Part {
    ratio: f64,
    /// None for no bound.
    rate: Option<Rate>,
}

impl Part {
    fn new(ratio: f64, per_second: u32) -> Self {
        Self { ratio, rate: (per_second > 0).then(|| Rate::new(per_second)) }
    }

    fn take(&mut self, trace_id: [u8; 16], now: Instant) -> bool {
        is_in_ratio(trace_id, self.ratio) && self.rate.as_mut().is_none_or(|rate| rate.take(now))
    }
}

/// By the trace ID's last 56 bits, which are random (W3C Trace Context level 2 §3.2.2.3), as a collector that samples
/// consistently chooses too: the most random are kept (OpenTelemetry, probability sampling).
fn is_in_ratio(trace_id: [u8; 16], ratio: f64) -> bool {
    let randomness = trace_id[9..].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    #[allow(clippy::cast_precision_loss, reason = "a part of a whole")]
    let part = randomness as f64 / (1u64 << 56) as f64;
    part >= 1.0 - ratio
}

/// Chooses the traces to export.
#[derive(Debug)]
pub(crate) struct TraceSampler {
    failures: Failures,
    otherwise: Part,
    peers: Vec<(Vec<SpiffeIdPattern>, Part)>,
}

impl TraceSampler {
    pub(crate) fn new(config: &schema::Traces) -> Self {
        let peers = config
            .sampler
            .peers
            .iter()
            .map(|peer| (peer.spiffe_ids.iter().map(|id| id.get().clone()).collect(), Part::new(peer.ratio, peer.per_second)));
        Self {
            failures: Failures::new(config.failures_per_second),
            otherwise: Part::new(config.sampler.ratio, config.sampler.per_second),
            peers: peers.collect(),
        }
    }

    pub(crate) fn choose(&mut self, record: &ConnectionRecord, now: Instant) -> Choice {
        if !record.is_success() {
            return if self.failures.take(record.reason, now) { Choice::Export } else { Choice::TooMany };
        }
        let peer = record.peer.id().filter(|_| !self.peers.is_empty()).and_then(|id| SpiffeId::new(&**id).ok());
        let own = peer.and_then(|id| self.peers.iter_mut().find(|(ids, _)| ids.iter().any(|pattern| pattern.matches(&id))));
        let part = own.map_or(&mut self.otherwise, |(_, part)| part);
        if part.take(record.trace().bytes(), now) { Choice::Export } else { Choice::Leave }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidegate_config::value::IdPattern;
    use sidegate_core::Direction;
    use std::time::Duration;

    fn record(peer: &str, reason: Reason) -> ConnectionRecord {
        let mut record = ConnectionRecord::new(Direction::Inbound, ([127, 0, 0, 1], 1).into());
        record.peer = crate::attributes::tests::peer(peer);
        record.reason = reason;
        record
    }

    fn chosen(sampler: &mut TraceSampler, peer: &str, reason: Reason, count: usize, now: Instant) -> usize {
        (0..count).filter(|_| sampler.choose(&record(peer, reason), now) == Choice::Export).count()
    }

    #[test]
    fn successes_are_sampled_by_ratio_rate_and_peer() {
        let mut config = schema::Traces::default();
        config.sampler.ratio = 0.25;
        config.sampler.per_second = 0;
        let peer = |id: &str, ratio, per_second| schema::PeerSampler { spiffe_ids: vec![IdPattern::parse(id).unwrap()], ratio, per_second };
        config.sampler.peers = vec![peer("spiffe://a.b/health", 0.0, 0), peer("spiffe://a.b/bank/**", 1.0, 5)];
        let mut sampler = TraceSampler::new(&config);
        let now = Instant::now();
        let part = chosen(&mut sampler, "spiffe://a.b/web", Reason::Closed, 4000, now);
        assert!((800..1200).contains(&part), "{part}");
        assert_eq!(chosen(&mut sampler, "spiffe://a.b/health", Reason::Closed, 100, now), 0);
        assert_eq!(chosen(&mut sampler, "spiffe://a.b/bank/x", Reason::Closed, 100, now), 5);
        assert_eq!(chosen(&mut sampler, "spiffe://a.b/bank/x", Reason::Closed, 100, now + Duration::from_millis(600)), 3);
    }

    #[test]
    fn failures_have_a_rate_for_each_reason() {
        let config = schema::Traces { failures_per_second: 2, ..schema::Traces::default() };
        let mut sampler = TraceSampler::new(&config);
        let now = Instant::now();
        for reason in [Reason::Expired, Reason::DeniedByDefault] {
            assert_eq!(chosen(&mut sampler, "spiffe://a.b/web", reason, 50, now), 2);
        }
        assert_eq!(sampler.choose(&record("spiffe://a.b/x", Reason::Expired), now), Choice::TooMany);
        assert_eq!(chosen(&mut sampler, "spiffe://a.b/web", Reason::Expired, 50, now + Duration::from_secs(60)), 2);
    }
}
