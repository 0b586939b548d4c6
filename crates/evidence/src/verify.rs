//! Verifying a log: every change, removal, insertion and reordering is found and named, and what can't be proved is said.

mod exported;
mod proved;
mod report;
mod unproven;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use sidegate_core::counted;

pub use exported::{Anchor, anchors};
pub use report::{LogFinding, LogVerdict, OpenTail, Report};

use crate::decryption::AuditorKeys;
use crate::read::{ReadError, Record, log_files, unseal};
use crate::signature::{Refused, SignatureVerdict, Trust, verify_signature};
use sidegate_audit::folder::name_of;
use sidegate_audit::hex::{hex, sha256};
use sidegate_audit::key::{EpochKey, Hash};
use sidegate_audit::line::{self, LONGEST, LineHead, LogLine, Next};
use sidegate_audit::{CheckpointCause, Event, Signer, VERSION};

/// How often a folder is listed again, when a file was deleted by `retain` before its turn came.
const LISTINGS: usize = 5;
/// At most this many findings are kept; the others are only counted.
const FINDINGS: usize = 1000;
/// At most this many keys are derived to reach the epoch with which a file begins, so that a forged number does not cost hours.
const EPOCHS: u64 = 1_000_000;

/// What a log is verified with. The more is given, the more is proved.
#[derive(Debug, Default)]
pub struct VerifyInputs {
    /// Who may have signed checkpoints.
    pub trust: Trust,
    /// Checkpoints that were exported.
    pub anchors: Option<Vec<Anchor>>,
    /// An auditor's keys: for MACs, and for what is encrypted.
    pub keys: AuditorKeys,
}

/// Verifies the log at `path`, a folder or one file of it.
///
/// # Errors
/// If it can't be read. Faults of the log are no errors, but findings of the report.
pub fn verify(path: &Path, given: &VerifyInputs) -> Result<Report, ReadError> {
    let is_gone = |result: &Result<Report, ReadError>| match result {
        Err(ReadError::File(file, error)) => file != path && error.kind() == ErrorKind::NotFound,
        _ => false,
    };
    let mut result = verify_listed(path, given);
    for _ in 1..LISTINGS {
        if !is_gone(&result) {
            break;
        }
        result = verify_listed(path, given);
    }
    result
}

fn verify_listed(path: &Path, given: &VerifyInputs) -> Result<Report, ReadError> {
    let files = log_files(path)?;
    let mut verifier = Verifier::new(given);
    for (i, file) in files.iter().enumerate() {
        verifier.file(file, i + 1 == files.len())?;
    }
    Ok(verifier.finish(path.is_dir()))
}

/// What the next line must be.
#[derive(Clone, Copy)]
struct ExpectedLink {
    seq: u64,
    prev: Hash,
}

/// The first record of a run.
struct Beginning {
    seq: u64,
    run: String,
    /// 0, but for a run whose first files were deleted.
    epoch: u64,
    sealed_key: Option<String>,
    /// Whether what was exported says that this is its key.
    anchored: bool,
    /// The last record of the run that a trusted signature or an exported record proves; 0 without one.
    mark: u64,
    /// The last record of the run whose MAC was not checked; 0 without one.
    unchecked: u64,
}

/// Records behind the last signed checkpoint, all of one run.
struct Unsigned {
    first: u64,
    last: u64,
    /// Whether all their MACs were checked.
    checked: bool,
    /// The beginning of the run, if it is one of them: then nothing says that its key is the writer's.
    beginning: Option<usize>,
}

/// A file that was deleted, as the record `seq` says.
struct Retired {
    seq: u64,
    last_seq: u64,
    last_hash: String,
}

