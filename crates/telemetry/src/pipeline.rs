//! The telemetry thread: passes finished connections and events to watchers and exporters. It never makes the data plane wait.

use std::sync::Arc;
use std::time::Duration;

use sidegate_config::schema::telemetry::{self as schema, Signal};
use sidegate_core::{ConnectionRecord, event};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::attributes::AttributeBounds;
use crate::audit_lines::AuditLine;
use crate::catalog::{Cause, DropSource};
use crate::events::Events;
use crate::fold::Fold;
use crate::logs::LogEntry;
use crate::metrics::Metrics;
use crate::otlp::export::{self, ExportState, Exporter};
use crate::otlp::{self, TlsSource};
use crate::recent::Recent;
use crate::resource::Resource;
use crate::sampler::{Choice, Failures, TraceSampler};
use crate::spans;

/// After the first record the thread waits for more, so that a busy data plane wakes it fifty times a second and not with each connection.
pub(crate) const LINGER: Duration = Duration::from_millis(20);
/// At most this many records are handled before other work gets its turn.
const AT_ONCE: usize = 1024;
const TICK: Duration = Duration::from_secs(10);
/// After this many ticks the series are rebalanced.
const REBALANCE: u64 = 6;

/// How long before its deadline the thread reports what is lost.
const TELL: Duration = Duration::from_millis(100);

/// Returns when no more records may be taken, so that the queued ones can be exported before the deadline.
async fn last_call(end: &mut watch::Receiver<Option<std::time::Instant>>, flush: Duration) {
    let known = end.wait_for(Option::is_some).await.ok().and_then(|end| *end);
    let Some(end) = known else { return std::future::pending().await };
    let left = end.saturating_duration_since(std::time::Instant::now());
    sleep(left - flush.min(left / 2)).await;
}

/// What the thread needs.
pub(crate) struct Pipeline {
    pub(crate) records: mpsc::Receiver<Arc<ConnectionRecord>>,
    pub(crate) events: Option<Events>,
    pub(crate) audit_lines: mpsc::Receiver<AuditLine>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) watchers: broadcast::Sender<Arc<ConnectionRecord>>,
    /// The latest connections, if somebody wants to see them.
    pub(crate) recent: Option<Arc<Recent>>,
    pub(crate) fold: Fold,
    /// The deadline of the thread, once it is known.
    pub(crate) end: watch::Receiver<Option<std::time::Instant>>,
    pub(crate) states: [Option<Arc<ExportState>>; 3],
    /// The encoder of traces, if they are exported.
    pub(crate) traces: Option<otlp::traces::SpanEncoder>,
    /// How many lost lines of the access log have been reported.
    pub(crate) complained: u64,
}

/// The queues to the exporters, with the samplers that choose what enters them.
struct ExportQueues {
    traces: Option<(mpsc::Sender<Arc<ConnectionRecord>>, TraceSampler, Arc<ExportState>)>,
    logs: Option<(mpsc::Sender<LogEntry>, Failures, Arc<ExportState>)>,
    access_log: bool,
    exemplars: schema::Exemplars,
}

