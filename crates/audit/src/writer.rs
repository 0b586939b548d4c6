//! The thread that writes the log: makes lines of what comes, writes them in batches, syncs, makes checkpoints, rotates.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use sidegate_config::schema::audit::{Audit as Config, OnFailure};
use sidegate_core::{Side, event};
use sidegate_telemetry::{Cause, Way};

use crate::AuditError;
use crate::block::Block;
use crate::chain::{Chain, Position};
use crate::event::{CheckpointCause, ConnectionFacts, Event, NewEvent};
use crate::folder::{Folder, Left};
use crate::handle::{Message, Options, What};
use crate::hex::hex;
use crate::key::EpochKey;
use crate::line;
use crate::outlet::{Outlet, SharedLine};
use crate::sealed::Auditors;
use crate::signing::SigningKey;
use crate::state::{IdentityCell, State};

/// After waking up, how long others are waited for, so that a busy data plane does not wake this thread with each record.
const LINGER: Duration = Duration::from_millis(20);
/// What is written at once at most, bytes.
const BATCH: usize = 64 * 1024;
/// How long a full disk is left alone.
const RETRY: Duration = Duration::from_millis(200);
/// How long the end tries to write to it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long after a new file could not be begun it is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(10);
/// How many checkpoints wait for a good sync.
const PENDING: usize = 16;
/// The longest wait for a message.
const IDLE: Duration = Duration::from_secs(3600);

/// Whose key signs checkpoints.
enum Signers {
    Configured(SigningKey),
    Svid(IdentityCell),
}

/// What is missing if something is lost.
#[derive(Default)]
struct Loss {
    /// Events of it.
    events: u64,
    /// Events that a `log.gap` of it tells of; they were counted when they were lost.
    told: u64,
}

/// What is made but not written yet.
#[derive(Default)]
struct Batch {
    /// Lines of the chain.
    lines: Vec<u8>,
    /// Records that are sealed together when the batch is written, and how many they are.
    plain: Vec<u8>,
    plain_records: u64,
    /// The lines one by one, where somebody gets copies.
    copies: Vec<SharedLine>,
    /// Records of it.
    records: u64,
    loss: Loss,
}

pub(crate) struct Writer {
    config: Config,
    state: Arc<State>,
    chain: Chain,
    /// Where the chain is in the file.
    committed: Position,
    folder: Option<Folder>,
    block: Option<Block>,
    /// Why the file fails at the moment.
    failing: Option<String>,
    batch: Batch,
    auditors: Auditors,
    signers: Signers,
    run: String,
    /// The first key of the run, sealed to the auditors: each file begins with it.
    sealed_key: Option<String>,
    /// A new file that could not be begun is not tried again before.
    rotate_after: Instant,
    copies: Vec<Outlet>,
    anchors: Vec<Outlet>,
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
}

impl Writer {
    /// Opens the log and writes its first records.
    ///
    /// # Errors
    /// If the log can't be written at all: better not to start than to start unseen.
    pub(crate) fn open(options: &Options<'_>, state: &Arc<State>) -> Result<Self, AuditError> {
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
        let (folder, position, left) = match &config.file {
            Some(file) => {
                let (folder, position, left) = Folder::open(&file.folder)?;
                (Some(folder), position, left)
            }
            None => (None, Position::START, None),
        };
        let outlets = |list: &[sidegate_config::schema::audit::Destination]| {
            list.iter().map(|destination| Outlet::start(destination, state, options)).collect::<io::Result<Vec<_>>>()
        };
        let now = Instant::now();
        let blocks = config.file.as_ref().is_some_and(|file| file.on_failure == OnFailure::BlockNewConnections);
        let mut writer = Self {
            config: config.clone(),
            state: state.clone(),
            chain: Chain::new(position, key),
            committed: position,
            folder,
            block: blocks.then(|| Block::new(state.metrics.clone())),
            failing: None,
            batch: Batch::default(),
            auditors,
            signers,
            run: hex(&run),
            sealed_key,
            rotate_after: now,
            copies: outlets(&config.copies).map_err(AuditError::Thread)?,
            anchors: outlets(&config.anchors).map_err(AuditError::Thread)?,
            unsynced: 0,
            unsynced_since: now,
            unsynced_loss: Loss::default(),
            sync_failed: false,
            pending: Vec::new(),
            unsigned: 0,
            last_checkpoint: now,
        };
        writer.first_records(left).map_err(|error| match &config.file {
            Some(file) => crate::FolderError::System(file.folder.clone(), error).into(),
            None => AuditError::Thread(error),
        })?;
        Ok(writer)
    }

