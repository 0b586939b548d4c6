//! The verdict on a log, in words.

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use sidegate_core::counted;

use crate::verify::{LogVerdict, Report};

/// At most this many findings are shown one by one.
const SHOWN: usize = 20;
/// At most this many ranges of records are named.
const RANGES: usize = 6;

/// Added to every verdict that proves nothing.
pub(crate) const WHAT_PROVES: &str = "anyone who can write to its files may have made it. Give who signed it (--bundle and --signer, or \
                                      --public-key), what was exported of it (--anchor), or both, and beside these an auditor's key (--identity)";

/// The verdict on a log, from what it was verified with.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// The verdict.
    pub verdict: LogVerdict,
    #[serde(flatten)]
    /// Why.
    pub report: Report,
}

impl Verified {
    /// By a report. `tail` is how old records without a checkpoint may be in a log that is still written.
    #[must_use]
    pub fn new(report: Report, tail: Duration) -> Self {
        Self { verdict: report.verdict(SystemTime::now(), tail), report }
    }

    /// Whether the log is proved; with `allow_unproved`, whether nothing contradicts it.
    #[must_use]
    pub fn is_accepted(&self, allow_unproved: bool) -> bool {
        self.verdict == LogVerdict::Proved || (allow_unproved && self.verdict != LogVerdict::NotIntact)
    }

    /// The verdict, in words.
    #[must_use]
    pub fn headline(&self) -> String {
        let Report { records, first_seq, last_seq, .. } = self.report;
        let what =
            format!("{}, {first_seq} to {last_seq}, in {}", counted(records, "record"), counted(self.report.files.len() as u64, "file"));
        let (proved, unproved) = (ranges(&self.report.proved), ranges(&self.report.unproved));
        match (self.verdict, &self.report.open_tail) {
            (LogVerdict::NotIntact, _) => format!("NOT INTACT: {what}"),
            (LogVerdict::NothingProved, _) => format!("NOTHING PROVED: {what}"),
            (LogVerdict::PartlyProved, _) => format!("PARTLY PROVED: {proved} proved, {unproved} not: {what}"),
            (LogVerdict::Proved, Some(tail)) => {
                format!("PROVED up to record {}, and still written: {what}", tail.first.saturating_sub(1))
            }
            (LogVerdict::Proved, None) => format!("PROVED: {what}"),
        }
    }

    /// The verdict first, then why, then what it is worth.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.headline()];
        lines.extend(self.reasons().into_iter().map(|line| format!("  {line}")));
        lines
    }

    /// Why that is the verdict, and what it is worth.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let report = &self.report;
        let mut lines = Vec::new();
        for finding in report.findings.iter().take(SHOWN) {
            let record = finding.seq.map_or_else(String::new, |seq| format!(" record {seq}:"));
            let place = if finding.line > 0 { format!("{}:{}:", finding.file, finding.line) } else { finding.file.clone() };
            lines.push(format!("FOUND {place}{record} {}", finding.what));
        }
        if report.findings.len() > SHOWN {
            let more = (report.findings.len() - SHOWN) as u64 + report.more_findings;
            lines.push(format!("… and {more} more; --json shows the first {}", report.findings.len()));
        }
        if self.verdict == LogVerdict::NothingProved {
            lines.push(format!("nothing contradicts this log, and nothing proves it: {WHAT_PROVES}."));
        }
        if let (LogVerdict::PartlyProved, Some(tail)) = (self.verdict, &report.open_tail) {
            lines.push(format!(
                "the log was not closed, and what is not proved begins at {}: for a log that is still written this is too old (--tail)",
                tail.since
            ));
        }
        let signers: Vec<&str> = report.signers.iter().map(String::as_str).collect();
        let signers = if signers.is_empty() { "nobody".to_owned() } else { signers.join(", ") };
        let are = |count: u64| if count == 1 { "is" } else { "are" };
        if report.proven_checkpoints > 0 {
            let (count, last) = (report.proven_checkpoints, report.proven_until);
            lines.push(format!("proved: {} {} signed by {signers}, the last is record {last}", counted(count, "checkpoint"), are(count)));
        }
        if report.signed_checkpoints > 0 {
            let count = report.signed_checkpoints;
            let say = if count == 1 { "it says" } else { "they say" };
            lines.push(format!("{} {} signed, as {say} by {signers}", counted(count, "checkpoint"), are(count)));
        }
        if report.authenticated > 0 && !report.proved.is_empty() {
            let were = if report.authenticated == 1 { "was" } else { "were" };
            lines.push(format!("proved: {} {were} made with the key of their epoch", counted(report.authenticated, "line")));
        }
        if report.anchored > 0 {
            lines.push(format!("proved: up to record {} it is what was exported, and nothing was cut off", report.anchored));
        }
        if report.missing > 0 {
            let could = if report.missing == 1 { "is missing: it" } else { "are missing: they" };
            lines.push(format!("the log says itself that {} {could} could not be written", counted(report.missing, "record")));
        }
        if report.resumed > 0 {
            let times = if report.resumed == 1 { "once".to_owned() } else { counted(report.resumed, "time") };
            lines.push(format!("it went on {times} after a process that had not closed it; `log.resumed` says what was moved aside"));
        }
        lines.extend(report.unproven.iter().map(|what| format!("not proved: {what}")));
        lines
    }
}

