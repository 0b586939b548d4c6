//! What people expect of their policy, for their CI.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};
use sidegate_config::Problems;
use sidegate_config::file::{LARGE, read_text};
use sidegate_core::{counted, without_controls};
use sidegate_policy::suite::{ExpectationResult, Suite};

use super::{LoadedPolicy, explanation};

/// What suites of expectations say of a policy.
#[derive(Debug)]
pub struct TestReport {
    outcomes: Vec<ExpectationResult>,
    /// Labels of the rules that no expectation of any suite covers.
    pub uncovered: Vec<String>,
    rules: usize,
}

/// An expectation that is not met.
#[derive(Debug)]
pub struct FailedExpectation {
    /// Where it stands, and its name.
    pub verdict: String,
    /// What is not as expected, and why, in lines.
    pub why: String,
}

/// Why a suite can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// The system refuses.
    #[error("the suite {0} can't be read")]
    File(PathBuf, #[source] io::Error),
    /// It has mistakes.
    #[error("the suite can't be used:\n{0}")]
    Problems(Problems),
}

impl LoadedPolicy {
    /// Runs suites of expectations.
    ///
    /// # Errors
    /// If a suite can't be used.
    pub fn test(&self, suites: &[PathBuf]) -> Result<TestReport, SuiteError> {
        let policy = self.policy();
        let mut outcomes = Vec::new();
        // A rule is covered if any suite covers it.
        let mut uncovered: Option<Vec<String>> = None;
        for file in suites {
            let text = read_text(file, LARGE).map_err(|error| SuiteError::File(file.clone(), error))?;
            let report = Suite::run(&file.display().to_string(), &text, policy).map_err(SuiteError::Problems)?;
            outcomes.extend(report.outcomes);
            uncovered = Some(match uncovered {
                None => report.uncovered,
                Some(others) => others.into_iter().filter(|rule| report.uncovered.contains(rule)).collect(),
            });
        }
        Ok(TestReport { outcomes, uncovered: uncovered.unwrap_or_default(), rules: policy.len() })
    }
}

impl TestReport {
    /// Each expectation that is not met.
    pub fn failures(&self) -> impl Iterator<Item = FailedExpectation> {
        self.outcomes.iter().filter_map(|outcome| {
            let failure = outcome.failure.as_ref()?;
            Some(FailedExpectation {
                verdict: format!("FAILED {}: {}", outcome.location, outcome.expectation.name),
                why: format!("  {failure}\n{}", explanation(&outcome.verdict.decision, "  ")),
            })
        })
    }

    /// Whether an expectation is not met.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        self.outcomes.iter().any(|outcome| outcome.failure.is_some())
    }

    /// The rules that are not covered, then the numbers, in lines.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        if !self.uncovered.is_empty() {
            text += &format!("{} that no expectation covers:\n", counted(self.uncovered.len() as u64, "rule"));
            self.uncovered.iter().for_each(|rule| text += &format!("  {}\n", without_controls(rule)));
        }
        let failed = self.failures().count();
        let met = counted((self.outcomes.len() - failed) as u64, "expectation");
        let covered = self.rules - self.uncovered.len();
        text += &format!("{met} met, {failed} failed; {covered} of {} covered\n", counted(self.rules as u64, "rule"));
        text
    }

    /// All outcomes, for tools.
    #[must_use]
    pub fn json(&self) -> Value {
        let outcome = |outcome: &ExpectationResult| {
            json!({
                "name": outcome.expectation.name,
                "place": outcome.location.to_string(),
                "passed": outcome.failure.is_none(),
                "failure": outcome.failure,
                "decision": outcome.verdict.decision,
            })
        };
        let all: Vec<_> = self.outcomes.iter().map(outcome).collect();
        json!({ "expectations": all, "uncovered": self.uncovered })
    }
}
