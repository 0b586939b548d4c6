//! `sidegate policy`: what a policy says, before it has to say it to a connection.
//!
//! All commands ask the engine that the data path asks. They end with 0 if all is well, with 1 if there is something to look at,
//! such as a finding or a denial, and with 2 if the input is of no use.

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
use sidegate_core::Decision;
use sidegate_policy::Policy;

use crate::cli::{PolicyCommand, PolicyFiles};
use crate::outcome::Outcome;

/// Runs a command; its exit code.
pub(crate) fn run(command: &PolicyCommand) -> ExitCode {
    let outcome = match command {
        PolicyCommand::Check(arguments) => check::check(arguments),
        PolicyCommand::Explain(arguments) => explain::explain(arguments),
        PolicyCommand::Test(arguments) => test::test(arguments),
        PolicyCommand::Replay(arguments) => replay::replay(arguments),
        PolicyCommand::Suggest(arguments) => suggest::suggest(arguments),
    };
    Outcome::exit_code(outcome)
}

/// A policy that was read for a command.
struct Loaded {
    policy: Policy,
    /// Names of destinations, where there is a configuration.
    destinations: Option<BTreeSet<String>>,
}

/// Reads the policy that is meant. Alone it is judged as in development, so that what production would refuse is a finding and
/// not an error.
fn load(files: &PolicyFiles) -> Result<Loaded> {
    let unusable = |error| anyhow!("the policy can't be used:\n{error}");
    if !files.policy.is_empty() {
        let policy = Policy::load(&files.policy, Profile::Development).map_err(unusable)?;
        return Ok(Loaded { policy, destinations: None });
    }
    let config = sidegate_config::load(&files.config)
        .map_err(|problems| anyhow!("the configuration can't be used:\n{problems}"))
        .context("name policy files with --policy, or a configuration with --config")?;
    let outbound = &config.outbound;
    let names = outbound.destinations.iter().map(|d| &d.name).chain(outbound.listeners.iter().map(|l| &l.name));
    let destinations = Some(names.cloned().collect());
    Ok(Loaded { policy: Policy::load(&config.policy.files, config.profile).map_err(unusable)?, destinations })
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
        text += &format!("{indent}and {} remarks more\n", explanation.remarks_left_out);
    }
    text
}

/// `1 rule`, `2 rules`.
fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}