/// `records 1 to 5 and 9`.
pub(crate) fn ranges(all: &[RangeInclusive<u64>]) -> String {
    let mut parts: Vec<String> = all
        .iter()
        .take(RANGES)
        .map(|part| if part.start() == part.end() { part.start().to_string() } else { format!("{} to {}", part.start(), part.end()) })
        .collect();
    let left = all.len().saturating_sub(RANGES) as u64;
    if left > 0 {
        parts.push(format!("{} more", counted(left, "range")));
    }
    let last = parts.pop().unwrap_or_else(|| "none".to_owned());
    let is_one = matches!(all, [one] if one.start() == one.end());
    let listed = if parts.is_empty() { last } else { format!("{} and {last}", parts.join(", ")) };
    format!("{} {listed}", if is_one { "record" } else { "records" })
}

#[cfg(test)]
mod tests {
    use crate::verify::OpenTail;

    use super::*;

    const TAIL: Duration = Duration::from_secs(3600);

    fn told(report: &Report) -> Vec<String> {
        Verified::new(report.clone(), TAIL).lines()
    }

    #[test]
    fn the_verdict_names_the_records_that_are_proved_and_those_that_are_not() {
        let mut report = Report { files: vec!["a".to_owned()], records: 30, first_seq: 1, last_seq: 30, ..Report::default() };
        report.unproved = vec![1..=30];
        assert_eq!(told(&report)[0], "NOTHING PROVED: 30 records, 1 to 30, in 1 file");
        assert!(told(&report)[1].contains("--bundle and --signer, or --public-key"), "{:?}", told(&report));
        report.proved = vec![1..=4, 13..=27];
        report.unproved = vec![5..=12, 28..=28];
        let partly = "PARTLY PROVED: records 1 to 4 and 13 to 27 proved, records 5 to 12 and 28 not: 30 records, 1 to 30, in 1 file";
        assert_eq!(told(&report)[0], partly);
        (report.proved, report.unproved) = (vec![1..=30], vec![]);
        assert_eq!(told(&report), ["PROVED: 30 records, 1 to 30, in 1 file"]);
        report.findings.push(crate::verify::LogFinding { file: "a".to_owned(), line: 3, seq: Some(3), what: "it is gone".to_owned() });
        assert_eq!(told(&report), ["NOT INTACT: 30 records, 1 to 30, in 1 file", "  FOUND a:3: record 3: it is gone"]);
    }

    #[test]
    fn the_end_of_a_log_that_is_still_written_is_no_finding_while_it_is_young() {
        let since = |ago: Duration| humantime::format_rfc3339_micros(SystemTime::now() - ago).to_string();
        let mut report = Report { records: 30, last_seq: 30, proved: vec![1..=27], unproved: vec![28..=30], ..Report::default() };
        assert_eq!(Verified::new(report.clone(), TAIL).verdict, LogVerdict::PartlyProved, "the log was closed");
        for (ago, verdict) in [(TAIL / 2, LogVerdict::Proved), (TAIL * 2, LogVerdict::PartlyProved)] {
            report.open_tail = Some(OpenTail { first: 28, last: 30, since: since(ago) });
            assert_eq!(Verified::new(report.clone(), TAIL).verdict, verdict);
        }
        assert!(told(&report)[1].contains("(--tail)"), "{:?}", told(&report));
        report.open_tail = Some(OpenTail { first: 28, last: 30, since: "2026".to_owned() });
        assert_eq!(Verified::new(report, TAIL).verdict, LogVerdict::PartlyProved, "nobody knows how old it is");
    }

    #[test]
    fn ranges_are_bounded() {
        let many: Vec<RangeInclusive<u64>> = (0..9).map(|i| 10 * i..=10 * i + 1).collect();
        assert_eq!(ranges(&many), "records 0 to 1, 10 to 11, 20 to 21, 30 to 31, 40 to 41, 50 to 51 and 3 ranges more");
        assert_eq!(ranges(&[3..=3]), "record 3");
    }
}
