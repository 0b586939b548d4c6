//! `sidegate policy test`: what people expect of their policy, for their CI.

use anyhow::{Context, Result, anyhow};
use serde_json::json;
use sidegate_config::file::{LARGE, read_text};
use sidegate_core::counted;
use sidegate_policy::suite::{ExpectationResult, Suite};

use super::{ExitStatus, explanation, load};
use crate::cli::PolicyTestArgs;
use crate::output::{say, say_lines, say_pretty_json, say_verdicts};

/// Runs suites of expectations.
pub(super) fn test(arguments: &PolicyTestArgs) -> Result<ExitStatus> {
    let loaded = load(&arguments.files)?;
    let policy = loaded.policy();
    let mut outcomes: Vec<ExpectationResult> = Vec::new();
    // A rule is covered if any suite covers it.
    let mut uncovered: Option<Vec<String>> = None;
    for file in &arguments.suites {
        let text = read_text(file, LARGE).with_context(|| format!("the suite {} can't be read", file.display()))?;
        let report = Suite::run(&file.display().to_string(), &text, policy).map_err(|p| anyhow!("the suite can't be used:\n{p}"))?;
        outcomes.extend(report.outcomes);
        uncovered = Some(match uncovered {
            None => report.uncovered,
            Some(others) => others.into_iter().filter(|rule| report.uncovered.contains(rule)).collect(),
        });
    }
    let uncovered = uncovered.unwrap_or_default();
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    if arguments.json {
        let outcome = |outcome: &ExpectationResult| {
            json!({
                "name": outcome.expectation.name,
                "place": outcome.location.to_string(),
                "passed": outcome.failure.is_none(),
                "failure": outcome.failure,
                "decision": outcome.verdict.decision,
            })
        };
        let all: Vec<_> = outcomes.iter().map(outcome).collect();
        say_pretty_json(&json!({ "expectations": all, "uncovered": uncovered }))?;
    } else {
        for outcome in &outcomes {
            if let Some(failure) = &outcome.failure {
                say_verdicts(&format!("FAILED {}: {}", outcome.location, outcome.expectation.name))?;
                say_lines(&format!("  {failure}"))?;
                say_lines(&explanation(&outcome.verdict.decision, "  "))?;
            }
        }
        if !uncovered.is_empty() {
            out!("{} that no expectation covers:", counted(uncovered.len() as u64, "rule"));
            uncovered.iter().try_for_each(|rule| say(&format!("  {rule}")))?;
        }
        let covered = policy.len() - uncovered.len();
        out!(
            "{} met, {failed} failed; {covered} of {} covered",
            counted((outcomes.len() - failed) as u64, "expectation"),
            counted(policy.len() as u64, "rule")
        );
    }
    Ok(ExitStatus::finding_if(failed > 0 || (arguments.require_coverage && !uncovered.is_empty())))
}
