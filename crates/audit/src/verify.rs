//! Verifying a log: every change, removal, insertion and reordering is found and named, and what can't be proved is said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::event::{CheckpointCause, Event, Signer};
use crate::folder::name_of;
use crate::hex::{hex, sha256};
use crate::key::{EpochKey, Hash};
use crate::line::{Head, Line};
use crate::read::{ReadError, Record, log_files, unseal};
use crate::sealed::AuditorKeys;
use crate::signing::{Trust, Verdict, judge};

/// By what a log is verified. The more is given, the more is proved.
#[derive(Debug, Default)]
pub struct Given {
    /// Who may have signed checkpoints.
    pub trust: Trust,
    /// Checkpoints that were exported.
    pub anchors: Option<Vec<Anchor>>,
    /// An auditor's keys: for MACs, and for what is encrypted.
    pub keys: AuditorKeys,
}

/// An exported checkpoint, or the exported beginning of a run.
#[derive(Debug, Clone)]
pub struct Anchor {
    seq: u64,
    line: Vec<u8>,
    place: String,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// In which file.
    pub file: String,
    /// In which line of it; 0 if in none.
    pub line: u64,
    /// The record that is concerned, if it has a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// What verifying has found.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The files, in order.
    pub files: Vec<String>,
    /// How many records.
    pub records: u64,
    /// The first one's number.
    pub first_seq: u64,
    /// The last one's.
    pub last_seq: u64,
    /// SHA-256 of the last line.
    pub last_hash: String,
    /// Checkpoints signed by whom we trust.
    pub proven_checkpoints: u64,
    /// Checkpoints signed by somebody, with nothing given to judge by who that is.
    pub signed_checkpoints: u64,
    /// Checkpoints without a signature, from before the first SVID.
    pub unsigned_checkpoints: u64,
    /// The last record that a trusted signature covers.
    pub proven_until: u64,
    /// Lines whose MAC was checked.
    pub authenticated: u64,
    /// Exported checkpoints that the log holds as they were exported.
    pub anchored: u64,
    /// Who has signed: SPIFFE IDs, or digests of bare keys; proven only as far as checkpoints are.
    pub signers: BTreeSet<String>,
    /// Records that the log itself says are missing.
    pub missing: u64,
    /// How often it went on after a process that had not closed it.
    pub resumed: u64,
    /// What is not as it was written; empty if the log is intact.
    pub findings: Vec<Finding>,
    /// What could not be proved, and what to give for that.
    pub unproven: Vec<String>,
}

impl Report {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Reads a file of what was exported, one a line: checkpoints, and the beginnings of runs.
///
/// # Errors
/// If it can't be read, or a line is neither.
pub fn anchors(file: &Path) -> Result<Vec<Anchor>, ReadError> {
    let text = std::fs::read(file).map_err(|error| ReadError::File(file.to_owned(), error))?;
    let lines = text.split(|byte| *byte == b'\n').zip(1..).filter(|(line, _)| !line.is_empty());
    let anchor = |(line, number): (&[u8], u64)| {
        let wrong = |why: String| ReadError::Line { file: file.to_owned(), line: number, why };
        let (_, head) = Line::parse(line).map_err(wrong)?;
        if !matches!(head.event.as_str(), "log.checkpoint" | "log.opened") {
            return Err(wrong("it is neither a checkpoint nor the beginning of a run".to_owned()));
        }
        Ok(Anchor { seq: head.seq, line: line.to_owned(), place: format!("{}:{number}", file.display()) })
    };
    lines.map(anchor).collect()
}

/// Verifies the log at `path`, a folder or one file of it.
///
/// # Errors
/// If it can't be read. What is wrong with it is no error but in the report.
pub fn verify(path: &Path, given: &Given) -> Result<Report, ReadError> {
    let files = log_files(path)?;
    let mut verifier = Verifier::new(given);
    for file in &files {
        verifier.file(file)?;
    }
    Ok(verifier.finish(path.is_dir()))
}

/// What the next line has to be.
#[derive(Clone, Copy)]
struct Expected {
    seq: u64,
    prev: Hash,
}

struct Verifier<'a> {
    given: &'a Given,
    report: Report,
    file: String,
    line: u64,
    expected: Option<Expected>,
    /// The link of the very first record.
    first_prev: Hash,
    /// Of the running process: its name, and the key of the epoch if it is known.
    run: Option<String>,
    key: Option<EpochKey>,
    /// Runs whose key is not known.
    unauthenticated: bool,
    /// Whether the last record closed the log.
    closed: bool,
    /// Whether a new run has begun on a log that was not closed, which the next record has to say.
    owes_resumed: bool,
    /// All checkpoints, and the beginnings of files: what is exported.
    checkpoints: BTreeMap<u64, Hash>,
    openings: BTreeMap<u64, Hash>,
    /// The first records of runs.
    beginnings: Vec<u64>,
    /// Those of which an exported copy is the same.
    anchored: BTreeSet<u64>,
    /// Files that were deleted: the last record's number and hash.
    retired: Vec<(u64, String)>,
}

