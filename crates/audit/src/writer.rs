//! The thread that writes the log: it makes lines of messages, makes checkpoints, and does what is due. [`durable`] writes the
//! lines to the disk.

mod durable;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use sidegate_config::schema::audit::{Audit as Config, OnFailure};
use sidegate_core::{ConnectionRecord, SpanId, event};
use sidegate_telemetry::{Cause, DropSource};

use crate::admitted::Admitted;
use crate::backpressure::Backpressure;
use crate::chain::{Chain, Position};
use crate::destination::{DestinationQueue, SharedLine};
use crate::encryption::Auditors;
use crate::error::AuditError;
use crate::event::{CheckpointCause, ConnectionFacts, Event, NewEvent};
use crate::folder::{Folder, LeftBehind};
use crate::hex::hex;
use crate::key::EpochKey;
use crate::line;
use crate::message::{AuditMessage, AuditMessageKind, AuditOptions};
use crate::signing::SigningKey;
use crate::state::{IdentityCell, LogState};

/// How long the thread waits for more messages after it wakes up, so that a busy data plane does not wake it with each record.
const LINGER: Duration = Duration::from_millis(20);
/// At most this many messages are looked at together, to make one record of a short connection's two.
const COALESCE_LIMIT: usize = 256;
/// A connection that lasted no longer than this may be one record.
const SHORT: Duration = Duration::from_secs(1);
/// The size of one write in bytes; the last record may exceed it.
const BATCH: usize = 64 * 1024;
/// The default bound of lines that wait for a destination: of records, and of checkpoints.
const COPIES: u32 = 8192;
const ANCHORS: u32 = 32;
/// How many checkpoints may wait for a successful sync: fewer than an anchor's queue takes without blocking.
const PENDING: usize = 4;
/// The pause before the log tries again to record a gap.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// The longest wait for a message.
const IDLE: Duration = Duration::from_secs(3600);

/// Whose key signs checkpoints.
enum Signers {
    Configured(SigningKey),
    Svid(IdentityCell),
}

/// What is lost if a batch is lost.
#[derive(Default)]
struct Loss {
    /// Lost events.
    events: u64,
    /// Events that a lost `log.gap` reports. They have been counted already.
    told: u64,
}

/// Lines that are made but not written yet.
#[derive(Default)]
struct LineBatch {
    /// Lines of the chain.
    lines: Vec<u8>,
    /// Records that are encrypted together when the batch is written, and their number.
    plain: Vec<u8>,
    plain_records: u64,
    /// The lines one by one, if there are copies.
    copies: Vec<SharedLine>,
    /// Records of it.
    records: u64,
    loss: Loss,
}

pub(crate) struct Writer {
    config: Config,
    state: Arc<LogState>,
    chain: Chain,
    /// Where the chain is in the file.
    committed: Position,
    folder: Option<Folder>,
    /// What the previous process has left, until the log records it.
    left: Option<LeftBehind>,
    /// Whether the run's first record is still to be written.
    run_begins: bool,
    backpressure: Option<Backpressure>,
    /// Why the file fails, if it does.
    failing: Option<String>,
    batch: LineBatch,
    auditors: Auditors,
    signers: Signers,
    run: String,
    /// The first key of the run, sealed to the auditors: each file begins with it.
    sealed_key: Option<String>,
    /// Before this time the rotation is not tried again.
    rotate_after: Instant,
    copies: Vec<DestinationQueue>,
    anchors: Vec<DestinationQueue>,
    /// Records that are written but maybe not on the disk, and since when.
    unsynced: u64,
    unsynced_since: Instant,
    unsynced_loss: Loss,
    /// The file's last sync failed. The system may have dropped what was to be synced, and says so only once: no later sync of
    /// this file means anything.
    sync_failed: bool,
    /// Lines for the anchors that are not known to be on the disk.
    pending: Vec<SharedLine>,
    /// Records since the last checkpoint, and when that was.
    unsigned: u64,
    last_checkpoint: Instant,
    /// Whether that was signed.
    signs: bool,
    /// From this time on old files are looked for and deleted.
    retire_after: Option<Instant>,
}

