//! The access log: one line for each connection, on standard output.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use sidegate_config::schema::LogFormat;
use sidegate_core::ConnectionRecord;

use crate::catalog::{Cause, Way};
use crate::metrics::Metrics;
use crate::pipeline::LINGER;
use crate::text;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Text,
}

impl Format {
    pub(crate) fn of(format: LogFormat) -> Option<Self> {
        match format {
            LogFormat::Off => None,
            LogFormat::Json => Some(Self::Json),
            LogFormat::Text => Some(Self::Text),
            LogFormat::Auto if io::stdout().is_terminal() => Some(Self::Text),
            LogFormat::Auto => Some(Self::Json),
        }
    }
}

/// Writes until the last sender is gone. Flushes whenever the queue is empty, so that no line waits for long; then waits
/// a little for others, so that a busy data plane does not wake this thread with each connection.
pub(crate) fn write(format: Format, records: &Receiver<Arc<ConnectionRecord>>, metrics: &Metrics) {
    let mut out = BufWriter::with_capacity(64 * 1024, io::stdout());
    loop {
        let record = match records.try_recv() {
            Ok(record) => record,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                if out.flush().is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
                    return;
                }
                match records.recv() {
                    Ok(record) => {
                        std::thread::sleep(LINGER);
                        record
                    }
                    Err(_) => break,
                }
            }
        };
        let written = match format {
            Format::Json => serde_json::to_writer(&mut out, &*record).map_err(io::Error::from).and_then(|()| out.write_all(b"\n")),
            Format::Text => writeln!(out, "{}", text::line(&record)),
        };
        // A full disk may have room again; only when nobody reads any more is there nobody to write for. Then what waits
        // is lost, and the senders count the rest.
        if let Err(error) = written {
            let lost = metrics.dropped(Way::AccessLog, Cause::ExportFailed);
            lost.inc();
            if error.kind() == io::ErrorKind::BrokenPipe {
                return lost.add(records.try_iter().count() as u64);
            }
        }
    }
    let _ = out.flush();
}
