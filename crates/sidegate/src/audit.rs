//! `sidegate audit`: verifies, shows, joins and reports audit logs. docs/how-to/keep-an-audit-log.md says what each command can prove.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use sidegate_config::value::Id;
use sidegate_core::{without_controls, wrapped};
use sidegate_evidence::{AuditorKeys, Filter, ProofFiles, ReportRequest, Verified, VerifyInputs, each_record, line};

use crate::cli::audit::{AuditArgs, AuditCommand, JoinArgs, ProofArgs, ReportArgs, ReportFormat, ShowArgs, VerifyArgs};
use crate::exit_status::ExitStatus;
use crate::output::{complain, print, say_fitted, say_json, say_pretty_json, say_verdicts};

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
    Ok(VerifyInputs::load(&ProofFiles {
        bundle: proof.bundle.as_deref().zip(proof.signer.as_ref().map(Id::get)),
        public_key: proof.public_key.as_deref(),
        anchors: &proof.anchor,
        identity,
    })?)
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
    ExitStatus::finding_if(!verified.is_accepted(proof.allow_unproved))
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
    let mut outcome = ExitStatus::Good;
    each_record(&arguments.log.log, &keys, arguments.follow, |record| match record {
        Ok(record) if !filter.takes(&record) => Ok(()),
        Ok(record) if arguments.json => say_json(&record),
        Ok(record) => say_fitted(&line(&record), UNDER_TIME),
        Err(error) => {
            complain(&without_controls(&format!("sidegate: {:#}", anyhow::Error::from(error))));
            outcome = ExitStatus::Finding;
            Ok(())
        }
    })?;
    Ok(outcome)
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