impl Pipeline {
    /// Runs until the last sender of records is gone and the rest has been exported, or until `config.flush` has passed.
    pub(crate) async fn run(mut self, config: &schema::Telemetry, mark: Option<u32>, tls: impl Fn(&schema::Target) -> TlsSource) {
        let (close, closing) = watch::channel(false);
        let mut exporters = JoinSet::new();
        let mut queues = self.start(config, mark, &tls, &closing, &mut exporters);
        let mut ticks = interval(TICK);
        let mut tick = 0u64;
        let mut gathered = Vec::new();
        let flush = config.flush.duration();
        let mut end = self.end.clone();
        let last_call = last_call(&mut end, flush);
        tokio::pin!(last_call);
        loop {
            tokio::select! {
                () = &mut last_call => break,
                some = self.records.recv_many(&mut gathered, AT_ONCE) => {
                    if some == 0 {
                        break;
                    }
                    let now = Instant::now().into_std();
                    for record in gathered.drain(..) {
                        self.take(record, &mut queues, now);
                    }
                    if self.records.is_empty() {
                        sleep(LINGER).await;
                    } else {
                        // The exporters take their items before more are queued.
                        tokio::task::yield_now().await;
                    }
                }
                Some(event) = next_event(&mut self.events) => queues.log(&self.metrics, LogEntry::Event(event)),
                Some(line) = self.audit_lines.recv() => queues.log(&self.metrics, LogEntry::Audit(line)),
                _ = ticks.tick() => {
                    self.fold.tell();
                    self.complain();
                    tick += 1;
                    if tick.is_multiple_of(REBALANCE) {
                        self.metrics.rebalance();
                    }
                }
            }
        }
        self.fold.tell();
        while let Some(event) = self.events.as_mut().and_then(|events| events.0.try_recv().ok()) {
            queues.log(&self.metrics, LogEntry::Event(event));
        }
        while let Ok(line) = self.audit_lines.try_recv() {
            queues.log(&self.metrics, LogEntry::Audit(line));
        }
        drop(queues);
        close.send_replace(true);
        let all = async { while exporters.join_next().await.is_some() {} };
        let left = self.end.borrow().map_or(flush, |end| end.saturating_duration_since(std::time::Instant::now()).saturating_sub(TELL));
        if timeout(flush.min(left), all).await.is_err() {
            exporters.abort_all();
            for (signal, state) in Signal::ALL.into_iter().zip(&self.states) {
                let lost = state.as_ref().map_or(0, |state| state.pending());
                if lost > 0 {
                    self.metrics.dropped(signal.into(), Cause::Shutdown).add(lost);
                    let signal = signal.label();
                    tracing::warn!(event = event::TELEMETRY_LOST, signal, lost, "{lost} items of {signal} were not exported in time");
                }
            }
        }
    }

    fn start(
        &mut self,
        config: &schema::Telemetry,
        mark: Option<u32>,
        tls: &impl Fn(&schema::Target) -> TlsSource,
        closing: &watch::Receiver<bool>,
        exporters: &mut JoinSet<()>,
    ) -> ExportQueues {
        let exporter = |signal: Signal| {
            let (target, state) = (config.target(signal)?, self.states[signal as usize].clone()?);
            let tls = tls(&target);
            let exporter = Exporter::new(signal, target, mark, tls, self.metrics.clone(), state.clone(), closing.clone());
            Some((exporter, state))
        };
        let room = |batch: &schema::Batch| usize::try_from(batch.queue).unwrap_or(usize::MAX);
        let traces = exporter(Signal::Traces).zip(self.traces.take()).map(|((exporter, state), mut encoder)| {
            let (sender, queue) = mpsc::channel(room(&config.traces.batch));
            let encode = move |some: &[Arc<ConnectionRecord>]| encoder.encode(some);
            exporters.spawn(export::run(queue, config.traces.batch.clone(), exporter, |record| spans::count(record), encode));
            (sender, TraceSampler::new(&config.traces), state)
        });
        let logs = exporter(Signal::Logs).map(|(exporter, state)| {
            let (sender, queue) = mpsc::channel(room(&config.logs.batch));
            let resource = self.resource.clone();
            let limits = AttributeBounds::from(&config.logs.attribute_limits);
            let encode = move |some: &[LogEntry]| Ok(otlp::logs(some, limits, &resource));
            exporters.spawn(export::run(queue, config.logs.batch.clone(), exporter, |_| 1, encode));
            (sender, Failures::new(config.logs.failures_per_second), state)
        });
        if let Some((exporter, _)) = exporter(Signal::Metrics) {
            let encoder = otlp::metrics::MetricsEncoder::new(config.metrics.temporality, self.resource.clone());
            exporters.spawn(export::run_metrics(self.metrics.clone(), config.metrics.interval.duration(), exporter, encoder));
        }
        ExportQueues { traces, logs, access_log: config.logs.access_log, exemplars: config.metrics.exemplars }
    }

    /// Reports lost lines of the access log. Not where the loss happens, since that is on a worker.
    fn complain(&mut self) {
        let lost = self.metrics.dropped(DropSource::AccessLog, Cause::QueueFull).get();
        if lost > self.complained {
            let more = lost - self.complained;
            self.complained = lost;
            tracing::warn!(
                event = event::TELEMETRY_LOST,
                more,
                "the access log can't keep up, or nobody reads it; lines that were dropped: {more}"
            );
        }
    }

