//! Events on standard error, and on their way to a collector; standard output belongs to the access log.

use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::Arc;

use sidegate_core::{printable_json, without_controls};
use tracing::field::Field;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{self as fields, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::events::EventLayer;
use crate::fold::Fold;
use crate::log_filter::LogFilter;

/// Lines that may wait for the reader of standard error. More are dropped, since a worker must not wait for a reader.
const QUEUE: usize = 4096;

/// The running logging. Dropping it writes the remaining lines, so it must outlive everything that logs.
#[derive(Debug)]
pub struct Logging {
    /// The layer that folds repeated warnings.
    pub fold: Fold,
    /// The log filter.
    pub filter: Arc<LogFilter>,
    lost: ErrorCounter,
    _guard: WorkerGuard,
}

impl Logging {
    /// Counts the lines that standard error has lost.
    pub fn lost_lines(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let lost = self.lost.clone();
        move || lost.dropped_lines() as u64
    }
}

/// How a line on standard error is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// For a person.
    Text,
    /// For a person, in colours.
    ColouredText,
    /// For tools.
    Json,
}

/// Starts logging by `filter`, once in a process; `events` takes them too.
///
/// # Errors
/// What is wrong with the filter.
pub fn start_logging(filter: &str, format: LineFormat, events: Option<EventLayer>) -> Result<Logging, String> {
    let (level, filter) = LogFilter::layer(filter)?;
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).finish(std::io::stderr());
    let lost = writer.error_counter();
    let lines = match format {
        LineFormat::Json => {
            let lines = fmt::layer().with_writer(move || JsonLine(writer.clone()));
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        LineFormat::Text | LineFormat::ColouredText => {
            let lines = fmt::layer().with_writer(writer).with_ansi(format == LineFormat::ColouredText);
            lines.fmt_fields(fields::debug_fn(field).delimited(" ")).boxed()
        }
    };
    let fold = Fold::default();
    tracing_subscriber::registry().with(level).with(fold.clone()).with(events).with(lines).init();
    Ok(Logging { fold, filter: Arc::new(filter), lost, _guard: guard })
}

/// Writes a field of an event for a terminal. Text of agents, peers and files must not start lines that look like ours: all lines
/// but the first are indented.
fn field(out: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    if field.name() != "message" {
        write!(out, "{}=", field.name())?;
    }
    for (at, line) in format!("{value:?}").lines().enumerate() {
        write!(out, "{}{}", if at == 0 { "" } else { "\n    " }, without_controls(line))?;
    }
    Ok(())
}

/// Lines of JSON that a terminal may show as they are. Each comes as a whole.
struct JsonLine(NonBlocking);

impl Write for JsonLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let taken = match std::str::from_utf8(line) {
            Ok(text) => self.0.write_all(printable_json(text).as_bytes()),
            Err(_) => self.0.write_all(line),
        };
        taken.map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_of_text_is_harmless_and_one_event() {
        let lines = Written::default();
        let layer = fmt::layer().with_writer(lines.clone()).with_ansi(false).fmt_fields(fields::debug_fn(field).delimited(" "));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(peer = "spiffe://a\u{1b}[2J\u{202e}", "it said: x\u{9b}y\n2026-01-01T00:00:00Z  INFO forged");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(!text.chars().any(|c| c != '\n' && sidegate_core::is_control_or_bidi(c)), "{text:?}");
        assert!(text.contains("it said: x\u{fffd}y\n    2026-01-01") && text.contains("peer=\"spiffe://a"), "{text:?}");
    }
}
