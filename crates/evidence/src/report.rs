//! A compliance report of a period, from a log.

mod document;
mod points;
mod summary;

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use sidegate_audit::Event;
use sidegate_core::counted;

use self::document::{Document, Section, Tone};
use self::summary::Summary;
use crate::period::Period;
use crate::read::{ReadError, Records};
use crate::verified::{Verified, WHAT_PROVES, ranges};
use crate::verify::{LogFinding, LogVerdict, Report, VerifyInputs, verify};

/// At most this many peers, rules and reasons are shown in a table; the JSON has all.
const ROWS: usize = 50;

/// How many records of the period are proved.
#[derive(Debug, Clone, Copy, Serialize)]
struct ProvedCounts {
    #[serde(skip)]
    verdict: LogVerdict,
    proved: u64,
    /// Not proved, and no part of the end of a log that is still written.
    unproved: u64,
    /// The end of a log that is still written.
    open: u64,
}

/// What the records of a period add up to: those that are proved, and all.
#[derive(Debug, Default)]
struct RecordSums {
    proved: Summary,
    /// With the unproved records, if `--allow-unproved` is given.
    all: Option<Summary>,
    unproved: u64,
    open: u64,
}

/// What a report is about.
#[derive(Debug)]
pub struct ReportRequest<'a> {
    /// A log's folder, or one of its files.
    pub log: &'a Path,
    /// What the log is verified with.
    pub given: &'a VerifyInputs,
    /// From when until when.
    pub period: Period,
    /// How old records without a checkpoint may be in a log that is still written.
    pub tail: Duration,
    /// Whether what is not proved is summed up, too.
    pub allow_unproved: bool,
}

/// A report of a period.
#[derive(Debug)]
pub struct AuditReport<'a> {
    about: &'a ReportRequest<'a>,
    /// What the log is worth.
    pub verified: Verified,
    proved: ProvedCounts,
    summary: Summary,
    points: Vec<points::ControlPoint>,
}

/// Verifies a log and sums up what is proved of it.
///
/// # Errors
/// If it can't be read.
pub fn report<'a>(about: &'a ReportRequest<'a>) -> Result<AuditReport<'a>, ReadError> {
    let keys = &about.given.keys;
    let mut read = verify(about.log, about.given)?;
    let records = if read.is_intact() {
        Records::again(about.log, keys, read.first_seq, read.last_seq, &read.last_hash)?
    } else {
        Records::of(about.log, keys)?
    };
    let sums = sum(records, about, &mut read)?;
    let verified = Verified::new(read, about.tail);
    let proved = ProvedCounts { verdict: verified.verdict, proved: sums.proved.records, unproved: sums.unproved, open: sums.open };
    // Unproved records meet no point, even if they are allowed.
    let points = points::points(&sums.proved, &proved);
    Ok(AuditReport { about, verified, proved, summary: sums.all.unwrap_or(sums.proved), points })
}

impl AuditReport<'_> {
    /// As JSON, for tools.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "log": self.about.log,
            "verification": self.verified,
            "records": self.proved,
            "allowUnproved": self.about.allow_unproved,
            "summary": self.summary,
            "points": self.points,
        })
    }

    /// As Markdown.
    #[must_use]
    pub fn markdown(self) -> String {
        self.document().markdown()
    }

    /// As one HTML page for screen and print, without scripts or other files.
    #[must_use]
    pub fn html(self) -> String {
        self.document().html()
    }

    fn document(self) -> Document {
        document(self.about, &self.summary, &self.verified, &self.proved, self.points)
    }
}

