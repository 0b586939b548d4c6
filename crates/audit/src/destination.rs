//! A further destination of records or checkpoints: a thread with a bounded queue of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use sidegate_config::schema::audit::{Destination, OnFailure};
use sidegate_core::event;
use sidegate_telemetry::{AuditLine, AuditLines, Cause, DropSource};

use crate::backpressure::Backpressure;
use crate::message::AuditOptions;
use crate::state::LogState;
use crate::syslog::SyslogSink;

/// A line of the log, without its newline.
pub(crate) type SharedLine = Arc<[u8]>;

/// The pause before a refused line is offered again.
const RETRY: Duration = Duration::from_secs(1);

/// A destination's queue and thread.
pub(crate) struct DestinationQueue {
    sender: SyncSender<SharedLine>,
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

/// The state that both ends of a queue share.
struct Queue {
    name: String,
    waiting: AtomicUsize,
    capacity: usize,
    /// Set if this destination blocks new connections.
    backpressure: Option<Backpressure>,
    closing: AtomicBool,
    state: Arc<LogState>,
}

/// Where lines go.
enum Sink {
    Stdout,
    File { path: PathBuf, open: Option<File> },
    Syslog(Box<SyslogSink>),
    Otlp(AuditLines),
}

impl DestinationQueue {
    /// Starts the thread. `queue` is the default bound of waiting lines.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start(config: &Destination, queue: u32, state: &Arc<LogState>, options: &AuditOptions<'_>) -> io::Result<Self> {
        let (name, mut sink) = match (&config.file, &config.syslog, options.otlp.as_ref().filter(|_| config.otlp)) {
            (Some(path), _, _) => (path.display().to_string(), Sink::File { path: path.clone(), open: None }),
            (_, Some(syslog), _) => (
                format!("syslog {}", syslog.to),
                Sink::Syslog(Box::new(SyslogSink::new(syslog.clone(), options.mark, options.identity.clone()))),
            ),
            (_, _, Some(lines)) => ("the collector of log records".to_owned(), Sink::Otlp(lines.clone())),
            _ => ("standard output".to_owned(), Sink::Stdout),
        };
        let capacity = usize::try_from(config.queue.unwrap_or(queue)).unwrap_or(usize::MAX);
        let backpressure = (config.on_failure == OnFailure::BlockNewConnections).then(|| Backpressure::new(state.clone()));
        let queue = Arc::new(Queue {
            name,
            waiting: AtomicUsize::new(0),
            capacity,
            backpressure,
            closing: AtomicBool::new(false),
            state: state.clone(),
        });
        let (sender, receiver) = sync_channel(capacity);
        let own = queue.clone();
        let thread = std::thread::Builder::new().name("audit-copy".to_owned()).spawn(move || own.deliver_all(&receiver, &mut sink))?;
        Ok(Self { sender, queue, thread })
    }

    /// Offers a line. Never waits.
    pub(crate) fn send(&self, line: SharedLine) {
        let queue = &self.queue;
        let waiting = queue.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(backpressure) = queue.backpressure.as_ref().filter(|_| waiting * 2 >= queue.capacity) {
            backpressure.set(true);
        }
        if let Err(error) = self.sender.try_send(line) {
            queue.waiting.fetch_sub(1, Ordering::Relaxed);
            let cause = if matches!(error, TrySendError::Full(_)) { Cause::QueueFull } else { Cause::ExportFailed };
            queue.state.metrics.dropped(DropSource::AuditCopies, cause).inc();
        }
    }

    /// Ends the queue: no more lines come. [`DestinationQueue::join`] waits for the lines that are there.
    pub(crate) fn close(self) -> Closing {
        self.queue.closing.store(true, Ordering::Relaxed);
        drop(self.sender);
        Closing { queue: self.queue, thread: self.thread }
    }
}