    /// A finished connection.
    fn take(&self, record: Arc<ConnectionRecord>, queues: &mut ExportQueues, now: std::time::Instant) {
        self.metrics.count_names(&record);
        if self.watchers.receiver_count() > 0 {
            // A slow watcher learns how many it missed.
            let _ = self.watchers.send(record.clone());
        }
        if let Some(recent) = &self.recent {
            recent.add(&record);
        }
        let mut sampled = false;
        if let Some((queue, sampler, state)) = &mut queues.traces {
            let count = spans::count(&record);
            match sampler.choose(&record, now) {
                Choice::Export => match queue.try_send(record.clone()) {
                    Ok(()) => {
                        sampled = true;
                        state.hand_over(count);
                    }
                    Err(_) => self.metrics.dropped(DropSource::Traces, Cause::QueueFull).add(count),
                },
                Choice::TooMany => self.metrics.dropped(DropSource::Traces, Cause::RateLimited).add(count),
                Choice::Leave => {}
            }
        }
        let is_exemplar = match queues.exemplars {
            schema::Exemplars::TraceBased => sampled,
            schema::Exemplars::AlwaysOn => true,
            schema::Exemplars::AlwaysOff => false,
        };
        if is_exemplar {
            self.metrics.exemplify(&record);
        }
        if queues.access_log {
            if let Some((_, failures, _)) = &mut queues.logs
                && !record.is_success()
                && !failures.take(record.reason, now)
            {
                self.metrics.dropped(DropSource::Logs, Cause::RateLimited).inc();
                return;
            }
            queues.log(&self.metrics, LogEntry::Connection(record, sampled));
        }
    }
}

impl ExportQueues {
    fn log(&self, metrics: &Metrics, entry: LogEntry) {
        let Some((queue, _, state)) = &self.logs else { return };
        match queue.try_send(entry) {
            Ok(()) => state.hand_over(1),
            Err(_) => metrics.dropped(DropSource::Logs, Cause::QueueFull).inc(),
        }
    }
}

/// The next event; waits forever if events are not exported.
async fn next_event(events: &mut Option<Events>) -> Option<Box<crate::logs::LoggedEvent>> {
    match events {
        Some(events) => events.0.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use sidegate_config::schema::telemetry::Exemplars;
    use sidegate_config::value::{Collector, Span};
    use sidegate_core::{Direction, Reason};

    use super::*;
    use crate::{Telemetry, TelemetryOptions};

    /// Whether a finished connection is an exemplar of its duration. There is no collector: the choice is made before the export.
    fn is_exemplar(exemplars: Exemplars, exports: bool, ratio: f64) -> bool {
        let mut config = schema::Telemetry { flush: Span::parse("0s").unwrap(), ..schema::Telemetry::default() };
        config.metrics.exemplars = exemplars;
        config.traces.sampler.ratio = ratio;
        config.otlp.endpoint = exports.then(|| Collector::parse("unix:///nowhere.sock").unwrap());
        let (telemetry, writers) = Telemetry::start(TelemetryOptions::new(&config)).unwrap();
        let metrics = telemetry.metrics.clone();
        let mut record = ConnectionRecord::new(Direction::Inbound, (Ipv4Addr::LOCALHOST, 1).into());
        record.reason = Reason::Closed;
        telemetry.record(Arc::new(record));
        // When the thread has ended, it has taken the record.
        drop(telemetry);
        writers.join();
        let scrape = metrics.scrape(crate::prometheus::ScrapeFormat::OpenMetrics, &[]);
        assert!(scrape.contains("sidegate_connection_duration_seconds_count{sidegate_direction=\"inbound\"} 1\n"), "{scrape}");
        scrape.contains("# {trace_id=")
    }

    #[test]
    fn exemplars_are_as_configured() {
        assert!(is_exemplar(Exemplars::TraceBased, true, 1.0));
        assert!(!is_exemplar(Exemplars::TraceBased, true, 0.0));
        assert!(!is_exemplar(Exemplars::TraceBased, false, 1.0));
        assert!(is_exemplar(Exemplars::AlwaysOn, true, 0.0));
        assert!(is_exemplar(Exemplars::AlwaysOn, false, 1.0));
        assert!(!is_exemplar(Exemplars::AlwaysOff, true, 1.0));
    }
}
