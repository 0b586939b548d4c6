//! Exports connection records and events: metrics, traces, logs, the access log and the process's own log.
//!
//! ```text
//! worker: record -> metrics (atomics)
//!                -> queue -> access log thread -> standard output
//!                -> queue -> telemetry thread -> watchers of the admin API, the latest connections for the status page
//!                                             -> samplers -> one exporter a signal -> OTLP collector
//! tracing event -> filter, fold -> queue --^
//!                              -> queue -> a thread -> standard error
//! ```
//!
//! ```
//! use std::sync::Arc;
//!
//! use sidegate_config::schema::telemetry::Telemetry as Config;
//! use sidegate_core::{ConnectionRecord, Direction};
//! use sidegate_telemetry::{ScrapeFormat, Telemetry, TelemetryOptions};
//!
//! let (telemetry, writers) = Telemetry::start(TelemetryOptions::new(&Config::default()))?;
//! telemetry.record(Arc::new(ConnectionRecord::new(Direction::Inbound, ([10, 0, 0, 1], 40_000).into())));
//! assert!(telemetry.scrape(ScrapeFormat::Text).contains("sidegate_connections_total"));
//! drop(telemetry);
//! writers.join();
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! What it guarantees: nothing here makes the data plane wait; every queue is bounded, and what is dropped is counted by source and
//! cause; the number of series is bounded, whatever peers do.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod access_log;
mod attributes;
mod audit_lines;
mod bounded;
mod catalog;
mod events;
mod fold;
mod instruments;
mod log_filter;
mod logging;
mod logs;
mod metrics;
mod observation;
mod otlp;
mod pipeline;
mod process;
mod prometheus;
mod recent;
mod reference;
mod resource;
mod sampler;
mod spans;
mod stream;
mod text;
mod view;
mod wire;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sidegate_config::schema::LogFormat;
use sidegate_config::schema::telemetry::{self as schema, Signal};
use sidegate_core::{ConnectionRecord, event};
use tokio::sync::{broadcast, mpsc, watch};

pub use attributes::ATTRIBUTES;
pub use audit_lines::{AuditLine, AuditLines};
pub use catalog::{Cause, DropSource, INSTRUMENTS, Instrument, InstrumentKind, METRIC_ATTRIBUTES};
pub use events::{EventLayer, Events, events};
pub use fold::Fold;
pub use instruments::{Counter, Histogram, UpDownCounter};
pub use log_filter::{LogFilter, with_telemetry};
pub use logging::{LineFormat, Logging, start_logging};
pub use metrics::{Metrics, RuleHits};
pub use observation::Observation;
pub use otlp::TlsSource;
pub use process::descriptors;
pub use prometheus::ScrapeFormat;
pub use recent::RecentConnections;
pub use reference::reference;
pub use resource::{RESOURCE, Resource};
pub use spans::SPANS;
pub use text::line;
pub use view::unknown_attributes;

use attributes::AttributeBounds;
use otlp::export::ExportState;
use otlp::traces::SpanEncoder;
use pipeline::Pipeline;
use recent::Recent;

/// A few seconds of a busy data plane; at most about 8 MiB.
const QUEUE: usize = 8192;
/// How many finished connections a watcher may lag behind.
const WATCH: usize = 1024;
/// How long the shutdown waits for the last lines.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes the record of every finished connection.
#[derive(Debug)]
pub struct Telemetry {
    /// The instruments.
    pub metrics: Arc<Metrics>,
    /// The resource that all telemetry describes.
    pub resource: Arc<Resource>,
    log: Option<SyncSender<Arc<ConnectionRecord>>>,
    records: mpsc::Sender<Arc<ConnectionRecord>>,
    watchers: broadcast::Sender<Arc<ConnectionRecord>>,
    audit_lines: Option<AuditLines>,
    recent: Option<Arc<Recent>>,
    states: [Option<Arc<ExportState>>; 3],
}

/// How telemetry starts.
pub struct TelemetryOptions<'a> {
    /// Format of the access log on standard output.
    pub access_log: LogFormat,
    /// What is exported.
    pub config: &'a schema::Telemetry,
    /// fwmark of our own packets.
    pub mark: Option<u32>,
    /// Makes the TLS configuration for a collector.
    pub tls: Box<dyn Fn(&schema::Target) -> TlsSource + Send>,
    /// Events that are exported as log records.
    pub events: Option<Events>,
    /// The layer that folds repeated warnings.
    pub fold: Fold,
    /// Whether the latest connections are remembered, for [`Telemetry::recent`].
    pub remember: bool,
}

impl<'a> TelemetryOptions<'a> {
    /// Options without an access log, without events and without TLS towards collectors.
    #[must_use]
    pub fn new(config: &'a schema::Telemetry) -> Self {
        Self {
            access_log: LogFormat::Off,
            config,
            mark: None,
            tls: Box::new(|_| Arc::new(|| Err("there is no TLS towards collectors".to_owned()))),
            events: None,
            fold: Fold::default(),
            remember: false,
        }
    }
}

/// The threads that write and export; joined at the end, so that nothing is lost.
#[derive(Debug)]
pub struct Writers {
    log: Option<JoinHandle<()>>,
    telemetry: JoinHandle<()>,
    flush: Duration,
    /// The deadline of the shutdown, once it is known.
    end: watch::Sender<Option<Instant>>,
}

/// How the export of a signal is doing.
#[derive(Debug, Clone)]
pub struct ExportStatus {
    /// Which signal.
    pub signal: Signal,
    /// Where it goes; none if it is not exported.
    pub target: Option<String>,
    /// Why it fails at the moment.
    pub error: Option<String>,
    /// Items that the collector has accepted.
    pub exported: u64,
    /// Items that were lost, for any cause.
    pub dropped: u64,
}