    fn first_records(&mut self, left: Option<Left>) -> io::Result<()> {
        self.begin_file()?;
        if let Some(left) = left.filter(|left| !left.closed || left.bytes_cut > 0) {
            let last_seq = self.committed.seq - 1;
            tracing::warn!(
                event = event::AUDIT_RESUMED,
                file = left.file,
                bytes_cut = left.bytes_cut,
                "the audit log was not closed; it goes on after record {last_seq}, and {} bytes behind it were moved aside",
                left.bytes_cut
            );
            let note = "what had not been written when the process ended is not there: records of the last moments, and after a power \
                        failure as many as the settings of the file's first record allow"
                .to_owned();
            self.push(&Event::LogResumed { file: left.file, last_seq, bytes_cut: left.bytes_cut, side_note: left.side_note, note });
        }
        let beginning = self.batch.lines.iter().position(|byte| *byte == b'\n').map(|end| SharedLine::from(&self.batch.lines[..end]));
        self.write_batch()?;
        self.folder.as_mut().map_or(Ok(()), Folder::sync)?;
        // Exported while nobody can have taken the process: its sealed key is then known to be the one of the beginning.
        self.pending.extend(beginning);
        self.synced();
        Ok(())
    }

    /// Begins a file and makes its first record.
    fn begin_file(&mut self) -> io::Result<()> {
        let file = match &mut self.folder {
            Some(folder) => Some(folder.begin(self.committed.seq)?),
            None => None,
        };
        let sync = self.config.file.as_ref().map(|file| file.sync.clone()).unwrap_or_default();
        self.push(&Event::LogOpened {
            file,
            run: self.run.clone(),
            epoch: self.chain.epoch(),
            sealed_key: self.sealed_key.clone(),
            sync_records: sync.records.into(),
            sync_millis: u64::try_from(sync.interval.duration().as_millis()).unwrap_or(u64::MAX),
        });
        Ok(())
    }

