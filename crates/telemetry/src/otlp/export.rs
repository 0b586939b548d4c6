//! The export of one signal: gathers what comes, sends it, tries again, and counts what is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use sidegate_config::schema::telemetry::{Batch, Signal, Target};
use sidegate_core::{event, printable};
use sidegate_net::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::transport::{CollectorTransport, TlsSource};
use crate::catalog::Cause;
use crate::metrics::Metrics;

const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MOST: Duration = Duration::from_secs(30);
const WAIT_AT_THE_END: Duration = Duration::from_millis(200);
/// After so long a batch makes room for newer ones.
const RETRY_FOR: Duration = Duration::from_secs(60);
/// A collector that wants to be left alone for longer is asked again after this time.
const QUIET_MOST: Duration = Duration::from_secs(300);

/// How the export of a signal is doing.
#[derive(Debug)]
pub(crate) struct ExportState {
    pub(crate) target: String,
    /// Why it fails at the moment.
    error: Mutex<Option<String>>,
    /// What has been handed over and not been dealt with.
    pending: AtomicU64,
}

impl ExportState {
    pub(crate) fn new(target: &Target) -> Arc<Self> {
        Arc::new(Self { target: target.address.to_string(), error: Mutex::default(), pending: AtomicU64::new(0) })
    }

    pub(crate) fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    pub(crate) fn hand_over(&self, items: u64) {
        self.pending.fetch_add(items, Ordering::Relaxed);
    }
}

/// Sends the encoded requests of one signal.
pub(crate) struct Exporter {
    signal: Signal,
    transport: CollectorTransport,
    metrics: Arc<Metrics>,
    state: Arc<ExportState>,
    /// Until when the collector wants to be left alone.
    quiet_until: Option<Instant>,
    /// True once the process ends.
    pub(crate) closing: watch::Receiver<bool>,
}

impl Exporter {
    pub(crate) fn new(
        signal: Signal,
        target: Target,
        mark: Option<u32>,
        tls: TlsSource,
        metrics: Arc<Metrics>,
        state: Arc<ExportState>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self { signal, transport: CollectorTransport::new(signal, target, mark, tls), metrics, state, quiet_until: None, closing }
    }

    fn drop(&self, cause: Cause, items: u64) {
        self.metrics.dropped(self.signal.into(), cause).add(items);
    }

    /// Waits for as long as the collector wants to be left alone.
    async fn wait_until_asked_again(&mut self) {
        if let Some(until) = self.quiet_until {
            sleep_until(until).await;
            self.quiet_until = None;
        }
    }

    /// Sends `body`, which holds `items`, and tries again for a while. Whether it arrived.
    pub(crate) async fn deliver(&mut self, body: Bytes, items: u64) -> bool {
        let since = Instant::now();
        let mut give_up = since + RETRY_FOR;
        let mut waits = Backoff::new(WAIT_FIRST);
        let arrived = loop {
            let failure = match self.transport.send(body.clone()).await {
                Ok(answer) => {
                    self.metrics.exports(self.signal, true).inc();
                    self.succeeded(&answer, items);
                    break true;
                }
                Err(failure) => failure,
            };
            self.metrics.exports(self.signal, false).inc();
            self.failed(&failure.message);
            let now = Instant::now();
            self.quiet_until = failure.after.map(|after| now + after.min(QUIET_MOST));
            // Who asks for time gets this batch afterwards.
            give_up = give_up.max(self.quiet_until.map_or(now, |until| until.min(since + QUIET_MOST)));
            if !failure.retry || now >= give_up || self.quiet_until.is_some_and(|until| until > give_up) {
                self.drop(if failure.retry { Cause::ExportFailed } else { Cause::Rejected }, items);
                break false;
            }
            let backoff = waits.next(WAIT_MOST);
            if let Some(until) = self.quiet_until {
                // Not all of those who were given one time come at that moment. At the end too it is waited for: the flush ends this task
                // where that takes too long, and counts what is left.
                sleep_until((until + backoff / 4).max(now + backoff)).await;
                self.quiet_until = None;
            } else if *self.closing.borrow() {
                // As often as the flush leaves time for.
                sleep(WAIT_AT_THE_END).await;
            } else {
                let _ = timeout(backoff.min(give_up - now), self.closing.wait_for(|closing| *closing)).await;
            }
        };
        self.state.pending.fetch_sub(items, Ordering::Relaxed);
        arrived
    }

    /// Counts `items` that no request could be made of.
    fn unencoded(&self, items: u64, why: &str) {
        self.failed(&format!("they can't be encoded: {why}"));
        self.drop(Cause::ExportFailed, items);
        self.state.pending.fetch_sub(items, Ordering::Relaxed);
    }