impl Writer {
    /// Opens the log and writes its first records.
    ///
    /// # Errors
    /// If the folder can't be used, or the log can't be begun where nothing may be lost: better not to start than to start unseen.
    pub(crate) fn open(options: &AuditOptions<'_>, state: &Arc<LogState>) -> Result<Self, AuditError> {
        let config = options.config;
        let signers = match &config.checkpoint.key {
            Some(file) => Signers::Configured(SigningKey::load(file)?),
            None => Signers::Svid(options.identity.clone()),
        };
        let key = EpochKey::random().ok_or(AuditError::NoRandomness)?;
        let mut run = [0; 16];
        aws_lc_rs::rand::fill(&mut run).map_err(|_| AuditError::NoRandomness)?;
        let auditors = Auditors::new(&config.auditors);
        let sealed_key = if auditors.is_empty() { None } else { Some(auditors.seal(key.expose()).map_err(AuditError::Seal)?) };
        let blocks = config.file.as_ref().is_some_and(|file| file.on_failure == OnFailure::BlockNewConnections);
        let (folder, position, left) = match &config.file {
            Some(file) => {
                let (folder, position, left) = Folder::open(&file.folder, !blocks)?;
                (Some(folder), position, left)
            }
            None => (None, Position::START, None),
        };
        let left = left.filter(|left| !left.closed || left.bytes_cut > 0);
        if let Some(left) = &left {
            tracing::warn!(
                event = event::AUDIT_RESUMED,
                file = left.file,
                bytes_cut = left.bytes_cut,
                "the audit log was not closed with a signature; it goes on after record {}, and {} bytes behind it were moved aside",
                position.seq - 1,
                left.bytes_cut
            );
        }
        let outlets = |list: &[sidegate_config::schema::audit::Destination], queue| {
            list.iter().map(|destination| DestinationQueue::start(destination, queue, state, options)).collect::<io::Result<Vec<_>>>()
        };
        let now = Instant::now();
        let mut writer = Self {
            config: config.clone(),
            state: state.clone(),
            chain: Chain::new(position, key),
            committed: position,
            folder,
            left,
            run_begins: true,
            backpressure: blocks.then(|| Backpressure::new(state.clone())),
            failing: None,
            batch: LineBatch::default(),
            auditors,
            signers,
            run: hex(run),
            sealed_key,
            rotate_after: now,
            copies: outlets(&config.copies, COPIES).map_err(AuditError::Thread)?,
            anchors: outlets(&config.anchors, ANCHORS).map_err(AuditError::Thread)?,
            unsynced: 0,
            unsynced_since: now,
            unsynced_loss: Loss::default(),
            sync_failed: false,
            pending: Vec::new(),
            unsigned: 0,
            last_checkpoint: now,
            signs: false,
            retire_after: Some(now),
        };
        match (writer.next_file(), &config.file) {
            (Ok(()), _) => {}
            // Where nothing may be lost it does not start; else it does, and the file is begun as soon as that can be.
            (Err(error), Some(file)) if !blocks => {
                tracing::error!(event = event::AUDIT_FAILING, folder = %file.folder.display(), "no file of the audit log can be begun");
                writer.failed(&error);
                writer.sync_failed = true;
            }
            (Err(error), Some(file)) => return Err(crate::folder::FolderError::System(file.folder.clone(), error).into()),
            (Err(error), None) => return Err(AuditError::Thread(error)),
        }
        Ok(writer)
    }

