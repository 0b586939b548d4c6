//! `sidegate audit`: verifies, shows, joins and reports audit logs. docs/how-to/keep-an-audit-log.md says what each command can prove.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use sidegate_core::{TrustDomain, without_controls, wrapped};
use sidegate_evidence::{
    Anchor, AuditorKeys, Filter, LogVerdict, ReadError, Records, ReportRequest, Trust, Verified, VerifyInputs, anchors, line,
};
use sidegate_identity::Bundle;
use sidegate_tls::verify::TrustStore;

use crate::cli::audit::{AuditArgs, AuditCommand, JoinArgs, ProofArgs, ReportArgs, ReportFormat, ShowArgs, VerifyArgs};
use crate::exit_status::ExitStatus;
use crate::output::{complain, print, say_fitted, say_json, say_pretty_json, say_verdicts};

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// What does not fit stands under the time of its record.
const UNDER_TIME: usize = 9;
/// What does not fit stands under the line that it belongs to.
const INDENT: usize = 4;

/// Runs a command: 0 if nothing was found, 1 if something was, 2 if the question can't be answered.
pub(crate) fn audit(arguments: &AuditArgs) -> ExitCode {
    let outcome = match &arguments.command {
        AuditCommand::Verify(arguments) => verify(arguments),
        AuditCommand::Show(arguments) => show(arguments),
        AuditCommand::Join(arguments) => join(arguments),
        AuditCommand::Report(arguments) => report(arguments),
    };
    ExitStatus::exit_code(outcome)
}

/// The keys in the file that `--identity` names; none without it.
pub(crate) fn keys(file: Option<&Path>) -> Result<AuditorKeys> {
    file.map_or_else(|| Ok(AuditorKeys::default()), |file| Ok(AuditorKeys::load(file)?))
}

/// Everything that the command line gives for the verification.
fn given(proof: &ProofArgs, identity: Option<&Path>) -> Result<VerifyInputs> {
    let mut trust = Trust::default();
    if let (Some(file), Some(signer)) = (&proof.bundle, &proof.signer) {
        trust.bundles = Some(bundle(file, signer.get().trust_domain())?);
        trust.spiffe_id = Some(signer.to_string());
    }
    if let Some(file) = &proof.public_key {
        trust.public_key = Some(Trust::public_key(file)?);
    }
    let mut exported = Vec::new();
    for file in &proof.anchor {
        let anchors = anchors(file)?;
        if !anchors.iter().any(Anchor::is_whole) {
            anyhow::bail!("{} has no exported record: there is nothing to compare the log with", file.display());
        }
        exported.extend(anchors);
    }
    let anchors = (!proof.anchor.is_empty()).then_some(exported);
    Ok(VerifyInputs { trust, anchors, keys: keys(identity)? })
}

/// The CA certificates in a PEM file.
pub(crate) fn bundle(file: &Path, trust_domain: &TrustDomain) -> Result<TrustStore> {
    let certificates = sidegate_tls::certificates(file)?;
    let mut left_out = Vec::new();
    let bundle = Bundle::new(trust_domain, certificates, &mut left_out);
    if bundle.authorities.is_empty() {
        anyhow::bail!("{} has no usable CA certificate of {trust_domain}: {}", file.display(), left_out.join("; "));
    }
    Ok(TrustStore::of(&[(trust_domain.clone(), bundle)].into()))
}

fn verify(arguments: &VerifyArgs) -> Result<ExitStatus> {
    let given = given(&arguments.proof, arguments.log.identity.as_deref())?;
    let report = sidegate_evidence::verify(&arguments.log.log, &given)?;
    let verified = Verified::new(report, arguments.proof.tail.duration());
    if arguments.json {
        say_json(&verified)?;
    } else {
        verified.lines().iter().try_for_each(|line| say_verdicts(&wrapped(line, 2)))?;
    }
    Ok(outcome(&verified, &arguments.proof))
}

/// What a verdict means for a command that was to look.
fn outcome(verified: &Verified, proof: &ProofArgs) -> ExitStatus {
    let accepted = proof.allow_unproved && verified.verdict != LogVerdict::NotIntact;
    ExitStatus::finding_if(verified.verdict != LogVerdict::Proved && !accepted)
}

fn show(arguments: &ShowArgs) -> Result<ExitStatus> {
    let keys = keys(arguments.log.identity.as_deref())?;
    let filter = Filter {
        period: arguments.period.times(),
        event: arguments.event.clone(),
        peer: arguments.peer.clone(),
        connection: arguments.connection.clone(),
        reason: arguments.reason.clone(),
    };
    let mut records = Records::of(&arguments.log.log, &keys)?;
    let mut outcome = ExitStatus::Good;
    loop {
        for record in &mut records {
            match record {
                Ok(record) if filter.takes(&record) => {
                    if arguments.json {
                        say_json(&record)?;
                    } else {
                        say_fitted(&line(&record), UNDER_TIME)?;
                    }
                }
                Ok(_) => {}
                // `retain` has deleted it since the folder was listed.
                Err(ReadError::File(_, error)) if arguments.follow && error.kind() == ErrorKind::NotFound => {}
                // The others are still worth reading.
                Err(error) => {
                    complain(&without_controls(&format!("sidegate: {:#}", anyhow::Error::from(error))));
                    outcome = ExitStatus::Finding;
                }
            }
        }
        if !arguments.follow {
            return Ok(outcome);
        }
        std::thread::sleep(LOOK);
        match records.look_for_more(&arguments.log.log) {
            // A folder that is deleted or not begun yet has nothing new.
            Err(ReadError::NoLog(_)) => {}
            Err(ReadError::File(_, error)) if error.kind() == ErrorKind::NotFound => {}
            looked => looked?,
        }
    }
}

fn join(arguments: &JoinArgs) -> Result<ExitStatus> {
    let keys = keys(arguments.identity.as_deref())?;
    let join = sidegate_evidence::join(&arguments.a, &arguments.b, &keys, &arguments.period.times())?;
    for joined in &join.connections {
        if arguments.json { say_json(joined)? } else { say_fitted(&joined.lines(), INDENT)? }
    }
    if !arguments.json {
        join.summary().iter().try_for_each(|line| say_fitted(line, INDENT))?;
    }
    Ok(ExitStatus::finding_if(!join.agrees()))
}

fn report(arguments: &ReportArgs) -> Result<ExitStatus> {
    let given = given(&arguments.proof, arguments.log.identity.as_deref())?;
    let about = ReportRequest {
        log: &arguments.log.log,
        given: &given,
        period: arguments.period.times(),
        tail: arguments.proof.tail.duration(),
        allow_unproved: arguments.proof.allow_unproved,
    };
    let report = sidegate_evidence::report(&about)?;
    let outcome = outcome(&report.verified, &arguments.proof);
    match arguments.format {
        ReportFormat::Json => say_pretty_json(&report.json())?,
        ReportFormat::Markdown => print(report.markdown().trim_end())?,
        ReportFormat::Html => print(report.html().trim_end())?,
    }
    Ok(outcome)
}