struct Verifier<'a> {
    given: &'a VerifyInputs,
    report: Report,
    file: String,
    line: u64,
    expected: Option<ExpectedLink>,
    /// The link of the very first record.
    first_prev: Hash,
    /// The epoch of the running process, as its records say.
    epoch: u64,
    /// The key of that epoch, if it is known.
    key: Option<EpochKey>,
    /// Keys that may still be derived.
    epochs_left: u64,
    /// The last record that is behind us: a signed checkpoint, or the end of a run without one.
    signed: u64,
    /// Whether all MACs since then were checked.
    checked: bool,
    /// The ends of runs that no signed checkpoint of theirs covers.
    abandoned: Vec<Unsigned>,
    /// Runs whose key is not known.
    unauthenticated: bool,
    /// Whether the last record closed the log.
    closed: bool,
    /// Whether a new run has begun on a log that was not closed, which the next record has to say.
    owes_resumed: bool,
    /// All checkpoints, and the beginnings of files: what is exported.
    checkpoints: BTreeMap<u64, Hash>,
    openings: BTreeMap<u64, Hash>,
    /// When the records were made with which an unproved end of the log may begin: the first of each file, and what follows these
    /// and checkpoints.
    times: BTreeMap<u64, String>,
    /// Whether the next record is one of them.
    is_timed: bool,
    /// The first records of runs; the last one's is the running process.
    beginnings: Vec<Beginning>,
    retired: Vec<Retired>,
    refused: Refused,
}

impl<'a> Verifier<'a> {
    fn new(given: &'a VerifyInputs) -> Self {
        Self {
            given,
            report: Report::default(),
            file: String::new(),
            line: 0,
            expected: None,
            first_prev: [0; 32],
            epoch: 0,
            key: None,
            epochs_left: EPOCHS,
            signed: 0,
            checked: true,
            abandoned: Vec::new(),
            unauthenticated: false,
            closed: true,
            owes_resumed: false,
            checkpoints: BTreeMap::new(),
            openings: BTreeMap::new(),
            times: BTreeMap::new(),
            is_timed: true,
            beginnings: Vec::new(),
            retired: Vec::new(),
            refused: Refused::default(),
        }
    }

    fn find(&mut self, seq: Option<u64>, what: impl Into<String>) {
        if self.report.findings.len() < FINDINGS {
            self.report.findings.push(LogFinding { file: self.file.clone(), line: self.line, seq, what: what.into() });
        } else {
            self.report.more_findings += 1;
        }
    }

