//! Finds the rules nearest to a denied connection: allow rules of which a single condition does not hold.
//!
//! Any client can cause a denial, so the search is bounded: it looks at rules for the client at any port, then at rules for the
//! port and any client, and compares at most [`BUDGET`] patterns in all.

use sidegate_core::{NearestRule, Segment, SpiffeId, SpiffeIdPattern};

use crate::compile::Policy;
use crate::matching::{CONDITIONS, Condition, Holds, RuleMatcher};
use crate::rule::CompiledRule;

/// The most rules that are named.
const NEAREST: usize = 3;
/// At most this many rules, IDs, blocks and ports are compared.
const BUDGET: usize = 1024;

/// How far a rule is from matching: which condition does not hold, by how much, and then the order of the files.
type Distance = (u8, u32, u32);

impl Policy {
    /// The rules nearest to the connection, best first. The connection must have been denied because no rule allows it.
    pub(crate) fn nearest(&self, matcher: &RuleMatcher<'_>) -> Vec<NearestRule> {
        let query = matcher.query;
        let index = self.index_for(query.direction);
        let mut best: Vec<(Distance, Condition)> = Vec::new();
        let mut look = |rules: &[u32], budget: &mut usize| {
            for &rule in rules {
                let compiled = &self.rules[rule as usize];
                let Some(left) = budget.checked_sub(compiled.size) else { return };
                *budget = left;
                if best.iter().any(|((.., seen), _)| *seen == rule) {
                    continue;
                }
                let Some(condition) = only_lack(matcher, compiled) else { continue };
                let (kind, by) = distance(matcher, compiled, condition);
                best.push(((kind, by, rule), condition));
                best.sort_unstable_by_key(|(distance, _)| *distance);
                best.truncate(NEAREST);
            }
        };
        let mut budget = BUDGET / 2;
        index.allows_for(query.client, &mut |rules| look(rules, &mut budget));
        budget = BUDGET / 2;
        index.allows_at(query.client, query.to.port(), &mut |rules| look(rules, &mut budget));
        let name = |((.., rule), condition): ((u8, u32, u32), Condition)| {
            let compiled = &self.rules[rule as usize];
            NearestRule { rule: compiled.label.clone(), lacked: matcher.lack(compiled, condition) }
        };
        best.into_iter().map(name).collect()
    }
}

/// The condition of `rule` that does not hold, if it is a single one.
fn only_lack(matcher: &RuleMatcher<'_>, rule: &CompiledRule) -> Option<Condition> {
    let mut lacks = CONDITIONS.into_iter().filter(|condition| matcher.holds(rule, *condition) != Holds::Yes);
    let first = lacks.next()?;
    lacks.next().is_none().then_some(first)
}

/// Which condition does not hold, as a number that is smaller for a nearer rule, and by how much.
fn distance(matcher: &RuleMatcher<'_>, rule: &CompiledRule, condition: Condition) -> (u8, u32) {
    let (query, from, to) = (matcher.query, &rule.rule.from, &rule.rule.to);
    match condition {
        Condition::Port => {
            let port = query.to.port();
            let by = to.ports.iter().map(|p| p.get().first.abs_diff(port).min(p.get().last.abs_diff(port))).min();
            (0, by.unwrap_or(u16::MAX).into())
        }
        Condition::Address | Condition::Sni | Condition::From | Condition::Destination => (1, 0),
        Condition::When => (2, 0),
        Condition::Not => (3, 0),
        Condition::Identity => {
            let steps = query.client.and_then(|id| from.spiffe_ids.iter().filter_map(|p| steps(p.get(), id)).min());
            steps.map_or((5, 0), |steps| (4, steps))
        }
    }
}

/// The number of segments in which an ID differs from a pattern of its trust domain.
fn steps(pattern: &SpiffeIdPattern, id: &SpiffeId) -> Option<u32> {
    if pattern.trust_domain() != id.trust_domain() {
        return None;
    }
    let mut path = id.path().split('/').skip(1);
    let mut steps = 0;
    for segment in pattern.segments() {
        match (segment, path.next()) {
            (Segment::Rest, Some(_)) => return Some(steps),
            (Segment::One, Some(_)) => {}
            (Segment::Literal(want), Some(found)) if want == found => {}
            _ => steps += 1,
        }
    }
    Some(steps + u32::try_from(path.count()).unwrap_or(u32::MAX))
}