    /// Writes until the last sender is gone, then closes the log.
    pub(crate) fn run(mut self, messages: &Receiver<Message>) {
        loop {
            match messages.try_recv() {
                Ok(message) => self.take(message),
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    self.commit();
                    self.keep_house();
                    match messages.recv_timeout(self.until_next()) {
                        Ok(message) => {
                            self.take(message);
                            std::thread::sleep(LINGER);
                        }
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
            }
            if self.batch.lines.len() + self.batch.plain.len() >= BATCH {
                self.commit();
                self.keep_house();
            }
        }
        self.close();
    }

    fn take(&mut self, message: Message) {
        self.state.waiting.fetch_sub(1, Ordering::Relaxed);
        self.tell_of_gap();
        let is_first_svid = matches!(&message.what, What::Event(event) if matches!(**event, Event::IdentityReceived { .. }));
        let event = match message.what {
            What::Admitted(admitted) => Event::ConnectionAdmitted { connection: ConnectionFacts::Admitted(admitted) },
            What::Ended(record, admitted) => {
                let ended = admitted || record.reason.side() == Side::Normal;
                let connection = ConnectionFacts::Ended(record);
                if ended { Event::ConnectionEnded { connection } } else { Event::ConnectionRefused { connection } }
            }
            What::Event(event) => *event,
        };
        self.push_at(message.time, &event);
        self.batch.loss.events += 1;
        if is_first_svid {
            self.checkpoint(CheckpointCause::Identity);
        }
    }

    /// Says in the log that records are missing before it goes on.
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

    /// Keeps the last line for those who get copies.
    fn copy(&mut self, start: usize, plain: bool) {
        if !self.copies.is_empty() {
            let text = if plain { &self.batch.plain } else { &self.batch.lines };
            self.batch.copies.push(text[start..text.len() - 1].into());
        }
    }

    /// A record that is no JSON, which no type of ours yields; but no record goes unseen.
    fn unwritable(&self, error: &str) {
        self.state.missing.fetch_add(1, Ordering::Relaxed);
        self.state.metrics.dropped(Way::Audit, Cause::Rejected).inc();
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

    /// Writes the batch; where the file blocks, until it can be written. False if it was lost: that is counted.
    fn commit(&mut self) -> bool {
        let written = self.write_or_lose();
        // Only what is on the disk shows that it takes records again.
        if written == Some(true) && self.failing.is_some() && self.sync() {
            self.recovered();
        }
        written.is_some()
    }

    /// Whether there was something to write; none if it was lost.
    fn write_or_lose(&mut self) -> Option<bool> {
        let start = Instant::now();
        loop {
            match self.write_batch() {
                Ok(written) => return Some(written),
                Err(error) => self.failed(&error),
            }
            if !self.tries_again(start) {
                self.lose_batch();
                return None;
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Whether something that fails since `start` is tried until it succeeds.
    fn tries_again(&self, start: Instant) -> bool {
        let ends = self.state.closing.load(Ordering::Relaxed) && start.elapsed() > PATIENCE;
        self.block.is_some() && !ends
    }

    /// False if there is nothing to write.
    fn write_batch(&mut self) -> io::Result<bool> {
        self.seal();
        if self.batch.lines.is_empty() {
            return Ok(false);
        }
        if let Some(folder) = &mut self.folder {
            folder.append(&self.batch.lines)?;
        }
        self.written();
        Ok(true)
    }

    /// The batch is in the file.
    fn written(&mut self) {
        self.committed = self.chain.position();
        let batch = &mut self.batch;
        batch.lines.clear();
        if self.unsynced == 0 {
            self.unsynced_since = Instant::now();
        }
        self.unsynced += batch.records;
        self.unsigned += batch.records;
        self.state.metrics.audit_records().add(batch.records);
        batch.records = 0;
        let loss = std::mem::take(&mut batch.loss);
        self.unsynced_loss.events += loss.events;
        self.unsynced_loss.told += loss.told;
        for line in batch.copies.drain(..) {
            self.copies.iter().for_each(|outlet| outlet.send(line.clone()));
        }
    }

    fn lose_batch(&mut self) {
        self.chain.go_back(self.committed);
        let lost = std::mem::take(&mut self.batch);
        self.lose(&lost.loss);
    }

    fn lose(&self, loss: &Loss) {
        self.state.missing.fetch_add(loss.events + loss.told, Ordering::Relaxed);
        self.state.metrics.dropped(Way::Audit, Cause::ExportFailed).add(loss.events);
    }

    fn failed(&mut self, error: &io::Error) {
        self.block.iter().for_each(|block| block.set(true));
        let error = error.to_string();
        if self.failing.as_ref() != Some(&error) {
            let means = if self.block.is_some() { "new connections are refused" } else { "records are dropped" };
            tracing::error!(event = event::AUDIT_FAILING, "the audit log can't be written, {means}: {error}");
            self.failing = Some(error);
        }
    }

    fn recovered(&mut self) {
        if self.failing.take().is_some() {
            self.block.iter().for_each(|block| block.set(false));
            tracing::info!(event = event::AUDIT_RECOVERED, "the audit log can be written again");
        }
    }

    /// How long nothing has to be done but for messages.
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
        let next = [sync, checkpoint, rotate].into_iter().flatten().min();
        // Not at once again, where something that is due fails.
        next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), IDLE))
    }

    /// What is due: sync, checkpoint, a new file.
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
    }

    /// Brings what is written onto the disk. If that fails, another file begins, which says what may be missing in this one;
    /// where the file blocks, that is tried until it succeeds.
    fn sync(&mut self) -> bool {
        if !self.sync_failed {
            self.unsynced_since = Instant::now();
            match self.folder.as_mut().map_or(Ok(()), Folder::sync) {
                Ok(()) => {
                    self.synced();
                    return true;
                }
                Err(error) => self.failed(&error),
            }
            self.sync_failed = true;
        } else if Instant::now() < self.rotate_after && !self.state.closing.load(Ordering::Relaxed) {
            return false;
        }
        self.unsynced = 0;
        let loss = std::mem::take(&mut self.unsynced_loss);
        self.lose(&loss);
        let start = Instant::now();
        while let Err(error) = self.next_file() {
            self.failed(&error);
            if !self.tries_again(start) {
                return false;
            }
            std::thread::sleep(RETRY);
        }
        self.sync_failed = false;
        self.recovered();
        true
    }

