//! Which rules match one connection: what `sidegate policy` shows beside the decision.

use sidegate_core::Direction;

use crate::compile::Policy;
use crate::decide::Verdict;
use crate::matching::{Holds, RuleMatcher};
use crate::query::Query;
use crate::rule::CompiledRule;

/// A rule by its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleRef<'a> {
    /// Its name.
    pub name: &'a str,
    /// `name (file:line)`, as in records.
    pub label: &'a str,
    /// What it does.
    pub action: &'static str,
    /// Whether it is in a dry run.
    pub dry_run: bool,
}

impl<'a> RuleRef<'a> {
    fn new(compiled: &'a CompiledRule) -> Self {
        Self { name: &compiled.rule.name, label: &compiled.label, action: compiled.rule.action.label(), dry_run: compiled.dry_run }
    }
}

impl Policy {
    /// Authorizes any connection: to the workload, from it, or without an identity on a port that accepts these.
    #[must_use]
    pub fn verdict(&self, query: &Query<'_>) -> Verdict {
        match (query.direction, query.client) {
            (Direction::Inbound, Some(_)) => self.decide(query),
            (Direction::Inbound, None) => self.decide_plaintext(query, "mode permissive"),
            (Direction::Outbound, _) => {
                self.decide_outbound(query, &format!("destination {}", query.destination.unwrap_or_default()).into())
            }
        }
    }

    /// Every rule that matches, whether it decides or not, in the order of the files.
    pub fn matching<'a>(&'a self, query: &'a Query<'a>) -> impl Iterator<Item = RuleRef<'a>> {
        let matcher = RuleMatcher::new(query);
        let about = move |rule: &&CompiledRule| rule.rule.to.destinations.is_empty() == (query.direction == Direction::Inbound);
        self.rules.iter().filter(about).filter(move |rule| matcher.matches(rule) == Holds::Yes).map(RuleRef::new)
    }

    /// Every rule, in the order of the files.
    pub fn rules(&self) -> impl Iterator<Item = RuleRef<'_>> {
        self.rules.iter().map(RuleRef::new)
    }
}
