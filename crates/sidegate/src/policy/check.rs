//! `sidegate policy check`.

use anyhow::Result;

use super::{Outcome, count, load};
use crate::cli::PolicyCheck;

/// Says what is questionable about a policy that can be used.
pub(super) fn check(arguments: &PolicyCheck) -> Result<Outcome> {
    let loaded = load(&arguments.files)?;
    let findings = loaded.policy.findings(loaded.destinations.as_ref());
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        findings.iter().for_each(|finding| println!("{finding}"));
        let rules = count(loaded.policy.len(), "rule");
        match findings.len() {
            0 => println!("{rules}, nothing to object to"),
            found => println!("{rules}, {}", count(found, "finding")),
        }
    }
    Ok(Outcome::finding_if(!findings.is_empty()))
}
