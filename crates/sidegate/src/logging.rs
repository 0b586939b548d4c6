//! Events on standard error, and on their way to a collector; standard output belongs to the access log.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
use sidegate_telemetry::{EventLayer, Fold};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Lines that wait for whoever reads them; beyond that they are dropped, for a worker must not wait for a reader.
const QUEUE: usize = 4096;

/// Running logging. It has to live as long as there is something to log: dropping it writes what is left.
pub(crate) struct Logging {
    /// What folds repeated warnings.
    pub(crate) fold: Fold,
    /// Changes and tells what is logged.
    pub(crate) filter: Arc<Filter>,
    /// Counts the lines that standard error has lost.
    pub(crate) lost: ErrorCounter,
    _guard: WorkerGuard,
}

/// What is logged; can be changed.
pub(crate) struct Filter {
    handle: reload::Handle<EnvFilter, Registry>,
    text: Mutex<String>,
}

impl Filter {
    /// The filter as it was given.
    pub(crate) fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs by `text` from now on; else says what is wrong with it.
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
    // A stranger makes rustls warn with every hello; what matters of it is in the connection's record. What somebody does
    // over the admin API is told in any case: the last word of a filter counts.
    EnvFilter::try_new(format!("rustls=error,{text},sidegate_admin::api=warn"))
        .map_err(|e| format!("`{text}` is no log filter; write for example info, or info,sidegate_identity=debug: {e}"))
}

/// Starts logging by `filter`: text on a terminal, else JSON; `events` takes them too.
pub(crate) fn start(filter: &str, events: Option<EventLayer>) -> Result<Logging> {
    let (level, handle) = reload::Layer::new(parse(filter).map_err(|why| anyhow!(why))?);
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).finish(std::io::stderr());
    let lost = writer.error_counter();
    let lines = fmt::layer().with_writer(writer);
    let lines = if std::io::stderr().is_terminal() {
        lines.boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    };
    let fold = Fold::default();
    tracing_subscriber::registry().with(level).with(fold.clone()).with(events).with(lines).init();
    let filter = Arc::new(Filter { handle, text: Mutex::new(filter.to_owned()) });
    Ok(Logging { fold, filter, lost, _guard: guard })
}
