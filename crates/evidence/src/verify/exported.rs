//! Comparing a log with what was exported of it: checkpoints, and the beginnings of runs.

use std::path::Path;

use super::Verifier;
use crate::read::{ReadError, Record};
use crate::signature::{SignatureVerdict, verify_signature};
use sidegate_audit::Event;
use sidegate_audit::hex::sha256;
use sidegate_audit::line::LogLine;

/// An exported checkpoint, or the exported beginning of a run.
#[derive(Debug, Clone)]
pub struct Anchor {
    seq: u64,
    line: Vec<u8>,
    place: String,
    /// Not a whole record: what a crash leaves of a line that was being written.
    torn: bool,
}

impl Anchor {
    /// Whether it is a whole record, and so says something.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.torn
    }
}

/// Bytes of a file of exported checkpoints: of some 100,000, which is one a minute for two months.
const MOST: usize = 256 * 1024 * 1024;

/// Reads a file of what was exported, one a line: checkpoints, and the beginnings of runs.
///
/// # Errors
/// If it can't be read, or a record is neither.
pub fn anchors(file: &Path) -> Result<Vec<Anchor>, ReadError> {
    let text = sidegate_config::file::read(file, MOST).map_err(|error| ReadError::File(file.to_owned(), error))?;
    let lines = text.split(|byte| *byte == b'\n').zip(1..).filter(|(line, _)| !line.is_empty());
    let anchor = |(line, number): (&[u8], u64)| {
        let wrong = |why: String| ReadError::Line { file: file.to_owned(), line: number, why };
        let place = format!("{}:{number}", file.display());
        if serde_json::from_slice::<serde_json::Value>(line).is_err() {
            return Ok(Anchor { seq: 0, line: Vec::new(), place, torn: true });
        }
        let (_, head) = LogLine::parse(line).map_err(wrong)?;
        if !matches!(head.event.as_str(), "log.checkpoint" | "log.opened") {
            return Err(wrong("it is neither a checkpoint nor the beginning of a run".to_owned()));
        }
        Ok(Anchor { seq: head.seq, line: line.to_owned(), place, torn: false })
    };
    lines.map(anchor).collect()
}

impl Verifier<'_> {
    /// `whole` says whether it is the whole log, and not one of its files.
    pub(super) fn check_anchors(&mut self, whole: bool) {
        let (first, last) = (self.report.first_seq, self.report.last_seq);
        let Some(anchors) = &self.given.anchors else { return };
        let (mut reaches, mut later) = (false, 0);
        for anchor in anchors {
            if anchor.torn {
                self.report.unproven.push(format!("{} is no whole record: it was being exported, or was cut off", anchor.place));
                continue;
            }
            self.file.clone_from(&anchor.place);
            if let Some(why) = self.anchor_itself(anchor) {
                self.find(Some(anchor.seq), format!("the exported checkpoint is not to be trusted: {why}"));
            } else if anchor.seq > last && !whole {
                later += 1;
            } else if anchor.seq > last {
                self.find(
                    Some(anchor.seq),
                    format!("the log ends with record {last}, but record {} was exported: what came after was cut off", anchor.seq),
                );
            } else if anchor.seq.saturating_add(1) >= first {
                let hash = sha256(&anchor.line);
                let is_it = if anchor.seq < first {
                    // The last of those that were deleted: the first that is left is linked to it, and goes on with its epoch.
                    self.first_prev == hash && self.begins_after(anchor)
                } else {
                    self.checkpoints.get(&anchor.seq).or(self.openings.get(&anchor.seq)) == Some(&hash)
                };
                if is_it {
                    reaches = true;
                    self.report.anchored = self.report.anchored.max(anchor.seq);
                    self.mark(anchor.seq);
                } else {
                    self.find(Some(anchor.seq), "it differs from the record that was exported: the log was replaced or changed");
                }
            }
            self.anchor_run(anchor);
        }
        if later > 0 {
            self.report
                .unproven
                .push(format!("{later} exported records come after this file: give the folder to compare the log with them"));
        }
        self.report.later_exports = later;
        if reaches || later > 0 || anchors.iter().all(|anchor| anchor.torn) {
            return;
        }
        // Of a log that lost its first files to `retain`, the checkpoint at the end of the last of them was exported at least.
        if self.report.findings.is_empty() {
            self.find(
                None,
                format!("none of the exported records is one of what is here, records {first} to {last}: it may be another log"),
            );
        }
        // The epoch with which it begins is then only what it says.
        if let Some(beginning) = self.beginnings.first_mut().filter(|beginning| beginning.epoch > 0) {
            beginning.anchored = false;
        }
    }

    /// Whether the epoch with which the log begins is the one that an exported record leads to.
    fn begins_after(&self, anchor: &Anchor) -> bool {
        let Ok(Record { event, .. }) = serde_json::from_slice(&anchor.line) else { return false };
        let (run, next) = match event {
            Event::LogCheckpoint { run, epoch, .. } => (run, epoch.saturating_add(1)),
            Event::LogOpened { run, epoch, .. } => (run, epoch),
            _ => return false,
        };
        self.beginnings.first().is_some_and(|b| b.epoch == if b.run == run { next } else { 0 })
    }

    /// Compares the exported beginning of a run with that run, of which the first file may have been deleted.
    fn anchor_run(&mut self, anchor: &Anchor) {
        let Ok(Record { event: Event::LogOpened { run, sealed_key, .. }, .. }) = serde_json::from_slice(&anchor.line) else { return };
        let Some(beginning) = self.beginnings.iter_mut().find(|b| b.run == run) else { return };
        beginning.anchored = beginning.sealed_key == sealed_key;
        if !beginning.anchored {
            let seq = beginning.seq;
            self.find(Some(seq), "the key of this run is not the one with which it was exported: the log was replaced or changed");
        }
    }

    /// What is wrong with an exported checkpoint itself. The beginning of a run has no signature; who could export a false one
    /// could export false checkpoints too.
    fn anchor_itself(&mut self, anchor: &Anchor) -> Option<String> {
        let (line, _) = LogLine::parse(&anchor.line).ok()?;
        let record: Record = match serde_json::from_slice(&anchor.line) {
            Ok(record) => record,
            Err(error) => return Some(error.to_string()),
        };
        let Event::LogCheckpoint { signer: Some(signer), .. } = &record.event else { return None };
        let time = humantime::parse_rfc3339(&record.time).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        let Some((message, signature)) = line.signature() else { return Some("its signature is missing".to_owned()) };
        let time = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match verify_signature(signer, &message, &signature, time, &self.given.trust, &mut self.refused) {
            SignatureVerdict::Refused(why) => Some(why),
            SignatureVerdict::Proven | SignatureVerdict::Somebody => None,
        }
    }
}
