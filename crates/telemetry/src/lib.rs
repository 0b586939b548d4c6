//! Connection records on their way out: metrics counted at once, the access log written by a thread of its own.
//!
//! Nothing here makes the data plane wait. A record that finds the log's queue full is counted and dropped.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod access_log;
mod metrics;
mod text;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sidegate_config::schema::LogFormat;
use sidegate_core::ConnectionRecord;

pub use metrics::{METRICS, Metrics};
pub use text::{duration, line};

/// Some seconds of a busy data plane; about 4 MiB at the worst.
const QUEUE: usize = 8192;
/// How long the end waits for the last lines.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where every finished connection reports.
#[derive(Debug)]
pub struct Telemetry {
    /// The instruments.
    pub metrics: Metrics,
    log: Option<SyncSender<Box<ConnectionRecord>>>,
    warned: AtomicBool,
}

/// The thread that writes the access log; joined at the end, so that no line is lost.
#[derive(Debug)]
pub struct LogWriter(Option<JoinHandle<()>>);

impl Telemetry {
    /// Starts the access log in `format` on standard output.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(format: LogFormat) -> std::io::Result<(Self, LogWriter)> {
        let (log, writer) = match access_log::Format::of(format) {
            None => (None, None),
            Some(format) => {
                let (sender, receiver) = sync_channel(QUEUE);
                let thread =
                    std::thread::Builder::new().name("access-log".to_owned()).spawn(move || access_log::write(format, &receiver))?;
                (Some(sender), Some(thread))
            }
        };
        Ok((Self { metrics: Metrics::new(), log, warned: AtomicBool::new(false) }, LogWriter(writer)))
    }

    /// Takes a finished connection's record. Never blocks.
    pub fn record(&self, record: Box<ConnectionRecord>) {
        self.metrics.count(&record);
        let Some(log) = &self.log else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = log.try_send(record) {
            self.metrics.log_dropped.inc();
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "the access log can't keep up, or nobody reads it; lines are dropped and counted in sidegate_telemetry_dropped_total"
                );
            }
        }
    }
}

impl LogWriter {
    /// Waits until every line is written, but not for ever: whoever should read them may have stopped reading. To be
    /// called after the last [`Telemetry`] is gone.
    pub fn join(mut self) {
        let Some(thread) = self.0.take() else { return };
        let deadline = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            if Instant::now() > deadline {
                return tracing::warn!("nobody reads the access log; its last lines are lost");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = thread.join();
    }
}
