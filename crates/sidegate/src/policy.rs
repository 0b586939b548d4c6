//! `sidegate policy`: checks, explains, tests and replays a policy before it is in force, and suggests one.
//!
//! The exit status is 0 if all is well, 1 for a finding or a denial, and 2 if the input can't be used.

use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Result;
use sidegate_checks::{LoadError, LoadedPolicy, Question, suggest as suggest_policy};
use sidegate_config::value::{Id, Moment};

use crate::audit::keys;
use crate::cli::{PolicyCheckArgs, PolicyCommand, PolicyExplainArgs, PolicyFilesArgs, PolicyReplayArgs, PolicySuggestArgs, PolicyTestArgs};
use crate::exit_status::ExitStatus;
use crate::output::{say, say_lines, say_pretty_json, say_verdicts};

/// Runs a command; its exit code.
pub(crate) fn run(command: &PolicyCommand) -> ExitCode {
    let outcome = match command {
        PolicyCommand::Check(arguments) => check(arguments),
        PolicyCommand::Explain(arguments) => explain(arguments),
        PolicyCommand::Test(arguments) => test(arguments),
        PolicyCommand::Replay(arguments) => replay(arguments),
        PolicyCommand::Suggest(arguments) => suggest(arguments),
    };
    ExitStatus::exit_code(outcome)
}

/// Reads the policy that the arguments name.
fn load(files: &PolicyFilesArgs) -> Result<LoadedPolicy, LoadError> {
    if files.policy.is_empty() { LoadedPolicy::of_config(&files.config) } else { LoadedPolicy::files(files.policy.clone()) }
}

fn check(arguments: &PolicyCheckArgs) -> Result<ExitStatus> {
    let policy = load(&arguments.files)?;
    let findings = policy.findings();
    if arguments.json {
        say_pretty_json(&findings)?;
    } else {
        findings.iter().try_for_each(|finding| say_lines(&finding.to_string()))?;
        say(&policy.summary(&findings))?;
    }
    Ok(ExitStatus::finding_if(!findings.is_empty()))
}

fn explain(arguments: &PolicyExplainArgs) -> Result<ExitStatus> {
    let policy = load(&arguments.files)?;
    let answer = policy.explain(&Question {
        from: arguments.from.as_ref().map(Id::get),
        from_address: arguments.from_address,
        to: *arguments.to.get(),
        sni: arguments.sni.as_deref(),
        outbound: arguments.outbound,
        destination: arguments.destination.as_deref(),
        server: arguments.server.as_ref().map(Id::get),
        resolved: &arguments.resolved,
        time: arguments.at.as_ref().map_or_else(SystemTime::now, |at: &Moment| *at.get()),
    })?;
    if arguments.json {
        say_pretty_json(&answer.answer())?;
    } else {
        say_lines(&answer.text())?;
        answer.notes.iter().for_each(|note| err!("note: {note}"));
    }
    Ok(ExitStatus::finding_if(answer.is_refused()))
}

fn test(arguments: &PolicyTestArgs) -> Result<ExitStatus> {
    let report = load(&arguments.files)?.test(&arguments.suites)?;
    if arguments.json {
        say_pretty_json(&report.json())?;
    } else {
        for failure in report.failures() {
            say_verdicts(&failure.verdict)?;
            say_lines(&failure.why)?;
        }
        say_lines(&report.summary())?;
    }
    Ok(ExitStatus::finding_if(report.has_failures() || (arguments.require_coverage && !report.uncovered.is_empty())))
}

fn replay(arguments: &PolicyReplayArgs) -> Result<ExitStatus> {
    let policy = load(&arguments.files)?;
    let recorded = &arguments.recorded;
    let replay = policy.replay(&recorded.audit, &keys(recorded.identity.as_deref())?, left_out)?;
    if arguments.json {
        say_pretty_json(&replay.json())?;
    } else {
        for difference in &replay.differences {
            say(&difference.connections())?;
            say_verdicts(&difference.verdicts())?;
            say_lines(&difference.why())?;
        }
        say_lines(&replay.summary())?;
    }
    Ok(ExitStatus::finding_if(!replay.differences.is_empty()))
}

fn suggest(arguments: &PolicySuggestArgs) -> Result<ExitStatus> {
    let recorded = &arguments.recorded;
    let keys = keys(recorded.identity.as_deref())?;
    let suggestion = suggest_policy(&recorded.audit, &keys, arguments.include_denied, left_out)?;
    say_lines(&suggestion.text)?;
    if suggestion.has_plaintext {
        err!("note: some clients have no identity; give them sidecars before a port becomes strict");
    }
    Ok(ExitStatus::Good)
}

fn left_out(line: &str) {
    err!("warning: {line}");
}
