//! The smallest allow rules that cover the recorded connections, for the step from permissive to strict.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use sidegate_core::Direction;
use sidegate_evidence::{AuditorKeys, RecordedError, read_connections};
use sidegate_policy::Usage;

/// A policy that is suggested.
#[derive(Debug)]
pub struct Suggestion {
    /// The policy file, with comments.
    pub text: String,
    /// Whether some clients have no identity, which no rule can allow.
    pub has_plaintext: bool,
}

/// Suggests a policy file. Only connections to the workload are of interest: about those from it the configuration decides. With
/// `include_denied` it covers also what was denied since no rule allowed it. What is left out for being unreadable goes to `warn`.
///
/// # Errors
/// A file can't be read, or there is no connection in any.
pub fn suggest(paths: &[PathBuf], keys: &AuditorKeys, include_denied: bool, warn: impl FnMut(&str)) -> Result<Suggestion, RecordedError> {
    let mut usage = Usage::default();
    let mut denied: BTreeMap<(String, u16), u64> = BTreeMap::new();
    let mut plaintext: BTreeMap<(String, u16), u64> = BTreeMap::new();
    let mut wanted: BTreeSet<(String, u16)> = BTreeSet::new();
    let reading = read_connections(paths, keys, warn, |seen| {
        if seen.direction == Direction::Outbound {
            return;
        }
        let key = (seen.who(), seen.to.port());
        match &seen.client {
            None => *plaintext.entry(key).or_default() += 1,
            Some(client) if seen.allowed || (include_denied && seen.denied_by_default) => {
                usage.saw(&client.to_string(), seen.to.port());
                wanted.insert(key);
            }
            Some(_) => *denied.entry(key).or_default() += 1,
        }
    })?;
    let mut text = "# Suggested by sidegate: the connections to the workload that were seen, and nothing beyond them.\n".to_owned();
    text += &format!("# {reading}.\n");
    for ((who, port), count) in &plaintext {
        text += &format!("# Not covered, since it has no identity: {count} x {who} to port {port}. In strict mode it would be refused.\n");
    }
    for ((who, port), count) in denied {
        text += &match wanted.contains(&(who.clone(), port)) {
            // Another address, server name or time made the difference, of which a suggestion knows nothing.
            true => format!("# Take care: {who} to port {port} was also denied {count} x, and is allowed below.\n"),
            false => format!("# Left out, since it was denied: {count} x {who} to port {port}.\n"),
        };
    }
    text += &usage.policy();
    Ok(Suggestion { text, has_plaintext: !plaintext.is_empty() })
}
