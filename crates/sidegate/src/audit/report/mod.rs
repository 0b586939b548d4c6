//! `sidegate audit report`: what a log says about a period, for those who have to show it to somebody.

mod document;
mod points;
mod summary;

use std::path::Path;

use anyhow::Result;
use sidegate_audit::{Event, Finding, ReadError, Records, Report as Verified};

use self::document::{Document, Section};
use self::summary::Summary;
use super::verify::lines;
use super::{Outcome, given, say_pretty_json};
use crate::cli::audit::{Period, Report, ReportFormat};
use crate::say::print;

/// As many peers, rules and reasons are shown in a table; the JSON has all.
const ROWS: usize = 50;

pub(super) fn report(arguments: &Report) -> Result<Outcome> {
    let given = given(&arguments.proof, arguments.log.identity.as_deref())?;
    let mut verified = sidegate_audit::verify(&arguments.log.log, &given)?;
    let records = Records::of(&arguments.log.log, &given.keys)?;
    let summary = sum(records, &arguments.period, &arguments.log.log, &mut verified)?;
    match arguments.format {
        ReportFormat::Json => say_pretty_json(&serde_json::json!({
            "log": arguments.log.log,
            "verification": verified,
            "summary": summary,
            "points": points::points(&summary, &verified),
        }))?,
        ReportFormat::Markdown => print(document(arguments, &summary, &verified).markdown().trim_end())?,
        ReportFormat::Html => print(document(arguments, &summary, &verified).html().trim_end())?,
    }
    Ok(if verified.is_intact() { Outcome::Good } else { Outcome::Finding })
}

/// What the records of a period add up to. A file that is gone or can't be read any more since it was verified is a finding.
fn sum(records: Records<'_>, period: &Period, log: &Path, verified: &mut Verified) -> Result<Summary> {
    let mut summary = Summary::default();
    for record in records {
        let record = match record {
            Ok(record) => record,
            Err(ReadError::File(file, error)) => {
                verified.findings.push(gone(&file, &error));
                continue;
            }
            Err(_) => {
                summary.unreadable += 1;
                continue;
            }
        };
        if matches!(record.event, Event::LogSealed { .. }) {
            anyhow::bail!("{} is encrypted; give an auditor's key with --identity", log.display());
        }
        // What came since was not verified.
        if record.seq <= verified.last_seq && period.has(&record) {
            summary.add(&record);
        }
    }
    Ok(summary)
}

fn gone(file: &Path, error: &std::io::Error) -> Finding {
    let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Finding { file, line: 0, seq: None, what: format!("the file can't be read, and is not in the sums: {error}") }
}

fn document(arguments: &Report, summary: &Summary, verified: &Verified) -> Document {
    let mut document = Document::new("Audit report");
    document.say(format!("Of the log {}, from {} until {}.", arguments.log.log.display(), summary.from, summary.until));

    let mut chain = Section::new("Is the log what was written?");
    lines(verified).iter().for_each(|line| chain.say(line.trim().to_owned()));
    document.add(chain);

    let c = &summary.connections;
    let mut connections = Section::new("Connections");
    connections.table(
        &["what", "number"],
        [
            ("admitted", c.admitted),
            ("ended after they were admitted", c.ended),
            ("refused", c.refused),
            ("of these denied by policy", c.denied),
            ("admitted as plaintext", c.plaintext),
            ("records missing, as the log says itself", summary.missing),
            ("lines that are no record, which are left out", summary.unreadable),
        ]
        .map(|(what, number)| vec![what.to_owned(), number.to_string()]),
    );
    connections.counts("refused for", &summary.refusals, ROWS);
    connections.counts("denied by the rule", &summary.denials, ROWS);
    document.add(connections);

    let mut tls = Section::new("TLS");
    tls.say(format!(
        "{} of {} new key exchanges were post-quantum{}.",
        summary.tls.post_quantum,
        summary.tls.exchanges,
        summary.tls.share()
    ));
    tls.counts("version", &summary.tls.versions, ROWS);
    tls.counts("cipher suite", &summary.tls.ciphers, ROWS);
    tls.counts("key exchange group", &summary.tls.groups, ROWS);
    document.add(tls);

    let mut identities = Section::new("Identities");
    identities.counts("our identity", &summary.local_ids, ROWS);
    identities.counts("peer, verified", &summary.peers, ROWS);
    identities.counts("revocation of the peer's chain", &summary.revocation, ROWS);
    identities.say(format!(
        "Our SVID was received {} times, rotated {} times, and lost {} times, {} of these by expiry. Bundles changed {} times.",
        summary.identity.received, summary.identity.rotated, summary.identity.lost, summary.identity.expired, summary.identity.bundles
    ));
    document.add(identities);

    for (title, head, rows) in [
        ("Policies", ["time", "what", "digests"], &summary.policies),
        ("Starts and configurations", ["time", "what", "digests"], &summary.starts),
        ("Administrators", ["time", "user", "what"], &summary.admin),
    ] {
        let mut section = Section::new(title);
        if rows.is_empty() {
            section.say("None in this period.".to_owned());
        } else {
            section.table(&head, rows.iter().map(|row| row.to_vec()));
        }
        document.add(section);
    }

    let mut shown = Section::new("What this shows of standards");
    shown.say(
        "Each line says what of a point this log bears out for this workload and period. It is evidence, not a certificate.".to_owned(),
    );
    shown.table(
        &["standard", "point", "met", "evidence"],
        points::points(summary, verified).into_iter().map(|point| {
            vec![
                point.standard.to_owned(),
                point.point.to_owned(),
                point.met.map_or("not shown", |met| if met { "yes" } else { "NO" }).to_owned(),
                point.evidence,
            ]
        }),
    );
    document.add(shown);
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"v":1,"seq":1,"time":"t","event":"log.gap","missing":18446744073709551615}"#;

    #[test]
    fn what_can_not_be_read_is_not_passed_over_in_silence() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (there, gone) = (folder.path().join("there"), folder.path().join("gone"));
        let later = LINE.replace("\"seq\":1", "\"seq\":2");
        std::fs::write(&there, format!("{LINE}\n{LINE}\n{later}\nno record\n"))?;
        let (keys, period) = (Default::default(), Period { since: None, until: None });
        let mut verified = Verified { last_seq: 1, ..Verified::default() };
        let summary = sum(Records::new(vec![gone, there.clone()], &keys), &period, &there, &mut verified)?;
        // The last record was not verified. Sums that a forger makes don't overflow.
        assert_eq!((summary.records, summary.unreadable, summary.missing), (2, 1, u64::MAX));
        assert!(matches!(verified.findings.as_slice(), [finding] if finding.file == "gone"), "{verified:?}");
        Ok(())
    }
}