impl Telemetry {
    /// Starts the threads.
    ///
    /// # Errors
    /// If a thread or runtime can't be started, or OpenTelemetry's exporter can't be built.
    pub fn start(options: TelemetryOptions<'_>) -> std::io::Result<(Self, Writers)> {
        let metrics = Arc::new(Metrics::new(&options.config.metrics));
        if let Some(events) = &options.events {
            metrics.count_lost_events(events.1.clone());
        }
        let (log, log_thread) = match access_log::Format::of(options.access_log) {
            None => (None, None),
            Some(format) => {
                let (sender, receiver) = sync_channel(QUEUE);
                let metrics = metrics.clone();
                let write = move || access_log::write(format, &receiver, &metrics);
                let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(write)?;
                (Some(sender), Some(thread))
            }
        };
        let resource = Arc::new(Resource::new(options.config, |name| std::env::var(name).ok()));
        let states = Signal::ALL.map(|signal| options.config.target(signal).map(|target| ExportState::new(&target)));
        let traces = states[Signal::Traces as usize]
            .is_some()
            .then(|| SpanEncoder::new(resource.clone(), AttributeBounds::from(&options.config.traces.attribute_limits)));
        let traces = traces.transpose().map_err(std::io::Error::other)?;
        let (records, receiver) = mpsc::channel(QUEUE);
        let (watchers, _) = broadcast::channel(WATCH);
        let (end, known_end) = watch::channel(None);
        let recent = options.remember.then(Arc::<Recent>::default);
        let (lines, audit_lines) = mpsc::channel(audit_lines::QUEUE);
        let pipeline = Pipeline {
            records: receiver,
            events: options.events,
            audit_lines,
            metrics: metrics.clone(),
            resource: resource.clone(),
            watchers: watchers.clone(),
            recent: recent.clone(),
            fold: options.fold,
            end: known_end,
            states: states.clone(),
            traces,
            complained: 0,
        };
        let (config, mark, tls) = (options.config.clone(), options.mark, options.tls);
        let flush = config.flush.duration();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let telemetry = std::thread::Builder::new().name("telemetry".to_owned()).spawn(move || {
            runtime.block_on(pipeline.run(&config, mark, tls));
            // A pending name lookup does not delay the shutdown.
            runtime.shutdown_background();
        })?;
        let exports_logs = states[Signal::Logs as usize].is_some();
        let audit_lines = exports_logs.then(|| AuditLines { lines, _records: records.clone() });
        Ok((
            Self { metrics, resource, log, records, watchers, audit_lines, recent, states },
            Writers { log: log_thread, telemetry, flush, end },
        ))
    }

    /// Takes a finished connection's record. Never blocks.
    pub fn record(&self, record: Arc<ConnectionRecord>) {
        self.metrics.count(&record);
        if let Some(log) = &self.log
            && log.try_send(record.clone()).is_err()
        {
            self.metrics.dropped(DropSource::AccessLog, Cause::QueueFull).inc();
        }
        if let Err(mpsc::error::TrySendError::Full(record) | mpsc::error::TrySendError::Closed(record)) = self.records.try_send(record) {
            self.metrics.count_unheard(&record);
        }
    }

    /// How many finished connections wait for the telemetry thread.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.records.max_capacity() - self.records.capacity()
    }

    /// Takes records of the audit log, if log records are exported at all.
    #[must_use]
    pub fn audit_lines(&self) -> Option<AuditLines> {
        self.audit_lines.clone()
    }

    /// Connections that end from now on. A slow receiver learns how many it missed.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Arc<ConnectionRecord>> {
        self.watchers.subscribe()
    }

    /// The latest connections; none if they are not remembered.
    #[must_use]
    pub fn recent(&self) -> Option<RecentConnections> {
        self.recent.as_ref().map(|recent| recent.all())
    }

    /// Everything in a text format for Prometheus.
    #[must_use]
    pub fn scrape(&self, format: ScrapeFormat) -> String {
        self.metrics.scrape(format, &self.resource.pairs())
    }

    /// How the export of each signal is doing.
    #[must_use]
    pub fn exports(&self) -> Vec<ExportStatus> {
        let status = |signal: Signal| {
            let state = self.states[signal as usize].as_ref();
            ExportStatus {
                signal,
                target: state.map(|s| s.target.clone()),
                error: state.and_then(|s| s.error()),
                exported: self.metrics.exported(signal).get(),
                dropped: self.metrics.dropped_in_all(signal.into()),
            }
        };
        Signal::ALL.into_iter().map(status).collect()
    }
}

impl Writers {
    /// Sets the deadline of the shutdown. The last items are exported before it, even if a [`Telemetry`] is still held.
    pub fn end_by(&self, until: Instant) {
        self.end.send_replace(Some(until));
    }

    /// Waits until everything is written and exported, but not forever: a reader may have stopped reading. Call it after the last
    /// [`Telemetry`] is dropped.
    pub fn join(self) {
        let threads = [
            (self.log, JOIN_TIMEOUT, "nobody reads the access log; its last lines are lost"),
            (Some(self.telemetry), self.flush + JOIN_TIMEOUT, "the telemetry thread does not end; what it had is lost"),
        ];
        let start = Instant::now();
        let until = *self.end.borrow();
        let is_over = |patience| start.elapsed() >= patience || until.is_some_and(|until| Instant::now() >= until);
        for (thread, patience, complaint) in threads {
            let Some(thread) = thread else { continue };
            while !thread.is_finished() && !is_over(patience) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                tracing::warn!(event = event::TELEMETRY_LOST, "{complaint}");
            }
        }
    }
}