impl<'a> Verifier<'a> {
    fn new(given: &'a Given) -> Self {
        Self {
            given,
            report: Report::default(),
            file: String::new(),
            line: 0,
            expected: None,
            first_prev: [0; 32],
            run: None,
            key: None,
            unauthenticated: false,
            closed: true,
            owes_resumed: false,
            checkpoints: BTreeMap::new(),
            openings: BTreeMap::new(),
            beginnings: Vec::new(),
            anchored: BTreeSet::new(),
            retired: Vec::new(),
        }
    }

    fn find(&mut self, seq: Option<u64>, what: impl Into<String>) {
        self.report.findings.push(Finding { file: self.file.clone(), line: self.line, seq, what: what.into() });
    }

    fn file(&mut self, path: &PathBuf) -> Result<(), ReadError> {
        let failed = |error| ReadError::File(path.clone(), error);
        self.file = name_of(path);
        self.line = 0;
        self.report.files.push(self.file.clone());
        let mut file = BufReader::with_capacity(256 * 1024, File::open(path).map_err(failed)?);
        let mut text = Vec::new();
        loop {
            text.clear();
            if file.read_until(b'\n', &mut text).map_err(failed)? == 0 {
                if self.line == 0 {
                    self.find(None, "the file is empty: its records are gone");
                }
                return Ok(());
            }
            self.line += 1;
            match text.strip_suffix(b"\n") {
                Some(line) => self.line(line),
                None => self.find(
                    self.expected.map(|e| e.seq),
                    format!(
                        "{} bytes that are no whole record: it was cut off, or a process that writes it has not come further",
                        text.len()
                    ),
                ),
            }
        }
    }