    /// Writes until the last sender is gone, then closes the log.
    pub(crate) fn run(mut self, messages: &Receiver<AuditMessage>) {
        let mut together = Vec::new();
        loop {
            let nothing = match messages.try_recv() {
                Ok(message) => {
                    // Earlier messages stay before it.
                    if matches!(message.what, AuditMessageKind::Event(_)) {
                        self.take(&mut together);
                    }
                    together.push(message);
                    if together.len() < COALESCE_LIMIT {
                        continue;
                    }
                    None
                }
                Err(nothing) => Some(nothing),
            };
            self.take(&mut together);
            match nothing {
                Some(TryRecvError::Disconnected) => break,
                Some(TryRecvError::Empty) => {
                    self.commit();
                    self.keep_house();
                    match messages.recv_timeout(self.until_next()) {
                        Ok(message) => {
                            together.push(message);
                            std::thread::sleep(LINGER);
                        }
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
                None => self.keep_house(),
            }
        }
        self.close();
    }

    /// Makes records of messages. A connection that was admitted and has ended among them is one record, unless its end
    /// contradicts its admission, as after another try.
    fn take(&mut self, together: &mut Vec<AuditMessage>) {
        let ends = together.iter().filter_map(|message| Some((message.ended()?.span_id, (message.ended()?.clone(), message.time))));
        let ends: HashMap<SpanId, (Arc<ConnectionRecord>, SystemTime)> = ends.collect();
        let mut short = HashSet::new();
        for message in together.drain(..) {
            if let Some(admitted) = message.admitted()
                && let Some((record, end)) = ends.get(&admitted.span_id)
                && end.duration_since(message.time).is_ok_and(|lasted| lasted < SHORT)
                && *admitted == Admitted::new(record)
            {
                short.insert(admitted.span_id);
                self.state.waiting.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let is_whole = message.ended().is_some_and(|record| short.contains(&record.span_id));
            self.take_one(message, is_whole);
            if self.batch.lines.len() + self.batch.plain.len() >= BATCH {
                self.commit();
            }
        }
    }

    fn take_one(&mut self, message: AuditMessage, is_whole: bool) {
        self.state.waiting.fetch_sub(1, Ordering::Relaxed);
        self.tell_of_gap();
        let is_first_svid = matches!(&message.what, AuditMessageKind::Event(event) if matches!(**event, Event::IdentityReceived { .. }));
        let event = match message.what {
            AuditMessageKind::Admitted(admitted) => Event::ConnectionAdmitted { connection: ConnectionFacts::Admitted(admitted) },
            AuditMessageKind::Ended(record, admitted) => {
                let ended = admitted || !record.reason.is_failure();
                let connection = ConnectionFacts::Ended(record);
                if ended { Event::ConnectionEnded { connection, admitted: is_whole } } else { Event::ConnectionRefused { connection } }
            }
            AuditMessageKind::Event(event) => *event,
        };
        self.push_at(message.time, &event);
        self.batch.loss.events += 1;
        if is_first_svid {
            self.checkpoint(CheckpointCause::Identity);
        }
    }

    /// Records a gap before the log goes on.
    fn tell_of_gap(&mut self) {
        let missing = self.state.missing.swap(0, Ordering::Relaxed);
        if missing > 0 {
            self.push(&Event::LogGap { missing });
            // If this is lost too, they are still missing.
            self.batch.loss.told += missing;
        }
    }

    fn push(&mut self, event: &NewEvent) {
        self.push_at(SystemTime::now(), event);
    }

    fn push_at(&mut self, time: SystemTime, event: &NewEvent) {
        let encrypts = self.config.file.as_ref().is_some_and(|file| file.encrypt);
        if encrypts && !event.is_of_the_log() {
            let start = self.batch.plain.len();
            let seq = self.chain.position().seq + self.batch.plain_records;
            if let Err(error) = line::begin(&mut self.batch.plain, seq, time, event) {
                self.batch.plain.truncate(start);
                self.unwritable(&error.to_string());
                return;
            }
            line::end(&mut self.batch.plain);
            self.batch.plain_records += 1;
            self.batch.records += 1;
            self.copy(start, true);
        } else {
            self.seal();
            let start = self.batch.lines.len();
            match self.chain.append(&mut self.batch.lines, time, event, 1, None) {
                Ok(()) => {
                    self.batch.records += 1;
                    self.copy(start, false);
                }
                Err(error) => self.unwritable(&error),
            }
        }
    }

    /// Keeps the last line for the copies.
    fn copy(&mut self, start: usize, plain: bool) {
        if !self.copies.is_empty() {
            let text = if plain { &self.batch.plain } else { &self.batch.lines };
            self.batch.copies.push(text[start..text.len() - 1].into());
        }
    }

    /// Counts a record that can't be written as JSON. None of our types fails so, but no record may be lost silently.
    fn unwritable(&self, error: &str) {
        self.state.missing.fetch_add(1, Ordering::Relaxed);
        self.state.metrics.dropped(DropSource::Audit, Cause::Rejected).inc();
        tracing::error!(event = event::AUDIT_FAILING, "an audit record can't be written: {error}");
    }

    /// Makes one line of the records that are to be sealed.
    fn seal(&mut self) {
        let (plain, records) = (std::mem::take(&mut self.batch.plain), std::mem::take(&mut self.batch.plain_records));
        if records == 0 {
            return;
        }
        let sealed = self
            .auditors
            .seal(&plain)
            .and_then(|age| self.chain.append(&mut self.batch.lines, SystemTime::now(), &Event::LogSealed { records, age }, records, None));
        if let Err(error) = sealed {
            self.batch.records -= records;
            self.unwritable(&error);
            self.state.missing.fetch_add(records - 1, Ordering::Relaxed);
        }
    }

    /// How long the thread may wait for a message.
    fn until_next(&self) -> Duration {
        let sync = if self.sync_failed {
            Some(self.rotate_after)
        } else {
            self.config.file.as_ref().filter(|_| self.unsynced > 0).map(|file| self.unsynced_since + file.sync.interval.duration())
        };
        let checkpoint = (self.unsigned > 0).then(|| self.last_checkpoint + self.config.checkpoint.interval.duration());
        let rotate = self.folder.as_ref().zip(self.config.file.as_ref()).map(|(folder, file)| {
            let due = folder.size_and_since().1 + file.rotate.age.duration();
            due.max(self.rotate_after)
        });
        let gap = (self.state.missing.load(Ordering::Relaxed) > 0).then(|| Instant::now() + TELL_AGAIN);
        let retire = self.retire_after.filter(|_| self.signs && !self.sync_failed);
        let next = [sync, checkpoint, rotate, gap, retire].into_iter().flatten().min();
        // A failed task is not tried again at once.
        next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), IDLE))
    }