/// What the records of a period add up to. A file that is gone, can't be read any more or was changed since it was verified is a finding.
fn sum(mut records: Records<'_>, about: &ReportRequest<'_>, verified: &mut Report) -> Result<RecordSums, ReadError> {
    let (log, period) = (about.log, about.period);
    let mut sums = RecordSums { all: about.allow_unproved.then(Summary::default), ..RecordSums::default() };
    let is_intact = verified.is_intact();
    for record in &mut records {
        let record = match record {
            Ok(record) => record,
            Err(ReadError::File(file, error)) => {
                verified.findings.push(gone(&file, &error));
                continue;
            }
            Err(_) => {
                sums.each().for_each(|summary| summary.unreadable += 1);
                continue;
            }
        };
        if matches!(record.event, Event::LogSealed { .. }) {
            return Err(ReadError::Encrypted(log.to_owned()));
        }
        // Later records were not verified.
        if record.seq > verified.last_seq || !(period.has(&record) || period.is_after(&record)) {
            continue;
        }
        let at = verified.proved.partition_point(|part| *part.end() < record.seq);
        let is_proved = is_intact && verified.proved.get(at).is_some_and(|part| part.contains(&record.seq));
        if period.is_after(&record) {
            sums.all.iter_mut().chain(is_proved.then_some(&mut sums.proved)).for_each(|summary| summary.before(&record));
            continue;
        }
        if let Some(all) = &mut sums.all {
            all.add(&record);
        }
        if is_proved {
            sums.proved.add(&record);
        } else if verified.open_tail.as_ref().is_some_and(|tail| record.seq >= tail.first) {
            sums.open += 1;
        } else {
            sums.unproved += 1;
        }
    }
    if let Some((file, line)) = records.change() {
        let what = "the files were changed after they were verified and before they were summed up: verify them again".to_owned();
        verified.findings.push(LogFinding { file, line, seq: None, what });
        sums.unproved += std::mem::take(&mut sums.proved).records;
    }
    // The unproved end is too old for a log that is still written.
    if verified.verdict(std::time::SystemTime::now(), about.tail) != LogVerdict::Proved {
        sums.unproved += std::mem::take(&mut sums.open);
    }
    Ok(sums)
}

impl RecordSums {
    fn each(&mut self) -> impl Iterator<Item = &mut Summary> {
        self.all.iter_mut().chain([&mut self.proved])
    }
}

fn gone(file: &Path, error: &std::io::Error) -> LogFinding {
    let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    LogFinding { file, line: 0, seq: None, what: format!("the file can't be read, and is not in the sums: {error}") }
}

/// What the verdict means for this report.
fn standing(about: &ReportRequest<'_>, proved: &ProvedCounts) -> (Tone, String) {
    let all = about.allow_unproved;
    match proved.verdict {
        LogVerdict::NotIntact => {
            let sums = if all { "What the log says all the same is summed up below; it proves nothing." } else { "Nothing is summed up." };
            (Tone::Bad, format!("This is not the log that was written: what was found stands below. {sums}"))
        }
        LogVerdict::NothingProved if all => (
            Tone::Bad,
            format!("NOTHING IN THIS REPORT IS PROVED, and it was asked for all the same (--allow-unproved): {WHAT_PROVES}."),
        ),
        LogVerdict::NothingProved => (
            Tone::Bad,
            format!("Nothing contradicts this log, and nothing proves it, so nothing is summed up and no point is shown: {WHAT_PROVES}. --allow-unproved sums up what it says."),
        ),
        LogVerdict::PartlyProved if all => (
            Tone::Doubtful,
            "Not all of this is proved, and it was asked for all the same (--allow-unproved): the sums are of all records, the points of standards \
             of proved ones only."
                .to_owned(),
        ),
        LogVerdict::PartlyProved => {
            (Tone::Doubtful, "Only proved records are summed up. The others may say anything, so what they could contradict is not shown.".to_owned())
        }
        LogVerdict::Proved if proved.open > 0 => {
            (Tone::Good, "The log is still written. What has no checkpoint yet is not in this report, and contradicts nothing in it.".to_owned())
        }
        LogVerdict::Proved => (Tone::Good, "All records of this report are proved.".to_owned()),
    }
}

