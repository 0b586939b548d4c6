//! A rule, ready to be compared with connections.

use std::sync::Arc;

use sidegate_config::document::Location;

use crate::schema::{Action, Rule};
use crate::when::When;

/// A rule, ready to be compared with connections.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) rule: Rule,
    /// `name (file:line)`, shared with every record that the rule decides.
    pub(crate) label: Arc<str>,
    pub(crate) location: Location,
    /// Its own, or its file's.
    pub(crate) dry_run: bool,
    pub(crate) when: Option<When>,
    /// How many comparisons an evaluation costs.
    pub(crate) size: usize,
}

impl CompiledRule {
    /// Whether it decides nothing.
    pub(crate) fn is_aside(&self) -> bool {
        self.dry_run || self.rule.action == Action::Audit
    }
}

/// The cost of evaluating a rule, in comparisons. A condition is counted by the length of its text.
pub(crate) fn size(rule: &Rule) -> usize {
    let (from, not, to) = (&rule.from, &rule.from.not, &rule.to);
    let identities = from.spiffe_ids.len() + from.trust_domains.len() + not.spiffe_ids.len() + not.trust_domains.len();
    1 + identities
        + from.cidrs.len()
        + not.cidrs.len()
        + to.ports.len()
        + to.cidrs.len()
        + to.sni.len()
        + to.destinations.len()
        + rule.when.as_ref().map_or(0, |when| when.len() / 4)
}