    /// All that is written is on the disk.
    fn synced(&mut self) {
        self.unsynced = 0;
        self.unsynced_loss = Loss::default();
        for line in self.pending.drain(..) {
            self.anchors.iter().for_each(|outlet| outlet.send(line.clone()));
        }
    }

    /// Begins another file and brings its first records onto the disk; the batch is empty before. After an error the file
    /// before goes on.
    fn next_file(&mut self) -> io::Result<()> {
        let begun = self.begin_file().and_then(|()| {
            self.tell_of_gap();
            let Some(folder) = &mut self.folder else { return Ok(()) };
            folder.append(&self.batch.lines)?;
            folder.sync()
        });
        if begun.is_ok() {
            self.written();
            self.synced();
        } else {
            self.rotate_after = Instant::now() + ROTATE_AGAIN;
            self.lose_batch();
            self.folder.iter_mut().for_each(Folder::go_back);
        }
        begun
    }

    fn signer(&self) -> Option<SigningKey> {
        match &self.signers {
            Signers::Configured(key) => Some(key.clone()),
            Signers::Svid(identity) => identity.get()?.borrow().material.as_deref().and_then(SigningKey::of_svid),
        }
    }

    /// Writes and signs a checkpoint and ends the epoch; exports it once it is on the disk. False if it could not be written.
    fn checkpoint(&mut self, cause: CheckpointCause) -> bool {
        // Whether it succeeds or not: the next one is due an interval later.
        self.last_checkpoint = Instant::now();
        self.tell_of_gap();
        if !self.commit() {
            return false;
        }
        let signer = self.signer();
        let event = Event::LogCheckpoint {
            run: self.run.clone(),
            epoch: self.chain.epoch(),
            cause,
            signer: signer.as_ref().map(|signer| signer.signer().clone()),
        };
        let now = SystemTime::now();
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
            // The newest one stands for those before it. The first may be the run's beginning.
            self.pending.pop();
            self.state.metrics.dropped(Way::AuditCopies, Cause::ExportFailed).add(self.anchors.len() as u64);
        }
        self.pending.push(line);
        if self.sync() {
            self.recovered();
        }
        true
    }

    /// Ends the file with a checkpoint, begins another, and deletes those that are not to stay.
    fn rotate(&mut self) {
        if !self.checkpoint(CheckpointCause::Rotation) || self.sync_failed {
            return;
        }
        // Neither keeps records from being written: the old file goes on, and grows beyond its size, until there is room for another.
        if let Err(error) = self.next_file() {
            tracing::error!(event = event::AUDIT_FAILING, "no new file of the audit log can be begun, the old one goes on: {error}");
        } else if let Err(error) = self.retire() {
            tracing::error!(event = event::AUDIT_FAILING, "old files of the audit log can't be deleted: {error}");
        }
    }

    /// First the log says what goes, then it goes.
    fn retire(&mut self) -> io::Result<()> {
        let (Some(folder), Some(file)) = (&self.folder, &self.config.file) else { return Ok(()) };
        let retired = folder.to_retire(&file.retain)?;
        if retired.is_empty() {
            return Ok(());
        }
        for old in &retired {
            self.push(&Event::LogRetired { file: old.name.clone(), last_seq: old.last_seq, last_hash: hex(&old.last_hash) });
        }
        if !self.commit() || !self.sync() {
            return Ok(());
        }
        let Some(folder) = &self.folder else { return Ok(()) };
        retired.iter().try_for_each(|old| folder.delete(old))
    }

    fn close(mut self) {
        self.checkpoint(CheckpointCause::Shutdown);
        let since = Instant::now();
        let closing: Vec<_> = self.copies.drain(..).chain(self.anchors.drain(..)).map(Outlet::close).collect();
        closing.into_iter().for_each(|outlet| outlet.join(since));
    }
}

#[cfg(test)]
mod tests;
