//! `sidegate audit verify`.

use anyhow::Result;
use sidegate_audit::Report;

use super::{Outcome, given, say, say_json};
use crate::cli::audit::Verify;

/// As many findings are shown one by one.
const SHOWN: usize = 20;

pub(super) fn verify(arguments: &Verify) -> Result<Outcome> {
    let given = given(&arguments.proof, arguments.log.identity.as_deref())?;
    let report = sidegate_audit::verify(&arguments.log.log, &given)?;
    if arguments.json {
        say_json(&report)?;
    } else {
        lines(&report).iter().try_for_each(|line| say(line))?;
    }
    let is_good = if arguments.require_proof { report.is_proven() } else { report.is_intact() };
    Ok(if is_good { Outcome::Good } else { Outcome::Finding })
}

/// What the verdict is not about, where it is only in part proved what the log says.
fn exception(report: &Report) -> String {
    let parts: Vec<String> = report.unproven_records().iter().map(|part| format!("{} to {}", part.start(), part.end())).collect();
    if parts.is_empty() { String::new() } else { format!(", but for records {}, which are not proved", parts.join(" and ")) }
}

/// The verdict first, then why, then what it is worth.
pub(crate) fn lines(report: &Report) -> Vec<String> {
    let verdict = if report.is_intact() { format!("INTACT{}", exception(report)) } else { "NOT INTACT".to_owned() };
    let (files, word) = (report.files.len(), if report.files.len() == 1 { "file" } else { "files" });
    let (records, first, last) = (report.records, report.first_seq, report.last_seq);
    let mut lines = vec![format!("{verdict}: {records} records, {first} to {last}, in {files} {word}")];
    for finding in report.findings.iter().take(SHOWN) {
        let record = finding.seq.map_or_else(String::new, |seq| format!(" record {seq}:"));
        let place = if finding.line > 0 { format!("{}:{}:", finding.file, finding.line) } else { finding.file.clone() };
        lines.push(format!("  FOUND {place}{record} {}", finding.what));
    }
    if report.findings.len() > SHOWN {
        let more = (report.findings.len() - SHOWN) as u64 + report.more_findings;
        lines.push(format!("  … and {more} more; --json shows the first {}", report.findings.len()));
    }
    let signers =
        if report.signers.is_empty() { "nobody".to_owned() } else { report.signers.iter().cloned().collect::<Vec<_>>().join(", ") };
    if report.proven_checkpoints > 0 {
        lines.push(format!(
            "  proved: {} checkpoints are signed by {signers}, the last is record {}",
            report.proven_checkpoints, report.proven_until
        ));
    }
    if report.signed_checkpoints > 0 {
        lines.push(format!("  {} checkpoints are signed, as they say by {signers}", report.signed_checkpoints));
    }
    if report.authenticated > 0 {
        lines.push(format!("  proved: {} lines were made with the key of their epoch", report.authenticated));
    }
    if report.anchored > 0 {
        lines.push(format!("  proved: up to record {} it is what was exported, and nothing was cut off", report.anchored));
    }
    if report.missing > 0 {
        lines.push(format!("  the log says itself that {} records are missing: they could not be written", report.missing));
    }
    if report.resumed > 0 {
        lines.push(format!(
            "  it went on {} times after a process that had not closed it; `log.resumed` says what was moved aside",
            report.resumed
        ));
    }
    lines.extend(report.unproven.iter().map(|what| format!("  not proved: {what}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_names_the_records_that_are_not_proved() {
        let mut report = Report { files: vec!["a".to_owned()], records: 30, first_seq: 1, last_seq: 30, ..Report::default() };
        let verdict = |report: &Report| lines(report).remove(0);
        assert_eq!(verdict(&report), "INTACT: 30 records, 1 to 30, in 1 file");
        report.unvouched = vec![5..=9, 10..=12];
        report.unsigned_tail = Some(28..=30);
        assert_eq!(verdict(&report), "INTACT, but for records 5 to 12 and 28 to 30, which are not proved: 30 records, 1 to 30, in 1 file");
        report.findings.push(sidegate_audit::Finding { file: "a".to_owned(), line: 3, seq: Some(3), what: "it is gone".to_owned() });
        assert_eq!(verdict(&report), "NOT INTACT: 30 records, 1 to 30, in 1 file");
    }
}
