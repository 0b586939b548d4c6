//! `sidegate policy suggest`: the smallest allow rules that cover the recorded connections, for the step from permissive to strict.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use sidegate_core::Direction;
use sidegate_policy::Usage;

use super::{ExitStatus, seen};
use crate::cli::PolicySuggestArgs;
use crate::output::say_lines;

/// Prints a policy file. Only connections to the workload are of interest: about those from it the configuration decides.
pub(super) fn suggest(arguments: &PolicySuggestArgs) -> Result<ExitStatus> {
    let mut usage = Usage::default();
    let mut denied: BTreeMap<(String, u16), u64> = BTreeMap::new();
    let mut plaintext: BTreeMap<(String, u16), u64> = BTreeMap::new();
    let mut wanted: BTreeSet<(String, u16)> = BTreeSet::new();
    let reading = seen::read(&arguments.recorded, |seen| {
        if seen.direction == Direction::Outbound {
            return;
        }
        let key = (seen.who(), seen.to.port());
        match &seen.client {
            None => *plaintext.entry(key).or_default() += 1,
            Some(client) if seen.allowed || (arguments.include_denied && seen.denied_by_default) => {
                usage.saw(&client.to_string(), seen.to.port());
                wanted.insert(key);
            }
            Some(_) => *denied.entry(key).or_default() += 1,
        }
    })?;
    out!("# Suggested by sidegate: the connections to the workload that were seen, and nothing beyond them.");
    out!("# {reading}.");
    for ((who, port), count) in &plaintext {
        out!("# Not covered, since it has no identity: {count} x {who} to port {port}. In strict mode it would be refused.");
    }
    for ((who, port), count) in denied {
        match wanted.contains(&(who.clone(), port)) {
            // Another address, server name or time made the difference, of which a suggestion knows nothing.
            true => out!("# Take care: {who} to port {port} was also denied {count} x, and is allowed below."),
            false => out!("# Left out, since it was denied: {count} x {who} to port {port}."),
        }
    }
    say_lines(&usage.policy())?;
    if !plaintext.is_empty() {
        err!("note: some clients have no identity; give them sidecars before a port becomes strict");
    }
    Ok(ExitStatus::Good)
}