/// Which time the report is about.
fn period(summary: &Summary, period: &Period, proved: &ProvedCounts) -> String {
    if summary.records > 0 {
        return format!("{} to {}", summary.from, summary.until);
    }
    let time = |time: std::time::SystemTime| humantime::format_rfc3339_seconds(time);
    let none = if proved.unproved + proved.open > 0 { "no proved record" } else { "no record" };
    match (period.since, period.until) {
        (None, None) => none.to_owned(),
        (Some(since), None) => format!("{none} since {}", time(since)),
        (None, Some(until)) => format!("{none} before {}", time(until)),
        (Some(since), Some(until)) => format!("{none} from {} to {}", time(since), time(until)),
    }
}

fn document(
    about: &ReportRequest<'_>,
    summary: &Summary,
    verified: &Verified,
    proved: &ProvedCounts,
    points: Vec<points::ControlPoint>,
) -> Document {
    let (tone, standing) = standing(about, proved);
    let mut document = Document::new("Audit report", tone, verified.headline(), standing);
    document.fact("Log", about.log.display().to_string());
    document.fact("Workload", summary.local_ids.keys().cloned().collect::<Vec<_>>().join(", "));
    document.fact("Period", period(summary, &about.period, proved));
    let mut records = format!("{} proved", counted(proved.proved, "record"));
    if proved.unproved > 0 {
        records += &format!(", {} not proved", proved.unproved);
    }
    if proved.open > 0 {
        records += &format!(", {} since the last checkpoint of a log that is still written", proved.open);
    }
    document.fact("Records in it", records);
    document.fact(
        "Made",
        format!("{} by sidegate {}", humantime::format_rfc3339_seconds(std::time::SystemTime::now()), env!("CARGO_PKG_VERSION")),
    );

    let mut chain = Section::new("Is the log what was written?");
    if verified.verdict == LogVerdict::PartlyProved {
        chain.say(format!("Not proved: {}.", ranges(&verified.report.unproved)));
    }
    chain.list(verified.reasons());
    document.add(chain);
    document.add(standards(points));
    if summary.records > 0 {
        details(&mut document, summary);
    }
    document
}

fn standards(points: Vec<points::ControlPoint>) -> Section {
    let mut shown = Section::new("What this shows of standards");
    shown.say(
        "Each line says what of a point the proved records bear out for this workload and period. It is evidence, not a certificate. \
         A point is \"not shown\" where no record speaks of it, or where records that are missing or not proved could contradict it."
            .to_owned(),
    );
    let row = |point: points::ControlPoint| {
        let met = point.met.map_or("not shown", |met| if met { "yes" } else { "NO" });
        vec![point.standard.to_owned(), point.point.to_owned(), met.to_owned(), point.evidence]
    };
    shown.table(&["standard", "point", "met", "evidence"], points.into_iter().map(row));
    shown
}

