//! A configuration and the files that it names, before a sidecar starts with them.

use std::path::Path;

use sidegate_config::{Config, Problems};
use sidegate_core::counted;

use crate::doubts::{destinations, doubts, notes};
use crate::examine::{Examined, examine};
use crate::unusable::Unusable;

/// What is to be said of a configuration that can be used.
#[derive(Debug)]
pub struct CheckReport {
    /// The configuration.
    pub config: Config,
    /// What someone has to look at.
    pub findings: Vec<String>,
    /// What is wrong with variables that are ignored. No findings: the variables are the environment's.
    pub variables: Problems,
    /// What errs on the safe side, and what comes from outside of the configuration. No findings either.
    pub notes: Vec<&'static str>,
    /// All of it in one line.
    pub summary: String,
}

/// Checks the configuration in `file` and the files that it names.
///
/// # Errors
/// Everything that keeps the sidecar from starting, at once.
pub fn check(file: &Path) -> Result<CheckReport, Unusable> {
    let Examined { config, warnings: variables, policy: source, .. } = examine(file)?;
    let policy = source.policy();
    let of_policy = policy.findings(destinations(&config).as_ref());
    let of_config = doubts(&config).map(|doubt| format!("{}: {doubt}", file.display()));
    let findings: Vec<String> = of_policy.iter().map(ToString::to_string).chain(of_config).collect();
    let notes = notes(&config, policy).collect();
    let profile = config.profile.label();
    let (rules, files) = (counted(policy.len() as u64, "rule"), counted(source.files() as u64, "policy file"));
    let of_variables = match variables.0.len() {
        0 => String::new(),
        some => format!("; {} about variables of the environment", counted(some as u64, "warning")),
    };
    let (verdict, what) = match findings.len() {
        0 => ("good for", "nothing to object to".to_owned()),
        some => ("can be used with", counted(some as u64, "finding")),
    };
    let summary = format!("{}: {verdict} profile {profile}; {rules} in {files}, {what}{of_variables}", file.display());
    Ok(CheckReport { config, findings, variables, notes, summary })
}
