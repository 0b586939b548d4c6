//! An index of rules by client and port, so that a decision evaluates few of many rules.
//!
//! A client's rules are those that ask no identity, those of its trust domain, and those whose pattern covers its ID, which a
//! tree of path segments finds. Each of these sets is a [`PortTable`]. All other conditions are evaluated rule by rule.

use std::collections::HashMap;

use sidegate_core::{Segment, SpiffeId, SpiffeIdPattern};

use crate::rule::CompiledRule;
use crate::schema::{Action, Rule};

/// Rules of one direction, by identity and port.
#[derive(Debug, Default)]
pub(crate) struct Index {
    anyone: PortTable,
    domains: HashMap<Box<str>, DomainIndex>,
    /// All allow rules, by port only.
    for_others: PortTable,
}

#[derive(Debug, Default)]
struct DomainIndex {
    everybody: PortTable,
    root: SegmentNode,
    /// All allow rules for clients of this trust domain, by port only.
    for_others: PortTable,
}

/// A node of the tree of patterns: the segments from the root to it are the beginning of a path.
#[derive(Debug, Default)]
struct SegmentNode {
    literals: HashMap<Box<str>, SegmentNode>,
    one: Option<Box<SegmentNode>>,
    /// Patterns that end here.
    ends: Option<Box<PortTable>>,
    /// Patterns that take whatever segments follow, at least one.
    rest: Option<Box<PortTable>>,
}

/// Rules by port. A range is kept as the aligned blocks of ports that it consists of, as an address range consists of CIDR
/// blocks: so a port is in at most 17 blocks, of which hardly ever more than two lengths are in use.
#[derive(Debug, Default)]
pub(crate) struct PortTable {
    /// Which lengths of prefixes are in use, a bit each.
    lengths: u32,
    blocks: HashMap<(u8, u16), RulesAtPort>,
    /// All allow rules for any port, each once.
    allows: Vec<u32>,
}

/// Rules in the order of the files, by what they do.
#[derive(Debug, Default)]
pub(crate) struct RulesAtPort {
    pub(crate) deny: Vec<u32>,
    pub(crate) allow: Vec<u32>,
    /// Audit rules, and all rules in a dry run.
    pub(crate) aside: Vec<u32>,
}

impl Index {
    /// Adds the rule of this number; numbers rise.
    pub(crate) fn add(&mut self, number: u32, compiled: &CompiledRule) {
        let from = &compiled.rule.from;
        if !from.asks_identity() {
            self.anyone.add(number, compiled);
        }
        for domain in &from.trust_domains {
            self.domain(domain.get().as_str()).everybody.add(number, compiled);
        }
        for pattern in &from.spiffe_ids {
            self.domain(pattern.get().trust_domain().as_str()).root.add(pattern.get(), number, compiled);
        }
        if compiled.rule.action == Action::Allow && !compiled.dry_run {
            self.for_others.add(number, compiled);
            let domains = from.trust_domains.iter().map(|d| d.get().as_str());
            for domain in domains.chain(from.spiffe_ids.iter().map(|p| p.get().trust_domain().as_str())) {
                self.domains.entry(domain.into()).or_default().for_others.add(number, compiled);
            }
        }
    }

    fn domain(&mut self, name: &str) -> &mut DomainIndex {
        self.domains.entry(name.into()).or_default()
    }

    /// Visits every set of rules that match `client` and `port`. A rule may be in several.
    pub(crate) fn matching<'a>(&'a self, client: Option<&SpiffeId>, port: u16, visit: &mut impl FnMut(&'a RulesAtPort)) {
        self.tables(client.map(of_id), &mut |table| table.at(port, visit));
    }

    /// Visits every set of rules of which one may cover all that `compiled` does: what covers a pattern matches it as if it were
    /// an ID with a segment of its own in place of each wildcard.
    pub(crate) fn wider<'a>(&'a self, compiled: &CompiledRule, visit: &mut impl FnMut(&'a RulesAtPort)) {
        let Rule { from, to, .. } = &compiled.rule;
        let path = |pattern: &SpiffeIdPattern| {
            let segments = pattern.segments().iter().map(|s| if let Segment::Literal(name) = s { name } else { "*" });
            segments.collect::<Vec<_>>().join("/")
        };
        let pattern = from.spiffe_ids.first().map(|p| (p.get().trust_domain().as_str(), path(p.get())));
        let sample = pattern.or_else(|| Some((from.trust_domains.first()?.get().as_str(), "*".to_owned())));
        let port = to.ports.first().map_or(1, |ports| ports.get().first);
        self.tables(sample.as_ref().map(|(domain, path)| (*domain, path.as_str())), &mut |table| table.at(port, visit));
    }