fn details(document: &mut Document, summary: &Summary) {
    let c = &summary.connections;
    let mut connections = Section::new("Connections");
    let neither = c.admitted.saturating_sub(c.mtls + c.plaintext);
    let rows = [
        ("admitted or refused", c.admitted + c.refused, true),
        ("– admitted over mutual TLS", c.mtls, true),
        ("– admitted as plaintext", c.plaintext, true),
        ("– admitted as neither", neither, false),
        ("– refused by a decision of policy or of the destination", c.denied, true),
        ("– refused for another reason", c.refused - c.denied, true),
        ("ended in this period, also of those admitted before it", c.ended, true),
        ("TLS sessions made before a connection needed one", c.made_ahead, false),
        ("records missing, as the log says itself", summary.missing, false),
        ("lines that are no record, which are left out", summary.unreadable, false),
    ];
    let rows = rows.into_iter().filter(|(_, number, always)| *always || *number > 0);
    connections.table(&["connections", "number"], rows.map(|(what, number, _)| vec![what.to_owned(), number.to_string()]));
    connections.counts("admitted by", &summary.admissions, ROWS);
    connections.counts("refused for", &summary.refusals, ROWS);
    connections.counts("denied by the rule", &summary.denials, ROWS);
    document.add(connections);

    let mut tls = Section::new("TLS");
    let shakes = summary.tls.versions.values().sum();
    tls.say(format!("{} in this period, also of refused connections. {}.", counted(shakes, "handshake"), summary.tls.said()));
    tls.counts("version", &summary.tls.versions, ROWS);
    tls.counts("cipher suite", &summary.tls.ciphers, ROWS);
    tls.counts("key exchange group", &summary.tls.groups, ROWS);
    tls.counts("revocation of the peer's chain", &summary.revocation, ROWS);
    document.add(tls);

    let mut identities = Section::new("Identities");
    identities.counts("admitted connections as", &summary.local_ids, ROWS);
    identities.counts("admitted connections with", &summary.peers, ROWS);
    let i = &summary.identity;
    let rows =
        [("received", i.received), ("rotated", i.rotated), ("lost by expiry", i.expired), ("withdrawn", i.lost.saturating_sub(i.expired))];
    identities.table(&["our SVID", "times"], rows.map(|(what, number)| vec![what.to_owned(), number.to_string()]));
    identities.say(format!("{} of trust bundles.", counted(i.bundles, "change")));
    document.add(identities);

    for (title, head, rows) in [
        ("Policies", ["time", "what", "digests"], &summary.policies),
        ("Starts and configurations", ["time", "what", "digests"], &summary.starts),
        ("Administrators", ["time", "user ID", "what"], &summary.admin),
    ] {
        let mut section = Section::new(title);
        if rows.is_empty() {
            section.say("None in this period.".to_owned());
        } else {
            section.table(&head, rows.iter().map(|row| row.to_vec()));
        }
        document.add(section);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Result = std::result::Result<(), Box<dyn std::error::Error>>;

    const LINE: &str = r#"{"v":1,"seq":1,"time":"t","event":"log.gap","missing":18446744073709551615}"#;

    fn about(given: &VerifyInputs, allow_unproved: bool) -> ReportRequest<'_> {
        ReportRequest { log: "log".as_ref(), given, period: Period::default(), tail: Duration::from_secs(3600), allow_unproved }
    }

    #[test]
    fn what_can_not_be_read_is_not_passed_over_in_silence() -> Result {
        let folder = tempfile::tempdir()?;
        let (there, gone) = (folder.path().join("there"), folder.path().join("gone"));
        let later = LINE.replace("\"seq\":1", "\"seq\":2");
        std::fs::write(&there, format!("{LINE}\n{LINE}\n{later}\nno record\n"))?;
        let keys = Default::default();
        let mut verified = Report { last_seq: 1, proved: vec![1..=1], ..Report::default() };
        let sums = sum(Records::new(vec![gone, there], &keys), &about(&VerifyInputs::default(), false), &mut verified)?;
        // The last record was not verified. Sums that a forger makes don't overflow.
        assert_eq!((sums.proved.records, sums.proved.unreadable, sums.proved.missing), (2, 1, u64::MAX));
        assert!(matches!(verified.findings.as_slice(), [finding] if finding.file == "gone"), "{verified:?}");
        Ok(())
    }

    /// A chain of records that each say that some are missing, line by line.
    fn chain(missing: &[u64]) -> Vec<String> {
        let (mut prev, mac) = ("0".repeat(64), "0".repeat(64));
        let line = |(seq, missing): (usize, &u64)| {
            let line =
                format!(r#"{{"v":1,"seq":{},"time":"t","event":"log.gap","missing":{missing},"prev":"{prev}","mac":"{mac}"}}"#, seq + 1);
            prev = sidegate_audit::hex::sha256_hex(line.as_bytes());
            line + "\n"
        };
        missing.iter().enumerate().map(line).collect()
    }

    /// A writer of the files may swap them between the two readings.
    #[test]
    fn what_was_changed_since_it_was_verified_is_in_no_sum() -> Result {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        let honest = chain(&[1, 2, 3]);
        let last_hash = sidegate_audit::hex::sha256_hex(honest[2].trim_end().as_bytes());
        let verified = || Report { first_seq: 1, last_seq: 3, last_hash: last_hash.clone(), proved: vec![1..=3], ..Report::default() };
        let keys = Default::default();
        let summed = |lines: &[String], all: bool| -> std::result::Result<_, Box<dyn std::error::Error>> {
            std::fs::write(&log, lines.concat())?;
            let mut verified = verified();
            let sums = sum(Records::again(&log, &keys, 1, 3, &last_hash)?, &about(&VerifyInputs::default(), all), &mut verified)?;
            Ok((sums, verified))
        };
        // A log that is still written: what came since does not count, whatever it is.
        for more in [&chain(&[1, 2, 3, 4])[3..], &["no record\n".to_owned()], &["a part".to_owned()], &[]] {
            let (sums, verified) = summed(&[&honest[..], more].concat(), false)?;
            assert_eq!((sums.proved.records, sums.proved.missing, sums.proved.unreadable), (3, 6, 0), "{more:?}");
            assert!(verified.is_intact(), "{verified:?}");
        }
        let forged = chain(&[1, 9, 3]);
        let spliced = [honest[0].clone(), forged[1].clone(), honest[2].clone()];
        let junk = [honest[0].clone(), "no record\n".to_owned(), honest[1].clone(), honest[2].clone()];
        for (lines, line) in [
            // Linked to each other, or not; with lines that are missing or too many.
            (&forged[..], 3),
            (&spliced, 3),
            (&junk, 2),
            (&honest[1..], 1),
            (&honest[..2], 0),
            (&[honest[0].clone(), honest[2].clone()], 2),
            (&[], 0),
        ] {
            let (sums, verified) = summed(lines, true)?;
            assert!(matches!(&verified.findings[..], [finding] if finding.line == line), "{lines:?}: {:?}", verified.findings);
            assert_eq!(verified.verdict(std::time::SystemTime::now(), std::time::Duration::MAX), LogVerdict::NotIntact);
            assert_eq!((sums.proved.records, sums.proved.missing), (0, 0), "{lines:?}");
            // What it says all the same.
            assert_eq!(sums.all.map(|all| all.records), Some(sums.unproved), "{lines:?}");
        }
        Ok(())
    }

    #[test]
    fn what_is_not_proved_is_in_no_sum_unless_it_is_asked_for() -> Result {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        let lines: String = (1..=9).map(|seq| format!("{}\n", LINE.replace("\"seq\":1", &format!("\"seq\":{seq}")))).collect();
        std::fs::write(&log, lines)?;
        let keys = Default::default();
        let mut verified = Report { last_seq: 9, proved: vec![2..=4, 7..=8], unproved: vec![1..=1, 5..=6, 9..=9], ..Report::default() };
        for (allow, all) in [(false, None), (true, Some(9))] {
            let sums = sum(Records::new(vec![log.clone()], &keys), &about(&VerifyInputs::default(), allow), &mut verified)?;
            assert_eq!((sums.proved.records, sums.unproved, sums.all.map(|all| all.records)), (5, 4, all));
        }
        Ok(())
    }

    #[test]
    fn an_empty_period_is_said_to_be_empty() {
        let proved = ProvedCounts { verdict: LogVerdict::Proved, proved: 0, unproved: 0, open: 0 };
        let told = |since, until| period(&Summary::default(), &Period { since, until }, &proved);
        assert_eq!(told(None, None), "no record");
        let time = |text| humantime::parse_rfc3339(text).ok();
        assert_eq!(
            told(time("2026-01-01T00:00:00Z"), time("2026-02-01T00:00:00Z")),
            "no record from 2026-01-01T00:00:00Z to 2026-02-01T00:00:00Z"
        );
    }
}