    fn line(&mut self, text: &[u8]) {
        let (line, head) = match Line::parse(text) {
            Ok(parsed) => parsed,
            Err(why) => {
                let seq = self.expected.map(|e| e.seq);
                self.find(seq, format!("it was changed: {why}"));
                // The next one is judged by what stands here.
                self.expected = Some(Expected { seq: seq.unwrap_or(1) + 1, prev: sha256(text) });
                return;
            }
        };
        self.linked(&line, &head);
        let hash = line.hash();
        self.expected = Some(Expected { seq: head.seq.saturating_add(head.records), prev: hash });
        self.report.records += head.records;
        self.report.last_seq = head.seq.saturating_add(head.records - 1);
        self.report.last_hash = hex(&hash);
        let of_the_log = head.event.starts_with("log.");
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
    fn linked(&mut self, line: &Line<'_>, head: &Head) {
        let Some(expected) = self.expected else {
            self.report.first_seq = head.seq;
            self.first_prev = line.prev;
            if head.seq == 1 && line.prev != [0; 32] {
                self.find(Some(1), "the first record is linked to one before it, which is gone");
            }
            return;
        };
        if head.seq > expected.seq {
            self.find(Some(head.seq), format!("records {} to {} are missing before it", expected.seq, head.seq - 1));
        } else if head.seq < expected.seq {
            self.find(Some(head.seq), format!("it stands where record {} should: it was moved, repeated or inserted", expected.seq));
        } else if line.prev != expected.prev {
            let before = expected.seq.saturating_sub(1);
            self.find(Some(before), format!("record {before} is not what record {} was linked to: one of them was changed", head.seq));
        }
    }

    fn authenticate(&mut self, line: &Line<'_>, seq: u64) {
        match &self.key {
            Some(key) if key.mac(line.authenticated) == line.mac => self.report.authenticated += 1,
            Some(_) => self.find(Some(seq), "its MAC does not fit: it was made without the key of its epoch"),
            None => self.unauthenticated = true,
        }
    }

    fn of_the_log(&mut self, line: &Line<'_>, hash: Hash, record: Record) {
        let seq = record.seq;
        if let Event::LogOpened { file, run, epoch, sealed_key, .. } = &record.event {
            self.openings.insert(seq, hash);
            self.opened(seq, file.as_deref(), run, *epoch, sealed_key.as_deref());
        }
        self.authenticate(line, seq);
        let closes = matches!(record.event, Event::LogCheckpoint { cause: CheckpointCause::Shutdown, .. });
        match record.event {
            Event::LogCheckpoint { run, epoch, signer, .. } => {
                self.checkpoints.insert(seq, hash);
                let fits = self.run.as_deref() == Some(&*run) && self.key.as_ref().is_none_or(|key| key.epoch() == epoch);
                if !fits {
                    self.find(Some(seq), "it is the checkpoint of another run or epoch");
                }
                self.signature(line, seq, &record.time, signer.as_ref());
                if let Some(key) = &mut self.key {
                    key.ratchet();
                }
            }
            Event::LogGap { missing } => self.report.missing += missing,
            Event::LogResumed { .. } => self.report.resumed += 1,
            Event::LogRetired { last_seq, last_hash, .. } => self.retired.push((last_seq, last_hash)),
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
        let is_same_run = self.run.as_deref() == Some(run);
        if !is_same_run {
            self.owes_resumed |= self.run.is_some() && !self.closed;
            self.beginnings.push(seq);
            self.run = Some(run.to_owned());
        }
        if is_same_run && self.key.is_some() {
            return;
        }
        self.key = match (sealed_key, self.given.keys.is_empty()) {
            (Some(sealed), false) => match self.given.keys.open(sealed) {
                Ok(bytes) => EpochKey::first(&bytes).map(|mut key| {
                    while key.epoch() < epoch && key.ratchet() {}
                    key
                }),
                Err(why) => {
                    self.find(Some(seq), format!("the key of this run can't be opened with the given one: {why}"));
                    None
                }
            },
            _ => None,
        };
    }

    fn signature(&mut self, line: &Line<'_>, seq: u64, time: &str, signer: Option<&Signer>) {
        let time = humantime::parse_rfc3339(time).ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        let time = time.map_or(0, |t| i64::try_from(t.as_secs()).unwrap_or(i64::MAX));
        match (signer, line.signature()) {
            (None, None) if line.signature.is_none() => self.report.unsigned_checkpoints += 1,
            (Some(signer), Some((message, signature))) => {
                self.report.signers.insert(signer.name());
                match judge(signer, &message, &signature, time, &self.given.trust) {
                    Verdict::Proven => {
                        self.report.proven_checkpoints += 1;
                        self.report.proven_until = seq;
                    }
                    Verdict::Somebody => self.report.signed_checkpoints += 1,
                    Verdict::Refused(why) => self.find(Some(seq), why),
                }
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
        self.beginning(whole);
        self.check_anchors();
        let trusts = self.given.trust.is_given();
        if trusts && self.report.proven_checkpoints == 0 {
            self.find(None, "no checkpoint is signed by whom you trust: nothing says that this is the log that was written");
        }
        self.say_what_is_unproven(trusts);
        self.report
    }

    /// What comes before the first record was deleted by `retain`, or is missing.
    fn beginning(&mut self, whole: bool) {
        let first = self.report.first_seq;
        if first <= 1 {
            return;
        }
        let (last, hash) = (first - 1, hex(&self.first_prev));
        if self.retired.iter().any(|(seq, last_hash)| *seq == last && *last_hash == hash) {
            self.report.unproven.push(format!("records 1 to {last} were deleted, as `retain` says: nothing is known of what they said"));
        } else if whole {
            self.find(Some(first), format!("records 1 to {last} are missing, and no record says that they were deleted"));
        } else {
            self.report
                .unproven
                .push(format!("only this file was looked at: give the folder to have what comes before record {first} looked for"));
        }
    }

    fn check_anchors(&mut self) {
        let (first, last) = (self.report.first_seq, self.report.last_seq);
        let Some(anchors) = &self.given.anchors else { return };
        for anchor in anchors {
            self.file.clone_from(&anchor.place);
            if let Some(why) = self.anchor_itself(anchor) {
                self.find(Some(anchor.seq), format!("the exported checkpoint is not to be trusted: {why}"));
            } else if anchor.seq > last {
                self.find(
                    Some(anchor.seq),
                    format!("the log ends with record {last}, but record {} was exported: what came after was cut off", anchor.seq),
                );
            } else if anchor.seq >= first {
                if self.checkpoints.get(&anchor.seq).or(self.openings.get(&anchor.seq)) == Some(&sha256(&anchor.line)) {
                    self.anchored.insert(anchor.seq);
                    self.report.anchored = self.report.anchored.max(anchor.seq);
                } else {
                    self.find(Some(anchor.seq), "it differs from the record that was exported: the log was replaced or changed");
                }
            }
        }
        if self.report.anchored == 0 && self.report.findings.is_empty() {
            self.find(None, "none of the exported records is of this log");
        }
    }

    /// What is wrong with an exported checkpoint itself. The beginning of a run has no signature; who could export a false one
    /// could export false checkpoints too.
    fn anchor_itself(&self, anchor: &Anchor) -> Option<String> {
        let (line, _) = Line::parse(&anchor.line).ok()?;
        let record: Record = match serde_json::from_slice(&anchor.line) {
            Ok(record) => record,
            Err(error) => return Some(error.to_string()),
        };
        let Event::LogCheckpoint { signer: Some(signer), .. } = &record.event else { return None };
        let time = humantime::parse_rfc3339(&record.time).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        let Some((message, signature)) = line.signature() else { return Some("its signature is missing".to_owned()) };
        let time = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match judge(signer, &message, &signature, time, &self.given.trust) {
            Verdict::Refused(why) => Some(why),
            Verdict::Proven | Verdict::Somebody => None,
        }
    }

    fn say_what_is_unproven(&mut self, trusts: bool) {
        let last = self.report.last_seq;
        let unproven = &mut self.report.unproven;
        if trusts {
            let until = self.report.proven_until;
            if until < last {
                unproven.push(format!("records {} to {last} come after the last checkpoint with a trusted signature: whoever could write the file could change them", until + 1));
            }
        } else {
            unproven.push(
                "who signed the checkpoints: give the trust bundle with --bundle and --signer, or the signer's key with --public-key"
                    .to_owned(),
            );
            let signed = self.checkpoints.keys().next_back().copied().unwrap_or(0);
            if signed < last {
                unproven.push(format!("records {} to {last} come after the last checkpoint", signed + 1));
            }
        }
        if self.given.keys.is_empty() {
            unproven.push("that whoever took the process later has not rewritten what came before: give an auditor's key with --identity to check the MACs".to_owned());
        } else if self.unauthenticated {
            unproven.push("the MACs of runs whose key was not sealed to `audit.auditors`".to_owned());
        } else if !self.beginnings.iter().all(|seq| self.anchored.contains(seq)) {
            // An auditor's public key is no secret: who can sign can also begin a run of his own, with a key that he knows.
            unproven.push(
                "that each run began with the key that it has now: the exported beginnings of all runs, with --anchor, would prove it"
                    .to_owned(),
            );
        }
        if self.given.anchors.is_none() {
            unproven.push(format!("that nothing was cut off after record {last}, and that the log was not replaced as a whole: give exported checkpoints with --anchor"));
        } else if self.report.anchored < last {
            unproven
                .push(format!("that nothing was cut off after record {last}: the last exported record of it is {}", self.report.anchored));
        }
        if !self.closed {
            unproven.push("the log was not closed: it is still written, or its process was killed".to_owned());
        }
    }
}