    /// Visits the allow rules for `client` whatever their ports.
    pub(crate) fn allows_for<'a>(&'a self, client: Option<&SpiffeId>, visit: &mut impl FnMut(&'a [u32])) {
        self.tables(client.map(of_id), &mut |table| visit(&table.allows));
    }

    /// Visits the allow rules at `port` for any client, those for the client's trust domain first.
    pub(crate) fn allows_at<'a>(&'a self, client: Option<&SpiffeId>, port: u16, visit: &mut impl FnMut(&'a [u32])) {
        let own = client.and_then(|id| self.domains.get(id.trust_domain_name()));
        for table in own.iter().map(|domain| &domain.for_others).chain([&self.for_others]) {
            table.at(port, &mut |rules| visit(&rules.allow));
        }
    }

    fn tables<'a>(&'a self, client: Option<(&str, &str)>, visit: &mut impl FnMut(&'a PortTable)) {
        visit(&self.anyone);
        let Some((domain, path)) = client else { return };
        let Some(domain) = self.domains.get(domain) else { return };
        visit(&domain.everybody);
        // The ID of a trust domain itself has no segment that a pattern could cover.
        if !path.is_empty() {
            domain.root.walk(Some(path), visit);
        }
    }
}

/// Trust domain and path, the latter without its first slash.
fn of_id(id: &SpiffeId) -> (&str, &str) {
    (id.trust_domain_name(), id.path().trim_start_matches('/'))
}

impl SegmentNode {
    fn add(&mut self, pattern: &SpiffeIdPattern, number: u32, compiled: &CompiledRule) {
        let mut node = self;
        for segment in pattern.segments() {
            node = match segment {
                Segment::Literal(name) => node.literals.entry(name.as_str().into()).or_default(),
                Segment::One => node.one.get_or_insert_default(),
                // Always the last one.
                Segment::Rest => return node.rest.get_or_insert_default().add(number, compiled),
            };
        }
        node.ends.get_or_insert_default().add(number, compiled);
    }

    /// Visits the patterns that cover `path`, which is what is left to be read. As deep as the deepest pattern, and in all no
    /// more steps than there are nodes.
    fn walk<'a>(&'a self, path: Option<&str>, visit: &mut impl FnMut(&'a PortTable)) {
        let Some(path) = path else {
            self.ends.iter().for_each(|table| visit(table));
            return;
        };
        self.rest.iter().for_each(|table| visit(table));
        let (segment, rest) = path.split_once('/').map_or((path, None), |(segment, rest)| (segment, Some(rest)));
        if let Some(node) = self.literals.get(segment) {
            node.walk(rest, visit);
        }
        if let Some(node) = &self.one {
            node.walk(rest, visit);
        }
    }
}

impl PortTable {
    fn add(&mut self, number: u32, compiled: &CompiledRule) {
        let mut file = |length: u8, prefix: u16| {
            self.lengths |= 1 << length;
            self.blocks.entry((length, prefix)).or_default().add(number, compiled);
        };
        let ports = &compiled.rule.to.ports;
        if ports.is_empty() {
            file(0, 0);
        }
        for range in ports {
            let (mut first, last) = (u32::from(range.get().first), u32::from(range.get().last));
            while first <= last {
                // The largest aligned block that begins here and does not reach too far.
                let size = (0..=first.trailing_zeros().min(16)).rev().find(|size| first + (1 << size) - 1 <= last).unwrap_or(0);
                let length = 16 - size;
                file(u8::try_from(length).unwrap_or(16), prefix(u16::try_from(first).unwrap_or(u16::MAX), length));
                first += 1 << size;
            }
        }
        if compiled.rule.action == Action::Allow && !compiled.dry_run && self.allows.last() != Some(&number) {
            self.allows.push(number);
        }
    }

    fn at<'a>(&'a self, port: u16, visit: &mut impl FnMut(&'a RulesAtPort)) {
        let mut lengths = self.lengths;
        while lengths != 0 {
            let length = lengths.trailing_zeros();
            lengths &= lengths - 1;
            if let Some(rules) = self.blocks.get(&(u8::try_from(length).unwrap_or(16), prefix(port, length))) {
                visit(rules);
            }
        }
    }
}

/// The first `length` bits of a port.
fn prefix(port: u16, length: u32) -> u16 {
    port.checked_shr(16 - length).unwrap_or(0)
}

impl RulesAtPort {
    fn add(&mut self, number: u32, compiled: &CompiledRule) {
        let list = match compiled.rule.action {
            Action::Deny if !compiled.dry_run => &mut self.deny,
            Action::Allow if !compiled.dry_run => &mut self.allow,
            _ => &mut self.aside,
        };
        // A rule with several patterns or ports may come here more than once.
        if list.last() != Some(&number) {
            list.push(number);
        }
    }
}
