//! A policy before it is in force: loaded from its files or by way of a configuration, then checked, asked, tested and compared with
//! recorded connections. The engine is the data path's.

mod explain;
mod replay;
mod suggest;
mod test;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sidegate_config::schema::Profile;
use sidegate_config::{Config, Draft};
use sidegate_control::{PolicyError, PolicySource};
use sidegate_core::{Decision, counted};
use sidegate_policy::{Finding, Policy};

use crate::doubts::destinations;
use crate::examine::policy_of;
use crate::unusable::Unusable;

pub use explain::{ExplainAnswer, ExplainError, Explained, Matching, PortAnswer, Question, resolved_name};
pub use replay::{ChangedDecision, Replay};
pub use suggest::{Suggestion, suggest};
pub use test::{FailedExpectation, SuiteError, TestReport};

/// A policy that was read for a question.
#[derive(Debug)]
pub struct LoadedPolicy {
    source: PolicySource,
    /// The configuration that names it, if one does.
    config: Option<Config>,
}

/// Why a policy can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its files can't be used.
    #[error("the policy can't be used:\n{0}")]
    Policy(PolicyError),
    /// The configuration that was to name it can't be read.
    #[error("name policy files with --policy, or a configuration with --config")]
    Config(#[source] Unusable),
    /// The configuration names a policy that can't be used.
    #[error(transparent)]
    Unusable(Unusable),
}

impl LoadedPolicy {
    /// Reads policy files. They are checked with the development profile, so that what production would refuse is a finding and not
    /// an error.
    ///
    /// # Errors
    /// What can't be read, and every mistake in what can.
    pub fn files(paths: Vec<PathBuf>) -> Result<Self, LoadError> {
        let source = PolicySource::load(paths, Profile::Development).map_err(LoadError::Policy)?;
        Ok(Self { source, config: None })
    }

    /// Reads the policy files that a configuration names.
    ///
    /// # Errors
    /// Everything that is wrong with them and the configuration.
    pub fn of_config(file: &Path) -> Result<Self, LoadError> {
        let mut draft = Draft::read(file);
        let Some(config) = draft.config.clone() else { return Err(LoadError::Config(Unusable(draft.problems))) };
        match policy_of(&mut draft, &config) {
            Some(source) if draft.problems.0.is_empty() => Ok(Self { source, config: Some(config) }),
            _ => Err(LoadError::Unusable(Unusable(draft.problems))),
        }
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.source.policy()
    }

    /// What is questionable about it.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let destinations: Option<BTreeSet<String>> = self.config.as_ref().and_then(destinations);
        self.policy().findings(destinations.as_ref())
    }

    /// How many rules there are, and what was found about them: `3 rules, nothing to object to`.
    #[must_use]
    pub fn summary(&self, findings: &[Finding]) -> String {
        let rules = counted(self.policy().len() as u64, "rule");
        match findings.len() {
            0 => format!("{rules}, nothing to object to"),
            found => format!("{rules}, {}", counted(found as u64, "finding")),
        }
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
