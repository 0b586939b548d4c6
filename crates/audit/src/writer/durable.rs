//! Writes records to the file and the disk: batches, syncs, new files, and failures of the disk.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sidegate_core::event;
use sidegate_telemetry::{Cause, DropSource};

use super::{Loss, Writer};
use crate::destination::SharedLine;
use crate::event::{CheckpointCause, Event};
use crate::folder::{Folder, LeftBehind};
use crate::hex::hex;

/// The pause before a full disk is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// The pause before a failed rotation is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(10);
/// The pause before a failed deletion of old files is tried again.
const RETIRE_AGAIN: Duration = Duration::from_secs(600);

impl Writer {
    /// Writes the batch. If the file blocks, tries until it can be written. False if the batch was lost, which is counted.
    pub(super) fn commit(&mut self) -> bool {
        let written = self.write_or_lose();
        // Only what is on the disk shows that it takes records again.
        if written == Some(true) && self.failing.is_some() && self.sync() {
            self.recovered();
        }
        written.is_some()
    }

    /// Whether there was something to write; none if it was lost.
    pub(super) fn write_or_lose(&mut self) -> Option<bool> {
        loop {
            match self.write_batch() {
                Ok(written) => return Some(written),
                Err(error) => self.failed(&error),
            }
            if !self.tries_again() {
                self.lose_batch();
                return None;
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Whether something that fails is tried again: until it succeeds, or the end has waited for the disk as long as it may.
    fn tries_again(&self) -> bool {
        self.backpressure.is_some() && !self.state.gives_up_disk()
    }

    /// False if there is nothing to write.
    pub(super) fn write_batch(&mut self) -> io::Result<bool> {
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

    pub(super) fn lose_batch(&mut self) {
        self.chain.go_back(self.committed);
        let lost = std::mem::take(&mut self.batch);
        self.lose(&lost.loss);
    }

    fn lose(&self, loss: &Loss) {
        self.state.missing.fetch_add(loss.events + loss.told, Ordering::Relaxed);
        self.state.metrics.dropped(DropSource::Audit, Cause::ExportFailed).add(loss.events);
    }

    pub(super) fn failed(&mut self, error: &io::Error) {
        self.backpressure.iter().for_each(|backpressure| backpressure.set(true));
        let error = error.to_string();
        // Without a file only the reason why it can't be begun is reported.
        let is_told = self.failing.is_some() && self.folder.as_ref().is_some_and(Folder::is_unbegun);
        if !is_told && self.failing.as_ref() != Some(&error) {
            let means = if self.backpressure.is_some() { "new connections are refused" } else { "records are dropped" };
            tracing::error!(event = event::AUDIT_FAILING, "the audit log can't be written, {means}: {error}");
            self.failing = Some(error);
        }
    }

    pub(super) fn recovered(&mut self) {
        if self.failing.take().is_some() {
            self.backpressure.iter().for_each(|backpressure| backpressure.set(false));
            tracing::info!(event = event::AUDIT_RECOVERED, "the audit log can be written again");
        }
    }

    /// Syncs the written records to the disk, or else begins another file. False if neither succeeds.
    pub(super) fn sync(&mut self) -> bool {
        self.sync_file() || self.replace_file()
    }

    /// Syncs the written records to the disk. False if that fails, or has failed before.
    pub(super) fn sync_file(&mut self) -> bool {
        if self.sync_failed {
            return false;
        }
        self.unsynced_since = Instant::now();
        match self.folder.as_mut().map_or(Ok(()), Folder::sync) {
            Ok(()) => self.synced(),
            Err(error) => {
                self.failed(&error);
                self.sync_failed = true;
                // Another file is begun at once.
                self.rotate_after = Instant::now();
            }
        }
        !self.sync_failed
    }

    /// After a sync that failed: begins another file, which says what may be missing in this one. Where the file blocks, that is
    /// tried until it succeeds.
    pub(super) fn replace_file(&mut self) -> bool {
        if Instant::now() < self.rotate_after && !self.state.is_closing() {
            return false;
        }
        self.unsynced = 0;
        let loss = std::mem::take(&mut self.unsynced_loss);
        self.lose(&loss);
        while let Err(error) = self.next_file() {
            self.failed(&error);
            if !self.tries_again() {
                return false;
            }
            std::thread::sleep(RETRY);
        }
        self.sync_failed = false;
        self.recovered();
        true
    }

    /// Everything written is on the disk.
    pub(super) fn synced(&mut self) {
        self.unsynced = 0;
        self.unsynced_loss = Loss::default();
        for line in self.pending.drain(..) {
            self.anchors.iter().for_each(|outlet| outlet.send(line.clone()));
        }
    }

    /// Begins another file and brings its first records onto the disk; the batch is empty before. After an error the file
    /// before goes on, if there is one.
    pub(super) fn next_file(&mut self) -> io::Result<()> {
        let begun = self.begin_file().and_then(|()| {
            self.tell_of_gap();
            let Some(folder) = &mut self.folder else { return Ok(()) };
            folder.append(&self.batch.lines)?;
            folder.sync()
        });
        if begun.is_ok() {
            self.left = None;
            if std::mem::take(&mut self.run_begins) {
                // It is exported before an attacker can have taken over the process, so its encrypted key is known to be the first one.
                let end = self.batch.lines.iter().position(|byte| *byte == b'\n');
                self.pending.extend(end.map(|end| SharedLine::from(&self.batch.lines[..end])));
            }
            self.written();
            self.synced();
        } else {
            self.rotate_after = Instant::now() + ROTATE_AGAIN;
            self.lose_batch();
            self.folder.iter_mut().for_each(Folder::go_back);
        }
        begun
    }

    /// Begins a file and makes its first records.
    fn begin_file(&mut self) -> io::Result<()> {
        let file = match &mut self.folder {
            Some(folder) => Some(folder.begin(self.committed)?),
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
        if let Some(LeftBehind { file, bytes_cut, side_note, .. }) = self.left.clone() {
            let note = "what had not been written when the process ended is not there: records of the last moments, and after a power \
                        failure as many as the settings of the file's first record allow"
                .to_owned();
            self.push(&Event::LogResumed { file, last_seq: self.committed.seq - 1, bytes_cut, side_note, note });
        }
        Ok(())
    }

    /// Ends the file with a checkpoint, begins another, and deletes files beyond `retain`.
    pub(super) fn rotate(&mut self) {
        if !self.checkpoint(CheckpointCause::Rotation) {
            self.rotate_after = Instant::now() + ROTATE_AGAIN;
            return;
        }
        // Neither keeps records from being written: the old file goes on, and grows beyond its size, until there is room for another.
        if let Err(error) = self.next_file() {
            tracing::error!(event = event::AUDIT_FAILING, "no new file of the audit log can be begun, the old one goes on: {error}");
        } else {
            self.retire_after = Some(Instant::now());
        }
    }

    /// The log first records what will be deleted. The files are deleted only once a signed checkpoint on the disk covers these
    /// records. Else an attacker who takes over the process or writes to the file could claim something else about files that are
    /// gone. Without a signing key nothing is deleted.
    pub(super) fn retire(&mut self) {
        self.retire_after = None;
        let (Some(folder), Some(file)) = (&self.folder, &self.config.file) else { return };
        let retired = folder.to_retire(&file.retain);
        if retired.is_empty() {
            return;
        }
        for old in &retired {
            self.push(&Event::LogRetired { file: old.name.clone(), last_seq: old.last_seq, last_hash: hex(old.last_hash) });
        }
        // Not at once again, since each try records the deletion again.
        self.retire_after = Some(Instant::now() + RETIRE_AGAIN);
        if !self.checkpoint(CheckpointCause::Retention) || !self.signs {
            return;
        }
        let Some(folder) = &mut self.folder else { return };
        match retired.iter().try_for_each(|_| folder.delete_oldest()) {
            Ok(()) => self.retire_after = None,
            Err(error) => tracing::error!(event = event::AUDIT_FAILING, "old files of the audit log can't be deleted: {error}"),
        }
    }
}