    /// Does what is due: a sync, a checkpoint, a new file.
    fn keep_house(&mut self) {
        if let Some(sync) = self.config.file.as_ref().map(|file| &file.sync)
            && (self.sync_failed
                || self.unsynced > 0 && (self.unsynced >= sync.records.into() || self.unsynced_since.elapsed() >= sync.interval.duration()))
        {
            self.sync();
        }
        if let (Some(folder), Some(file)) = (&self.folder, &self.config.file) {
            let (size, since) = folder.size_and_since();
            let due = size >= file.rotate.bytes || since.elapsed() >= file.rotate.age.duration();
            if due && !self.sync_failed && Instant::now() >= self.rotate_after {
                self.rotate();
            }
        }
        if self.unsigned > 0 && self.last_checkpoint.elapsed() >= self.config.checkpoint.interval.duration() {
            self.checkpoint(CheckpointCause::Timer);
        }
        if self.signs && !self.sync_failed && self.retire_after.is_some_and(|after| Instant::now() >= after) {
            self.retire();
        }
        // On a quiet system nothing else would report it.
        if self.state.missing.load(Ordering::Relaxed) > 0 {
            self.tell_of_gap();
            self.commit();
        }
    }

    /// An SVID that is not valid by the wall clock signs nothing, since a checkpoint is verified at the time that it states.
    fn signer(&self, now: SystemTime) -> Option<SigningKey> {
        match &self.signers {
            Signers::Configured(key) => Some(key.clone()),
            Signers::Svid(identity) => {
                let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
                let material = identity.get()?.borrow().material.clone();
                material.filter(|material| material.svid.is_valid_at(now.cast_signed())).as_deref().and_then(SigningKey::of_svid)
            }
        }
    }

    /// Writes and signs a checkpoint and ends the epoch; exports it once it is on the disk. False if it is not there, or only
    /// may be.
    fn checkpoint(&mut self, cause: CheckpointCause) -> bool {
        // Whether it succeeds or not: the next one is due an interval later.
        self.last_checkpoint = Instant::now();
        self.tell_of_gap();
        if !self.commit() {
            return false;
        }
        let now = SystemTime::now();
        let signer = self.signer(now);
        let event = Event::LogCheckpoint {
            run: self.run.clone(),
            epoch: self.chain.epoch(),
            cause,
            signer: signer.as_ref().map(|signer| signer.signer().clone()),
        };
        self.signs = signer.is_some();
        if let Err(error) = self.chain.append(&mut self.batch.lines, now, &event, 1, signer.as_ref()) {
            tracing::error!(event = event::AUDIT_FAILING, "a checkpoint of the audit log can't be made: {error}");
            return false;
        }
        self.batch.records += 1;
        self.copy(0, false);
        let line: SharedLine = self.batch.lines[..self.batch.lines.len() - 1].into();
        if self.write_or_lose().is_none() {
            return false;
        }
        self.unsigned = 0;
        // Before the sync, after which another file may begin: the epoch has ended, on the disk or not.
        if !self.chain.ratchet() {
            tracing::error!(event = event::AUDIT_FAILING, "the key of the audit log's next epoch can't be made; this one goes on");
        }
        if self.pending.len() >= PENDING {
            // The latest checkpoint covers the earlier ones.
            self.pending.pop();
            self.state.metrics.dropped(DropSource::AuditCopies, Cause::ExportFailed).add(self.anchors.len() as u64);
        }
        self.pending.push(line);
        let on_disk = self.sync_file();
        // Behind the end no other file begins.
        if on_disk || (cause != CheckpointCause::Shutdown && self.replace_file()) {
            self.recovered();
        }
        on_disk
    }

    fn close(mut self) {
        // A rotation that failed may succeed now.
        if self.sync_failed {
            self.commit();
            self.sync();
        }
        self.checkpoint(CheckpointCause::Shutdown);
        let until = self.state.deadline();
        let closing: Vec<_> = self.copies.drain(..).chain(self.anchors.drain(..)).map(DestinationQueue::close).collect();
        closing.into_iter().for_each(|outlet| outlet.join(until));
    }
}

#[cfg(test)]
mod tests;