    fn succeeded(&self, answer: &[u8], items: u64) {
        let was_failing = self.state.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (signal, target) = (self.signal.label(), &self.state.target);
        if was_failing.is_some() {
            tracing::info!(event = event::EXPORT_RECOVERED, signal, collector = target, "{signal} reach {target} again");
        }
        let (rejected, message) = rejected(self.signal, answer);
        let rejected = rejected.min(items);
        self.metrics.exported(self.signal).add(items - rejected);
        self.drop(Cause::Rejected, rejected);
        // A message alone is a warning (OTLP specification, "Partial Success").
        if rejected > 0 || !message.is_empty() {
            let message = printable(&message);
            tracing::warn!(
                event = event::EXPORT_FAILING,
                signal,
                collector = target,
                rejected,
                "{target} refused {rejected} items of {signal}: {message}"
            );
        }
    }

    fn failed(&self, message: &str) {
        let before = self.state.error.lock().unwrap_or_else(PoisonError::into_inner).replace(message.to_owned());
        let (signal, target) = (self.signal.label(), &self.state.target);
        // Not each time: what changes is news.
        if before.as_deref() != Some(message) {
            tracing::warn!(event = event::EXPORT_FAILING, signal, collector = target, "{signal} don't reach {target}: {message}");
        }
    }
}

/// How much of a request that arrived was refused, and why (OTLP specification, "Partial Success").
fn rejected(signal: Signal, answer: &[u8]) -> (u64, String) {
    let partial = match signal {
        Signal::Traces => {
            ExportTraceServiceResponse::decode(answer).ok().and_then(|r| r.partial_success).map(|p| (p.rejected_spans, p.error_message))
        }
        Signal::Metrics => ExportMetricsServiceResponse::decode(answer)
            .ok()
            .and_then(|r| r.partial_success)
            .map(|p| (p.rejected_data_points, p.error_message)),
        Signal::Logs => ExportLogsServiceResponse::decode(answer)
            .ok()
            .and_then(|r| r.partial_success)
            .map(|p| (p.rejected_log_records, p.error_message)),
    };
    partial.map_or((0, String::new()), |(count, message)| (u64::try_from(count).unwrap_or(0), message))
}

/// Sends what comes out of `queue` until it is closed and empty; `encode` makes a request of some, and each makes `items`
/// of the signal.
pub(crate) async fn run<T>(
    mut queue: mpsc::Receiver<T>,
    batch: Batch,
    mut exporter: Exporter,
    items: impl Fn(&T) -> u64,
    mut encode: impl FnMut(&[T]) -> Result<Bytes, String>,
) {
    let size = usize::try_from(batch.size).unwrap_or(usize::MAX);
    let mut gathered = Vec::new();
    let mut closing = exporter.closing.clone();
    while queue.recv_many(&mut gathered, size).await > 0 {
        let until = sleep_until(Instant::now() + batch.delay.duration());
        tokio::pin!(until);
        while gathered.len() < size {
            let room = size - gathered.len();
            tokio::select! {
                biased;
                more = queue.recv_many(&mut gathered, room) => if more == 0 { break },
                () = &mut until => break,
                _ = closing.wait_for(|closing| *closing) => {
                    // What is there already goes with it.
                    while gathered.len() < size && let Ok(more) = queue.try_recv() {
                        gathered.push(more);
                    }
                    break;
                }
            }
        }
        exporter.wait_until_asked_again().await;
        let (body, count) = (encode(&gathered), gathered.iter().map(&items).sum());
        gathered.clear();
        match body {
            Ok(body) => {
                exporter.deliver(body, count).await;
            }
            Err(why) => exporter.unencoded(count, &why),
        }
    }
}

/// Sends the state of all instruments every `interval`, and at the end.
pub(crate) async fn run_metrics(
    metrics: Arc<Metrics>,
    interval: Duration,
    mut exporter: Exporter,
    mut encoder: super::metrics::MetricsEncoder,
) {
    loop {
        let last = tokio::select! {
            () = sleep(interval) => false,
            _ = exporter.closing.wait_for(|closing| *closing) => true,
        };
        let mut closing = exporter.closing.clone();
        let last = last
            || tokio::select! {
                () = exporter.wait_until_asked_again() => false,
                _ = closing.wait_for(|closing| *closing) => true,
            };
        let (body, points) = encoder.encode(&metrics);
        exporter.state.hand_over(points);
        // The last ones wait too, counted.
        exporter.wait_until_asked_again().await;
        if exporter.deliver(body, points).await {
            encoder.arrived();
        }
        if last {
            return;
        }
    }
}