    /// The last file may be written at the moment.
    fn file(&mut self, path: &PathBuf, is_last: bool) -> Result<(), ReadError> {
        let failed = |error| ReadError::File(path.clone(), error);
        self.file = name_of(path);
        self.line = 0;
        self.report.files.push(self.file.clone());
        let mut file = BufReader::with_capacity(256 * 1024, File::open(path).map_err(failed)?);
        let mut text = Vec::new();
        loop {
            let next = line::next(&mut file, &mut text).map_err(failed)?;
            if next != Next::End {
                self.line += 1;
            }
            match next {
                Next::Whole => self.line(&text),
                Next::TooLong => {
                    self.find(self.expected.map(|e| e.seq), format!("it is longer than {LONGEST} bytes, as no record is"));
                    self.checked = false;
                    file.skip_until(b'\n').map_err(failed)?;
                }
                // If the rest has come meanwhile, it is not read as a line of its own.
                Next::Part => {
                    self.torn(&text, is_last);
                    return Ok(());
                }
                Next::End => {
                    if self.line == 0 && is_last {
                        self.report.unproven.push(format!("{} is empty: it has just begun, or its records are gone", self.file));
                    } else if self.line == 0 {
                        self.find(None, "the file is empty: its records are gone");
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The end of a file that is no whole record.
    fn torn(&mut self, text: &[u8], is_last: bool) {
        let bytes = text.len();
        if is_last && self.is_part(text) {
            self.report.unproven.push(format!(
                "{} ends in {} of a record: it is being written, or was cut off",
                self.file,
                counted(bytes as u64, "byte")
            ));
        } else {
            self.find(self.expected.map(|e| e.seq), format!("what is left of a record, {}: it was cut off", counted(bytes as u64, "byte")));
        }
    }

    /// Whether it can be the beginning of the next record, whose rest is still to come.
    fn is_part(&self, text: &[u8]) -> bool {
        let seq = self.expected.map_or_else(String::new, |e| format!("{},", e.seq));
        let head = format!(r#"{{"v":{VERSION},"seq":{seq}"#);
        let len = head.len().min(text.len());
        text[..len] == head.as_bytes()[..len] && !text.iter().any(u8::is_ascii_control)
    }

    fn line(&mut self, text: &[u8]) {
        let (line, head) = match LogLine::parse(text) {
            Ok(parsed) => parsed,
            Err(why) => {
                let seq = self.expected.map(|e| e.seq);
                self.find(seq, format!("it was changed: {why}"));
                // The next line is verified against this one.
                self.expected = Some(ExpectedLink { seq: seq.unwrap_or(1).saturating_add(1), prev: sha256(text) });
                self.checked = false;
                return;
            }
        };
        self.linked(&line, &head);
        let hash = line.hash();
        self.expected = Some(ExpectedLink { seq: head.seq.saturating_add(head.records), prev: hash });
        self.report.records = self.report.records.saturating_add(head.records);
        self.report.last_seq = head.seq.saturating_add(head.records - 1);
        self.report.last_hash = hex(hash);
        let of_the_log = head.event.starts_with("log.");
        let is_mark = matches!(head.event.as_str(), "log.checkpoint" | "log.opened");
        if std::mem::replace(&mut self.is_timed, is_mark) || head.event == "log.opened" {
            self.times.insert(head.seq, head.time.clone());
        }
        if self.line == 1 && head.event != "log.opened" {
            self.find(Some(head.seq), "the file does not begin with `log.opened`: its beginning is missing");
        }
        // A process that was killed before it could say so leaves it to the next one.
        if self.owes_resumed && head.event != "log.opened" {
            self.owes_resumed = false;
            if head.event != "log.resumed" {
                self.find(Some(head.seq), "the log before was not closed, and no `log.resumed` says so");
            }
        }
        if self.closed && self.line > 1 {
            self.find(Some(head.seq), "the log was closed before it");
        }
        if of_the_log {
            match serde_json::from_slice::<Record>(text) {
                Ok(record) => self.of_the_log(&line, hash, record),
                Err(error) => self.find(Some(head.seq), format!("it was changed: {error}")),
            }
        } else {
            self.authenticate(&line, head.seq);
            self.closed = false;
        }
        if line.signature.is_some() && head.event != "log.checkpoint" {
            self.find(Some(head.seq), "it has a signature, and is no checkpoint");
        }
    }

    /// Whether it follows what is before it.
    fn linked(&mut self, line: &LogLine<'_>, head: &LineHead) {
        let Some(expected) = self.expected else {
            self.report.first_seq = head.seq;
            self.first_prev = line.prev;
            if head.seq == 1 && line.prev != [0; 32] {
                self.find(Some(1), "the first record is linked to one before it, which is gone");
            }
            return;
        };
        if head.seq > expected.seq {
            let last = head.seq - 1;
            let what = if expected.seq == last { format!("record {last} is") } else { format!("records {} to {last} are", expected.seq) };
            self.find(Some(head.seq), format!("{what} missing before it"));
        } else if head.seq < expected.seq {
            self.find(Some(head.seq), format!("it stands where record {} should: it was moved, repeated or inserted", expected.seq));
        } else if line.prev != expected.prev {
            let before = expected.seq.saturating_sub(1);
            self.find(Some(before), format!("record {before} is not what record {} was linked to: one of them was changed", head.seq));
        }
    }

    fn authenticate(&mut self, line: &LogLine<'_>, seq: u64) {
        match &self.key {
            Some(key) if key.mac(&sha256(line.authenticated)) == line.mac => self.report.authenticated += 1,
            Some(_) => {
                self.checked = false;
                self.find(Some(seq), "its MAC does not fit: it was made without the key of its epoch");
            }
            None => {
                (self.checked, self.unauthenticated) = (false, true);
                if let Some(run) = self.beginnings.last_mut() {
                    run.unchecked = seq;
                }
            }
        }
    }

    fn of_the_log(&mut self, line: &LogLine<'_>, hash: Hash, record: Record) {
        let seq = record.seq;
        if let Event::LogOpened { file, run, epoch, sealed_key, .. } = &record.event {
            self.openings.insert(seq, hash);
            self.opened(seq, file.as_deref(), run, *epoch, sealed_key.as_deref());
        }
        self.authenticate(line, seq);
        // Without a signature anyone could have written it, to hide that the process was killed.
        let closes = line.signature.is_some() && matches!(record.event, Event::LogCheckpoint { cause: CheckpointCause::Shutdown, .. });
        match record.event {
            Event::LogCheckpoint { run, epoch, signer, .. } => {
                self.checkpoints.insert(seq, hash);
                let fits = self.beginnings.last().is_some_and(|b| b.run == run) && self.epoch == epoch;
                if !fits {
                    self.find(Some(seq), "it is the checkpoint of another run or epoch");
                }
                self.signature(line, seq, &record.time, signer.as_ref());
                self.epoch = self.epoch.saturating_add(1);
                if let Some(key) = &mut self.key {
                    key.ratchet();
                }
            }
            Event::LogGap { missing } => self.report.missing = self.report.missing.saturating_add(missing),
            Event::LogResumed { .. } => self.report.resumed += 1,
            Event::LogRetired { last_seq, last_hash, .. } => self.retired.push(Retired { seq, last_seq, last_hash }),
            Event::LogSealed { records, age } if !self.given.keys.is_empty() => match unseal(&age, &self.given.keys) {
                Ok(inside) if inside.len() as u64 == records && inside.iter().zip(seq..).all(|(r, seq)| r.seq == seq) => {}
                Ok(_) => self.find(Some(seq), "the records in it are not those that it says"),
                Err(why) => self.find(Some(seq), format!("it can't be decrypted: {why}")),
            },
            _ => {}
        }
        self.closed = closes;
    }

    fn opened(&mut self, seq: u64, file: Option<&str>, run: &str, epoch: u64, sealed_key: Option<&str>) {
        if self.line != 1 {
            self.find(Some(seq), "`log.opened` stands inside a file: files were put together, or it was inserted");
        }
        if let Some(name) = file.filter(|name| *name != self.file) {
            self.find(Some(seq), format!("the file was {name} when it was written"));
        }
        let sealed_key = sealed_key.map(str::to_owned);
        if let Some(beginning) = self.beginnings.last().filter(|b| b.run == run) {
            if beginning.sealed_key != sealed_key {
                self.find(Some(seq), "the key of this run is not the one with which it began");
            }
            if self.closed {
                self.find(Some(seq), "the log was closed before it");
            }
            // An attacker who takes over a process has the key of its epoch, and could continue from any earlier file with it.
            if epoch != self.epoch {
                self.find(
                    Some(seq),
                    format!("it goes on with epoch {epoch} where {} is due: the checkpoints between are missing", self.epoch),
                );
                // The following lines are verified against this one.
                self.go_to(epoch);
            }
            return;
        }
        let is_first = seq == self.report.first_seq;
        if epoch > 0 && (!is_first || seq == 1) {
            self.find(Some(seq), format!("a run begins with epoch {epoch}: what it wrote before is missing"));
        }
        self.epoch = epoch;
        self.owes_resumed |= !self.beginnings.is_empty() && !self.closed;
        // The new run goes on behind whatever is linked, without having seen it being written.
        if let Some(unsigned) = self.unsigned(seq.saturating_sub(1)) {
            self.signed = unsigned.last;
            self.abandoned.push(unsigned);
        }
        self.checked = true;
        self.key = sealed_key.as_deref().and_then(|sealed| self.open_key(seq, epoch, sealed));
        self.beginnings.push(Beginning { seq, run: run.to_owned(), epoch, sealed_key, anchored: false, mark: 0, unchecked: 0 });
    }

    /// Goes on with the key of a later epoch.
    fn go_to(&mut self, epoch: u64) {
        let steps = epoch.saturating_sub(self.epoch);
        self.epoch = epoch;
        let left = self.epochs_left.checked_sub(steps);
        self.epochs_left = left.unwrap_or(0);
        self.key = self.key.take().filter(|_| left.is_some());
        if let Some(key) = &mut self.key {
            while key.epoch() < epoch && key.ratchet() {}
        }
    }

    /// The key of `epoch` of a run whose first key is sealed, if it can be opened.
    fn open_key(&mut self, seq: u64, epoch: u64, sealed: &str) -> Option<EpochKey> {
        if self.given.keys.is_empty() {
            return None;
        }
        // Each epoch has ended with a record.
        if epoch > seq {
            self.find(Some(seq), format!("it was changed: epoch {epoch} can't begin with record {seq}"));
            return None;
        }
        self.epochs_left = self.epochs_left.checked_sub(epoch).or_else(|| {
            self.epochs_left = 0;
            None
        })?;
        match self.given.keys.open(sealed) {
            Ok(bytes) => {
                let mut key = EpochKey::first(&bytes)?;
                while key.epoch() < epoch && key.ratchet() {}
                Some(key)
            }
            Err(why) => {
                self.find(Some(seq), format!("the key of this run can't be opened with the given one: {why}"));
                None
            }
        }
    }

    /// The records up to `last` that no signed checkpoint of their run covers.
    fn unsigned(&self, last: u64) -> Option<Unsigned> {
        let first = self.report.first_seq.max(self.signed.saturating_add(1));
        let beginning = self.beginnings.len().checked_sub(1).filter(|i| self.beginnings[*i].seq >= first);
        (first <= last).then_some(Unsigned { first, last, checked: self.checked, beginning })
    }

    /// Whether MACs prove that the run wrote them. Anyone who can write the file can also begin a run with a key of their own, so
    /// the beginning must have been signed or exported.
    fn is_vouched(&self, unsigned: &Unsigned) -> bool {
        unsigned.checked && unsigned.beginning.is_none_or(|i| self.beginnings[i].anchored)
    }

    fn signature(&mut self, line: &LogLine<'_>, seq: u64, time: &str, signer: Option<&Signer>) {
        let time = humantime::parse_rfc3339(time).ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        let time = time.map_or(0, |t| i64::try_from(t.as_secs()).unwrap_or(i64::MAX));
        match (signer, line.signature()) {
            (None, None) if line.signature.is_none() => self.report.unsigned_checkpoints += 1,
            (Some(signer), Some((message, signature))) => {
                self.report.signers.insert(signer.name());
                match verify_signature(signer, &message, &signature, time, &self.given.trust, &mut self.refused) {
                    SignatureVerdict::Proven => {
                        self.report.proven_checkpoints += 1;
                        self.report.proven_until = seq;
                        self.mark(seq);
                    }
                    SignatureVerdict::Somebody => self.report.signed_checkpoints += 1,
                    SignatureVerdict::Refused(why) => return self.find(Some(seq), why),
                }
                (self.signed, self.checked) = (seq, true);
            }
            _ => self.find(Some(seq), "its signature was taken away or changed"),
        }
    }

    fn finish(mut self, whole: bool) -> Report {
        self.line = 0;
        if self.report.records == 0 {
            self.find(None, "there is no record");
            return self.report;
        }
        self.check_anchors(whole);
        self.report.unvouched = self.abandoned.iter().filter(|u| !self.is_vouched(u)).map(|u| u.first..=u.last).collect();
        let tail = self.unsigned(self.report.last_seq).filter(|tail| !self.is_vouched(tail));
        self.report.unsigned_tail = tail.map(|tail| tail.first..=tail.last);
        self.beginning(whole);
        let trusts = self.given.trust.is_given();
        if trusts && self.report.proven_checkpoints == 0 {
            self.find(None, "no checkpoint has a signature that you trust: nothing says that this is the log that was written");
        }
        self.divide();
        self.say_what_is_unproven(trusts);
        self.report
    }
}
