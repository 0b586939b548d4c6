//! `sidegate audit report`: what a log says about a period, for those who have to show it to somebody.

mod document;
mod points;
mod summary;

use anyhow::Result;
use sidegate_audit::{Event, Records, Report as Verified};

use self::document::{Document, Section};
use self::summary::Summary;
use super::verify::lines;
use super::{Outcome, given};
use crate::cli::audit::{Report, ReportFormat};

/// As many peers, rules and reasons are shown in a table; the JSON has all.
const ROWS: usize = 50;

pub(super) fn report(arguments: &Report) -> Result<Outcome> {
    let given = given(&arguments.proof, arguments.log.identity.as_deref())?;
    let verified = sidegate_audit::verify(&arguments.log.log, &given)?;
    let mut summary = Summary::default();
    for record in Records::of(&arguments.log.log, &given.keys)? {
        // What is no record is a finding of the verification.
        let Ok(record) = record else { continue };
        if matches!(record.event, Event::LogSealed { .. }) {
            anyhow::bail!("{} is encrypted; give an auditor's key with --identity", arguments.log.log.display());
        }
        if arguments.period.has(&record) {
            summary.add(&record);
        }
    }
    let text = match arguments.format {
        ReportFormat::Json => serde_json::to_string_pretty(&serde_json::json!({
            "log": arguments.log.log,
            "verification": verified,
            "summary": summary,
            "points": points::points(&summary, &verified),
        }))?,
        ReportFormat::Markdown => document(arguments, &summary, &verified).markdown(),
        ReportFormat::Html => document(arguments, &summary, &verified).html(),
    };
    use std::io::Write;
    writeln!(std::io::stdout(), "{}", text.trim_end())?;
    Ok(if verified.is_intact() { Outcome::Good } else { Outcome::Finding })
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
            vec![point.standard.to_owned(), point.point.to_owned(), if point.met { "yes" } else { "NO" }.to_owned(), point.evidence]
        }),
    );
    document.add(shown);
    document
}
