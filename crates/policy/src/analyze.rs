//! Finds what is questionable in a valid policy: rules that never match, that other rules cover, or that allow too much.
//!
//! Each finding is proved. Two rules that together cover a third one are not found.

use std::collections::BTreeSet;

use serde::Serialize;
use sidegate_config::document::Location;

use crate::compile::{Policy, too_wide};
use crate::cover::{covers, never};
use crate::rule::CompiledRule;
use crate::schema::Action;

/// What is questionable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Doubt {
    /// The rule can match no connection.
    NeverMatches,
    /// A deny rule covers all that the rule allows.
    Shadowed,
    /// Another rule with the same action covers the whole rule.
    Redundant,
    /// The rule allows everybody, or a whole trust domain everywhere.
    AllowsEveryone,
    /// The rule's condition is constant.
    IdleCondition,
    /// The rule names a destination that the configuration does not have, beside others that it has.
    UnknownDestination,
}

/// A questionable rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What is questionable.
    pub doubt: Doubt,
    /// The rule's name.
    pub rule: String,
    /// The file.
    pub file: String,
    /// 1-based.
    pub line: usize,
    /// 1-based.
    pub column: usize,
    /// A description, with what to do.
    pub message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}: rule `{}` {}", self.file, self.line, self.column, self.rule, self.message)
    }
}

impl Finding {
    fn of(compiled: &CompiledRule, doubt: Doubt, message: String) -> Self {
        let Location { source, line, column } = &compiled.location;
        Self { doubt, rule: compiled.rule.name.clone(), file: source.to_string(), line: *line, column: *column, message }
    }
}

/// What is wrong with the destinations of a rule, if some are not among the `known`, and whether none is.
fn misdirected(compiled: &CompiledRule, known: &BTreeSet<String>) -> Option<(bool, String)> {
    let named = &compiled.rule.to.destinations;
    let unknown: Vec<&String> = named.iter().filter(|name| !known.contains(*name)).collect();
    if unknown.is_empty() {
        return None;
    }
    let list = |names: &mut dyn Iterator<Item = &String>| names.map(String::as_str).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "none".to_owned() } else { list(&mut known.iter()) };
    let why = format!("the configuration has no destination {}; it has {known}", list(&mut unknown.iter().copied()));
    Some((unknown.len() == named.len(), why))
}

impl Policy {
    /// The rules that name a destination which is not among `destinations`, as text: what they say of it has no effect.
    pub fn misdirected<'a>(&'a self, destinations: &'a BTreeSet<String>) -> impl Iterator<Item = String> + 'a {
        self.rules.iter().filter_map(|compiled| {
            let (_, why) = misdirected(compiled, destinations)?;
            Some(format!("{}: rule `{}` has no effect there: {why}", compiled.location, compiled.rule.name))
        })
    }

    /// Every finding, in the order of the rules. `destinations` are the names that the configuration has, where that is known.
    #[must_use]
    pub fn findings(&self, destinations: Option<&BTreeSet<String>>) -> Vec<Finding> {
        (0..self.rules.len()).flat_map(|at| self.doubts(at, destinations)).collect()
    }

    fn doubts(&self, at: usize, destinations: Option<&BTreeSet<String>>) -> Vec<Finding> {
        let compiled = &self.rules[at];
        let finding = |doubt, message: String| Finding::of(compiled, doubt, message);
        if let Some(why) = never(compiled) {
            return vec![finding(Doubt::NeverMatches, format!("can never match: {why}; correct or remove it"))];
        }
        let mut found = Vec::new();
        match destinations.and_then(|known| misdirected(compiled, known)) {
            Some((true, why)) => return vec![finding(Doubt::NeverMatches, format!("can never match: {why}; correct or remove it"))],
            Some((false, why)) => {
                found.push(finding(Doubt::UnknownDestination, format!("names what is not there: {why}; correct or remove it")));
            }
            None => {}
        }
        if compiled.when.as_ref().is_some_and(|when| when.constant == Some(true)) {
            found.push(finding(Doubt::IdleCondition, "has a `when` that is true for every connection; leave it out".to_owned()));
        }
        if let Some(what) = too_wide(&compiled.rule).filter(|_| !compiled.is_aside()) {
            found.push(finding(Doubt::AllowsEveryone, format!("allows {what}; name the SPIFFE IDs")));
        }
        if let Some(other) = self.coverer(at) {
            let by = format!("rule `{}` at {}", other.rule.name, other.location);
            found.push(match (compiled.rule.action, other.rule.action) {
                (Action::Allow, Action::Deny) => {
                    finding(Doubt::Shadowed, format!("can never allow anything: {by} denies all of it; remove one of them"))
                }
                _ => finding(Doubt::Redundant, format!("adds nothing: {by} covers all of it; remove this one")),
            });
        }
        found
    }

    /// The first rule that makes this one useless. Of two that are equal the later one is.
    fn coverer(&self, at: usize) -> Option<&CompiledRule> {
        let compiled = &self.rules[at];
        if compiled.is_aside() {
            return None;
        }
        let mut best: Option<usize> = None;
        let mut look = |candidates: &[u32]| {
            for &other in candidates {
                let (at_other, other) = (other as usize, &self.rules[other as usize]);
                let equal = || covers(compiled, other) && other.rule.action == compiled.rule.action;
                if at_other != at && never(other).is_none() && covers(other, compiled) && (at_other < at || !equal()) {
                    // A deny rule that shadows is the more serious finding.
                    let grave = |at: usize| self.rules[at].rule.action != Action::Deny;
                    best = best.into_iter().chain([at_other]).min_by_key(|at| (grave(*at), *at));
                    return;
                }
            }
        };
        let index = if compiled.rule.to.destinations.is_empty() { &self.inbound } else { &self.outbound };
        index.wider(compiled, &mut |rules| {
            look(&rules.deny);
            if compiled.rule.action == Action::Allow {
                look(&rules.allow);
            }
        });
        best.map(|at| &self.rules[at])
    }
}