/// A destination that gets no more lines.
pub(crate) struct Closing {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

impl Closing {
    /// Waits until all is delivered, but not longer than `until`.
    pub(crate) fn join(self, until: Instant) {
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.thread.is_finished() {
            let _ = self.thread.join();
        } else {
            let (name, lost) = (&self.queue.name, self.queue.waiting.load(Ordering::Relaxed));
            tracing::warn!(event = event::AUDIT_FAILING, "{name} does not take the last {lost} audit records; they are in the file");
        }
    }
}

impl Queue {
    /// Until the last sender is gone.
    fn deliver_all(&self, lines: &Receiver<SharedLine>, sink: &mut Sink) {
        let mut complained = false;
        while let Ok(line) = lines.recv() {
            while let Err(error) = sink.deliver(&line) {
                if !complained {
                    complained = true;
                    tracing::warn!(event = event::AUDIT_FAILING, "audit records don't reach {}: {error}", self.name);
                }
                if matches!(sink, Sink::Stdout) && error.kind() == io::ErrorKind::BrokenPipe {
                    // There is no reader any more. A later line finds the queue closed, and is counted as dropped.
                    self.state
                        .metrics
                        .dropped(DropSource::AuditCopies, Cause::ExportFailed)
                        .add(self.waiting.load(Ordering::Relaxed) as u64);
                    self.backpressure.iter().for_each(|backpressure| backpressure.set(true));
                    return;
                }
                self.pause();
            }
            if complained {
                complained = false;
                tracing::info!(event = event::AUDIT_RECOVERED, "audit records reach {} again", self.name);
            }
            let left = self.waiting.fetch_sub(1, Ordering::Relaxed) - 1;
            if let Some(backpressure) = self.backpressure.as_ref().filter(|_| left * 4 < self.capacity) {
                backpressure.set(false);
            }
        }
    }

    /// Waits before the next try. The wait is shorter at shutdown, since the process does not wait long.
    fn pause(&self) {
        let until = Instant::now() + RETRY;
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
            if self.closing.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

impl Sink {
    /// Delivers a line. After an error it may or may not have been delivered.
    fn deliver(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&[line, b"\n"].concat())?;
                out.flush()
            }
            Self::File { path, open } => {
                let file = match open {
                    Some(file) => file,
                    None => open.insert(open_at_line(path)?),
                };
                let written = file.write_all(&[line, b"\n"].concat()).and_then(|()| sync(file));
                if written.is_err() {
                    // A partial line stays, and the next attempt begins a new line, since another process may have written after
                    // it. A new open may also fix what was wrong with the file.
                    *open = None;
                }
                written
            }
            Self::Syslog(syslog) => syslog.deliver(line),
            Self::Otlp(lines) => {
                let time = record_time(line).unwrap_or_else(SystemTime::now);
                let taken = lines.send(AuditLine { time, json: line.into() });
                if taken { Ok(()) } else { Err(io::Error::other("the telemetry thread has ended")) }
            }
        }
    }
}

/// Brings a file's content onto the disk. A pipe or a device has none.
fn sync(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() { file.sync_data() } else { Ok(()) }
}

/// Opens a file to add lines. Part of one at its end, which a crash has left or could not be cut off, stays a line of its own.
fn open_at_line(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let about = file.metadata()?;
    if about.is_file() && about.len() > 0 {
        let mut last = [0];
        // A file that can't be read gets an empty line.
        let read = File::open(path).and_then(|file| file.read_exact_at(&mut last, about.len() - 1));
        if read.is_err() || last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// The time of a record.
fn record_time(line: &[u8]) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct TimeField<'a> {
        time: &'a str,
    }
    let head: TimeField<'_> = serde_json::from_slice(line).ok()?;
    humantime::parse_rfc3339(head.time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_not_joined_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copies.jsonl");
        for (before, after) in [("", "new\n"), ("old\n", "old\nnew\n"), ("old\nto", "old\nto\nnew\n")] {
            std::fs::write(&path, before).unwrap();
            Sink::File { path: path.clone(), open: None }.deliver(b"new").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }

    /// `/dev/zero` refuses to be synced, but not to be written to.
    #[test]
    fn a_device_takes_a_line_once() {
        Sink::File { path: "/dev/zero".into(), open: None }.deliver(b"line").unwrap();
    }
}
