//! `sidegate policy check`.

use anyhow::Result;
use sidegate_core::counted;

use super::{ExitStatus, load};
use crate::cli::PolicyCheckArgs;
use crate::output::{say_lines, say_pretty_json};

/// Says what is questionable about a policy that can be used.
pub(super) fn check(arguments: &PolicyCheckArgs) -> Result<ExitStatus> {
    let loaded = load(&arguments.files)?;
    let findings = loaded.policy().findings(loaded.destinations().as_ref());
    if arguments.json {
        say_pretty_json(&findings)?;
    } else {
        findings.iter().try_for_each(|finding| say_lines(&finding.to_string()))?;
        let rules = counted(loaded.policy().len() as u64, "rule");
        match findings.len() {
            0 => out!("{rules}, nothing to object to"),
            found => out!("{rules}, {}", counted(found as u64, "finding")),
        }
    }
    Ok(ExitStatus::finding_if(!findings.is_empty()))
}
