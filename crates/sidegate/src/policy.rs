//! `sidegate policy`: checks, explains, tests and replays a policy before it is in force.
//!
//! All commands use the engine of the data path. Their exit status is 0 if all is well, 1 for a finding or a denial, and 2 if the
//! input can't be used.

mod check;
mod explain;
mod replay;
mod seen;
mod suggest;
mod test;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use sidegate_config::schema::Profile;
use sidegate_config::{Config, Draft};
use sidegate_control::PolicySource;
use sidegate_core::{Decision, counted};
use sidegate_policy::Policy;

use crate::check::{destinations, policy_of, unusable};
use crate::cli::{PolicyCommand, PolicyFilesArgs};
use crate::exit_status::ExitStatus;

/// Runs a command; its exit code.
pub(crate) fn run(command: &PolicyCommand) -> ExitCode {
    let outcome = match command {
        PolicyCommand::Check(arguments) => check::check(arguments),
        PolicyCommand::Explain(arguments) => explain::explain(arguments),
        PolicyCommand::Test(arguments) => test::test(arguments),
        PolicyCommand::Replay(arguments) => replay::replay(arguments),
        PolicyCommand::Suggest(arguments) => suggest::suggest(arguments),
    };
    ExitStatus::exit_code(outcome)
}

/// A policy that was read for a command.
struct Loaded {
    source: PolicySource,
    /// The configuration that names it, if one does.
    config: Option<Config>,
}

impl Loaded {
    fn policy(&self) -> &Policy {
        self.source.policy()
    }

    /// Names of destinations, where there is a configuration.
    fn destinations(&self) -> Option<BTreeSet<String>> {
        self.config.as_ref().map(destinations)
    }
}

/// Reads the policy that the arguments name. Without a configuration it is checked with the development profile, so that what
/// production would refuse is a finding and not an error.
fn load(files: &PolicyFilesArgs) -> Result<Loaded> {
    if !files.policy.is_empty() {
        let source = PolicySource::load(files.policy.clone(), Profile::Development)
            .map_err(|error| anyhow!("the policy can't be used:\n{error}"))?;
        return Ok(Loaded { source, config: None });
    }
    let mut draft = Draft::read(&files.config);
    let Some(config) = draft.config.clone() else {
        return Err(unusable(&draft.problems)).context("name policy files with --policy, or a configuration with --config");
    };
    match policy_of(&mut draft, &config) {
        Some(source) if draft.problems.0.is_empty() => Ok(Loaded { source, config: Some(config) }),
        _ => Err(unusable(&draft.problems)),
    }
}

/// `allowed by RULE`, or `DENIED by RULE`.
fn verdict(decision: &Decision) -> String {
    format!("{} by {}", if decision.allowed { "allowed" } else { "DENIED" }, decision.rule)
}

/// What else there is to say of a decision, a line each.
fn explanation(decision: &Decision, indent: &str) -> String {
    let Some(explanation) = &decision.explanation else { return String::new() };
    let mut text = String::new();
    for nearest in &explanation.nearest {
        text += &format!("{indent}nearest: {}\n{indent}         lacked: {}\n", nearest.rule, nearest.lacked);
    }
    for remark in &explanation.remarks {
        text += &format!("{indent}{remark}\n");
    }
    if explanation.remarks_left_out > 0 {
        text += &format!("{indent}and {} more\n", counted(explanation.remarks_left_out.into(), "remark"));
    }
    text
}
