//! The data plane's end of the log: a bounded queue, and offers that never wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use sidegate_config::schema::audit::OnFailure;
use sidegate_core::{ConnectionRecord, event};
use sidegate_telemetry::{Cause, DropSource};

use crate::admitted::Admitted;
use crate::error::AuditError;
use crate::event::NewEvent;
use crate::message::{AuditMessage, AuditMessageKind, AuditOptions};
use crate::state::LogState;
use crate::writer::Writer;

/// How long before the shutdown's deadline the writer stops waiting.
const TELL: Duration = Duration::from_millis(100);

/// The record of this connection could not be kept, and the configuration does not allow it to go on without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// Takes security events. Without an audit log it ignores them.
#[derive(Default)]
pub struct Audit(Option<ActiveLog>);

struct ActiveLog {
    sender: SyncSender<AuditMessage>,
    state: Arc<LogState>,
    capacity: usize,
    /// Whether a connection is refused if its record can't be kept.
    blocks: bool,
}

/// The writer's thread; joined at the end, so that nothing is lost.
#[derive(Debug)]
pub struct AuditThread(Option<(JoinHandle<()>, Arc<LogState>)>);

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Audit({})", if self.0.is_some() { "on" } else { "off" })
    }
}

impl std::fmt::Debug for LogState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogState").finish_non_exhaustive()
    }
}

impl Audit {
    /// Opens the log that the configuration describes and starts its thread.
    ///
    /// # Errors
    /// If the log can't be written: a sidecar that must not lose records does not start without a log.
    pub fn start(options: &AuditOptions<'_>) -> Result<(Self, AuditThread), AuditError> {
        let config = options.config;
        if !config.is_on() {
            return Ok((Self(None), AuditThread(None)));
        }
        let state = LogState::new(options.metrics.clone());
        let writer = Writer::open(options, &state)?;
        let capacity = usize::try_from(config.queue).unwrap_or(usize::MAX);
        let (sender, receiver) = sync_channel(capacity);
        let run = move || writer.run(&receiver);
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(run).map_err(AuditError::Thread)?;
        let of_file = config.file.iter().map(|file| file.on_failure);
        let of_others = config.copies.iter().chain(&config.anchors).map(|destination| destination.on_failure);
        let blocks = of_file.chain(of_others).any(|on| on == OnFailure::BlockNewConnections);
        Ok((Self(Some(ActiveLog { sender, state: state.clone(), capacity, blocks })), AuditThread(Some((thread, state)))))
    }

    /// Whether there is an audit log.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether new connections must be refused, since their records could not be kept.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.0.as_ref().is_some_and(|on| on.state.blocking.load(Ordering::Acquire) > 0)
    }

    /// Takes a connection that is admitted. Never waits.
    ///
    /// # Errors
    /// If its record can't be kept and the configuration refuses such connections.
    pub fn admit(&self, record: &ConnectionRecord) -> Result<(), Unavailable> {
        let Some(on) = &self.0 else { return Ok(()) };
        // Half of the queue is reserved for the ends of admitted connections.
        if on.blocks && on.is_half_full() {
            return Err(Unavailable);
        }
        let offered = on.offer(AuditMessageKind::Admitted(Box::new(Admitted::new(record))));
        if on.blocks && !offered { Err(Unavailable) } else { Ok(()) }
    }

    /// Takes a connection that has ended; `admitted` says whether it had been admitted. Never waits.
    pub fn end(&self, record: &Arc<ConnectionRecord>, admitted: bool) {
        let Some(on) = &self.0 else { return };
        // A flood of refused connections must not take the room of admitted ones.
        if on.blocks && !admitted && on.is_half_full() {
            on.lost();
        } else {
            on.offer(AuditMessageKind::Ended(record.clone(), admitted));
        }
    }

    /// Counts events that were dropped before they came here.
    pub(crate) fn count_missing(&self, events: u64) {
        if let Some(on) = &self.0 {
            (0..events).for_each(|_| on.lost());
        }
    }

    /// Takes any other event. Never waits.
    pub fn record(&self, event: NewEvent) {
        if let Some(on) = &self.0 {
            on.offer(AuditMessageKind::Event(Box::new(event)));
        }
    }
}

impl ActiveLog {
    /// Queues a message. False if there is no room; then the loss is counted.
    fn offer(&self, what: AuditMessageKind) -> bool {
        self.state.waiting.fetch_add(1, Ordering::Relaxed);
        let offered = self.sender.try_send(AuditMessage { time: SystemTime::now(), what }).is_ok();
        if !offered {
            self.state.waiting.fetch_sub(1, Ordering::Relaxed);
            self.lost();
        }
        offered
    }

    fn is_half_full(&self) -> bool {
        self.state.waiting.load(Ordering::Relaxed) * 2 >= self.capacity
    }

    /// Counts a record that will not be written; the next record says so.
    fn lost(&self) {
        self.state.missing.fetch_add(1, Ordering::Relaxed);
        self.state.metrics.dropped(DropSource::Audit, Cause::QueueFull).inc();
    }
}

impl AuditThread {
    /// Waits until the log is closed, but not longer than `until`, whatever its disk and its destinations do. To be called after
    /// the last [`Audit`] is gone.
    pub fn join(self, until: Instant) {
        let Some((thread, state)) = self.0 else { return };
        // The writer has a moment to say of which destination how much is lost.
        state.close(until.checked_sub(TELL).unwrap_or(until));
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            tracing::error!(event = event::AUDIT_FAILING, "the audit log can't be closed; its last records are lost");
        }
    }
}
