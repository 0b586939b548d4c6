//! Events on standard error, and on their way to a collector; standard output belongs to the access log.

use std::fmt::Debug;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
use sidegate_config::schema::telemetry::LogLevel;
use sidegate_core::{printable_json, without_controls};
use sidegate_telemetry::{EventLayer, Fold};
use tracing::field::Field;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::style;

/// Lines that may wait for the reader of standard error. More are dropped, since a worker must not wait for a reader.
const QUEUE: usize = 4096;

/// The running logging. Dropping it writes the remaining lines, so it must outlive everything that logs.
pub(crate) struct Logging {
    /// The layer that folds repeated warnings.
    pub(crate) fold: Fold,
    /// The log filter.
    pub(crate) filter: Arc<LogFilter>,
    /// Counts the lines that standard error has lost.
    pub(crate) lost: ErrorCounter,
    _guard: WorkerGuard,
}

/// The log filter, which can be changed at run time.
pub(crate) struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    text: Mutex<String>,
}

impl LogFilter {
    /// The filter as it was given.
    pub(crate) fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the filter to `text`, or says what is wrong with it.
    pub(crate) fn set(&self, text: &str) -> Result<(), String> {
        self.handle.reload(parse(text)?).map_err(|e| e.to_string())?;
        text.clone_into(&mut self.text.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

fn parse(text: &str) -> Result<EnvFilter, String> {
    // A directive with fields would stand above the last word. There are no spans that it could be meant for.
    if text.contains('[') {
        return Err(format!("`{text}`: a filter has levels and modules, such as info,sidegate_identity=debug; fields are not understood"));
    }
    text.split(',').map(str::trim).filter(|directive| !directive.is_empty()).try_for_each(check)?;
    // Any peer can make rustls warn with each hello, and the connection's record has the facts. Actions over the admin API are
    // always logged: the last directive of a filter counts.
    EnvFilter::try_new(format!("rustls=error,{text},sidegate_admin::api=warn"))
        .map_err(|e| format!("`{text}` is no log filter; write for example info, or info,sidegate_identity=debug: {e}"))
}

/// Refuses what `EnvFilter` would take for the name of a module: a level that is written wrongly, or a module of ours that there
/// is not.
fn check(directive: &str) -> Result<(), String> {
    let (module, level) = match directive.split_once('=') {
        Some((module, level)) => (Some(module.trim()), level.trim()),
        None => (None, directive),
    };
    if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
        return Err(format!("`{level}` is no level: there are {}; for one module write MODULE=LEVEL", LEVELS.join(", ")));
    }
    let Some(ours) = module.map(|module| module.split("::").next().unwrap_or(module)).filter(|module| module.starts_with("sidegate"))
    else {
        return Ok(());
    };
    if MODULES.contains(&ours) { Ok(()) } else { Err(format!("sidegate has no module `{ours}`: there are {}", MODULES.join(", "))) }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The crates of sidegate that log.
const MODULES: [&str; 15] = [
    "sidegate",
    "sidegate_admin",
    "sidegate_audit",
    "sidegate_config",
    "sidegate_control",
    "sidegate_core",
    "sidegate_devkit",
    "sidegate_identity",
    "sidegate_net",
    "sidegate_policy",
    "sidegate_proxy",
    "sidegate_redirect",
    "sidegate_system",
    "sidegate_telemetry",
    "sidegate_tls",
];

/// `filter`, after the level for what becomes of telemetry: what `filter` says of that module comes first, as the last word counts.
pub(crate) fn with_telemetry(filter: &str, level: Option<LogLevel>) -> String {
    level.map_or_else(|| filter.to_owned(), |level| format!("sidegate_telemetry={},{filter}", level.label()))
}

/// Starts logging by `filter`: text on a terminal, else JSON; `events` takes them too.
pub(crate) fn start(filter: &str, events: Option<EventLayer>) -> Result<Logging> {
    let (level, handle) = reload::Layer::new(parse(filter).map_err(|why| anyhow!(why))?);
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).finish(std::io::stderr());
    let lost = writer.error_counter();
    let lines = if std::io::stderr().is_terminal() {
        let is_coloured = style::is_coloured(&std::io::stderr());
        fmt::layer().with_writer(writer).with_ansi(is_coloured).fmt_fields(format::debug_fn(field).delimited(" ")).boxed()
    } else {
        let lines = fmt::layer().with_writer(move || Json(writer.clone()));
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    };
    let fold = Fold::default();
    tracing_subscriber::registry().with(level).with(fold.clone()).with(events).with(lines).init();
    let filter = Arc::new(LogFilter { handle, text: Mutex::new(filter.to_owned()) });
    Ok(Logging { fold, filter, lost, _guard: guard })
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
struct Json(NonBlocking);

impl Write for Json {
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
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[test]
    fn the_filter_comes_before_the_level_for_telemetry() {
        let of_telemetry = |filter: &str, level| {
            let filter = parse(&with_telemetry(filter, level)).unwrap().to_string();
            let directive = filter.split(',').find_map(|directive| directive.strip_prefix("sidegate_telemetry="));
            directive.map(str::to_owned)
        };
        assert_eq!(of_telemetry("info", None), None);
        assert_eq!(of_telemetry("info", Some(LogLevel::Off)).as_deref(), Some("off"));
        assert_eq!(of_telemetry("debug,sidegate_telemetry=trace", Some(LogLevel::Error)).as_deref(), Some("trace"));
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_of_text_is_harmless_and_one_event() {
        let lines = Lines::default();
        let layer = fmt::layer().with_writer(lines.clone()).with_ansi(false).fmt_fields(format::debug_fn(field).delimited(" "));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(peer = "spiffe://a\u{1b}[2J\u{202e}", "it said: x\u{9b}y\n2026-01-01T00:00:00Z  INFO forged");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(!text.chars().any(|c| c != '\n' && sidegate_core::is_control_or_bidi(c)), "{text:?}");
        assert!(text.contains("it said: x\u{fffd}y\n    2026-01-01") && text.contains("peer=\"spiffe://a"), "{text:?}");
    }
}
