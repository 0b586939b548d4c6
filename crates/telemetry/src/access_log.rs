//! The access log: one line for each connection, on standard output.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use sidegate_config::schema::LogFormat;
use sidegate_core::{ConnectionRecord, printable_json};

use crate::catalog::{Cause, DropSource};
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
    let mut lines = Lines { out: BufWriter::with_capacity(BUFFER, io::stdout()), unsure: 0, metrics };
    loop {
        let record = match records.try_recv() {
            Ok(record) => record,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                if lines.flush() == LogReader::Gone {
                    break;
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
        if lines.write(format, &record) == LogReader::Gone {
            break;
        }
    }
    lines.flush();
    // If the reader is gone, the records that still wait are counted as lost. A later sender finds the queue closed, and counts its record.
    lines.lost(records.try_iter().count());
}

const BUFFER: usize = 64 * 1024;

/// Whether standard output still has a reader.
#[derive(PartialEq, Eq)]
enum LogReader {
    There,
    Gone,
}

/// Standard output, with the number of buffered lines.
struct Lines<'a> {
    out: BufWriter<io::Stdout>,
    unsure: usize,
    metrics: &'a Metrics,
}

impl Lines<'_> {
    fn write(&mut self, format: Format, record: &ConnectionRecord) -> LogReader {
        self.unsure += 1;
        let written = match format {
            Format::Json => {
                serde_json::to_string(record).map_err(io::Error::from).and_then(|json| writeln!(self.out, "{}", printable_json(&json)))
            }
            Format::Text => writeln!(self.out, "{}", text::line(record)),
        };
        self.reader_after(written)
    }

    fn flush(&mut self) -> LogReader {
        let flushed = self.out.flush();
        if flushed.is_ok() {
            self.unsure = 0;
        }
        self.reader_after(flushed)
    }

    /// Handles the result of a write. An error discards the buffer, so that a full disk that has room again gets whole lines. A
    /// part of the buffer may have been written: the count of lost lines is an upper bound.
    fn reader_after(&mut self, result: io::Result<()>) -> LogReader {
        let Err(error) = result else { return LogReader::There };
        let (_, _) = std::mem::replace(&mut self.out, BufWriter::with_capacity(BUFFER, io::stdout())).into_parts();
        let unsure = std::mem::take(&mut self.unsure);
        self.lost(unsure);
        if error.kind() == io::ErrorKind::BrokenPipe { LogReader::Gone } else { LogReader::There }
    }

    fn lost(&self, lines: usize) {
        self.metrics.dropped(DropSource::AccessLog, Cause::ExportFailed).add(lines as u64);
    }
}
