//! The result of verifying a log, and its verdict.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use serde::Serialize;

/// Something that was changed, removed or added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogFinding {
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

/// The verdict on a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogVerdict {
    /// Something was changed, removed or added.
    NotIntact,
    /// Nothing contradicts it, and nothing proves a single record.
    NothingProved,
    /// Some records are proved.
    PartlyProved,
    /// All are, or all but the young end of a log that is still written.
    Proved,
}

/// The end of a log that is still written, as far as it is not proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenTail {
    /// Its first record.
    pub first: u64,
    /// Its last.
    pub last: u64,
    /// When the first one was made, RFC 3339.
    pub since: String,
}

impl OpenTail {
    fn is_young(&self, now: SystemTime, tail: Duration) -> bool {
        let Ok(since) = humantime::parse_rfc3339(&self.since) else { return false };
        // Clocks of two hosts differ: what is a little ahead of ours is young too.
        now.duration_since(since).unwrap_or_else(|ahead| ahead.duration()) <= tail
    }
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
    /// Checkpoints signed by a signer that is trusted.
    pub proven_checkpoints: u64,
    /// Signed checkpoints whose signer can't be identified, since no key or bundle was given.
    pub signed_checkpoints: u64,
    /// Checkpoints without a signature, from before the first SVID.
    pub unsigned_checkpoints: u64,
    /// The last record that a trusted signature covers: all before it are proved, but for those in `unvouched`.
    pub proven_until: u64,
    /// Records of runs that ended without a signed checkpoint. Later runs only went on behind them: their signatures do not say
    /// who wrote these.
    pub unvouched: Vec<RangeInclusive<u64>>,
    /// Records after the last signed checkpoint, unless MACs prove that the last run wrote them.
    pub unsigned_tail: Option<RangeInclusive<u64>>,
    /// Records that are proved: by a trusted signature, by an exported record, or by MACs whose key is known to be the run's own.
    pub proved: Vec<RangeInclusive<u64>>,
    /// The other records: anyone who can write to the files may have written them.
    pub unproved: Vec<RangeInclusive<u64>>,
    /// All that is unproved, where it is what a log that is still written has: records of the last run after the last proved
    /// one, and the log was not closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_tail: Option<OpenTail>,
    /// Lines whose MAC was checked.
    pub authenticated: u64,
    /// Exported checkpoints that the log holds as they were exported.
    pub anchored: u64,
    /// Exported records that come after the one file that was looked at.
    pub later_exports: u64,
    /// Who has signed: SPIFFE IDs, or digests of bare keys; proven only as far as checkpoints are.
    pub signers: BTreeSet<String>,
    /// Records that the log itself says are missing.
    pub missing: u64,
    /// How often it went on after a process that had not closed it.
    pub resumed: u64,
    /// What is not as it was written, the first 1,000 of it; empty if the log is intact.
    pub findings: Vec<LogFinding>,
    /// How many more there are.
    pub more_findings: u64,
    /// What could not be proved, and what to give for that.
    pub unproven: Vec<String>,
}

impl Report {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty()
    }

    /// The verdict. `tail` is how old the records may be that have no checkpoint yet in a log that is still written.
    #[must_use]
    pub fn verdict(&self, now: SystemTime, tail: Duration) -> LogVerdict {
        if !self.is_intact() {
            LogVerdict::NotIntact
        } else if self.proved.is_empty() {
            LogVerdict::NothingProved
        } else if self.unproved.is_empty() || self.open_tail.as_ref().is_some_and(|open| open.is_young(now, tail)) {
            LogVerdict::Proved
        } else {
            LogVerdict::PartlyProved
        }
    }

    /// All records that neither a signature nor MACs prove, in order: anyone who could write to the files may have changed them.
    /// If no key or bundle was given, any signature counts.
    #[must_use]
    pub fn unproven_records(&self) -> Vec<RangeInclusive<u64>> {
        let mut all: Vec<RangeInclusive<u64>> = Vec::new();
        for records in self.unvouched.iter().chain(&self.unsigned_tail) {
            match all.last_mut().filter(|last| last.end().saturating_add(1) == *records.start()) {
                Some(last) => *last = *last.start()..=*records.end(),
                None => all.push(records.clone()),
            }
        }
        all
    }
}
