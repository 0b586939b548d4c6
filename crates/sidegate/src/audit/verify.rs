//! `sidegate audit verify`.

use anyhow::Result;
use sidegate_audit::Report;

use super::{Outcome, given, say};
use crate::cli::audit::Verify;

/// As many findings are shown one by one.
const SHOWN: usize = 20;

pub(super) fn verify(arguments: &Verify) -> Result<Outcome> {
    let given = given(&arguments.proof, arguments.log.identity.as_deref())?;
    let report = sidegate_audit::verify(&arguments.log.log, &given)?;
    if arguments.json {
        say(&serde_json::to_string(&report)?)?;
    } else {
        lines(&report).iter().try_for_each(|line| say(line))?;
    }
    Ok(if report.is_intact() { Outcome::Good } else { Outcome::Finding })
}

/// The verdict first, then why, then what it is worth.
pub(super) fn lines(report: &Report) -> Vec<String> {
    let verdict = if report.is_intact() { "INTACT" } else { "NOT INTACT" };
    let (files, word) = (report.files.len(), if report.files.len() == 1 { "file" } else { "files" });
    let (records, first, last) = (report.records, report.first_seq, report.last_seq);
    let mut lines = vec![format!("{verdict}: {records} records, {first} to {last}, in {files} {word}")];
    for finding in report.findings.iter().take(SHOWN) {
        let record = finding.seq.map_or_else(String::new, |seq| format!(" record {seq}:"));
        let place = if finding.line > 0 { format!("{}:{}:", finding.file, finding.line) } else { finding.file.clone() };
        lines.push(format!("  FOUND {place}{record} {}", finding.what));
    }
    if report.findings.len() > SHOWN {
        lines.push(format!("  … and {} more; --json shows them", report.findings.len() - SHOWN));
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
