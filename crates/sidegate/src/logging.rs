//! Events on standard error; standard output belongs to the access log.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that wait for whoever reads them; beyond that they are dropped, for a worker must not wait for a reader.
const QUEUE: usize = 4096;

/// Starts logging by `filter`: text on a terminal, else JSON. What is returned has to live as long as there is something
/// to log: dropping it writes what is left.
pub(crate) fn start(filter: &str) -> Result<WorkerGuard> {
    let help = || format!("`{filter}` is no log filter; write for example info, or info,sidegate_identity=debug");
    // A stranger makes rustls warn with every hello; what matters of it is in the connection's record.
    let filter = EnvFilter::try_new(format!("rustls=error,{filter}")).with_context(help)?;
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).finish(std::io::stderr());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    }
    Ok(guard)
}
