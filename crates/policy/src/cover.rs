//! Whether one rule matches all that another does, as far as patterns, blocks and ports can prove it.
//!
//! A "yes" is proved; a "no" may only mean that there is no proof.

use sidegate_config::value::{Cidr, Domain, IdPattern, Ports};
use sidegate_core::Segment;

use crate::compile::{every_port, everywhere_of_both};
use crate::rule::CompiledRule;
use crate::schema::{From, To};

/// Whether `wide` matches every connection that `narrow` matches.
pub(crate) fn covers(wide: &CompiledRule, narrow: &CompiledRule) -> bool {
    let ((from_wide, to_wide), (from, to)) = ((&wide.rule.from, &wide.rule.to), (&narrow.rule.from, &narrow.rule.to));
    identities(from_wide, from)
        && blocks(&from_wide.cidrs, &from.cidrs)
        && nobody_more_left_out(from_wide, from)
        && ports(&to_wide.ports, &to.ports)
        && blocks(&to_wide.cidrs, &to.cidrs)
        && names(to_wide, to)
        && conditions(wide, narrow)
}

/// Why `compiled` can match no connection, if that can be proved.
pub(crate) fn never(compiled: &CompiledRule) -> Option<String> {
    let (from, not) = (&compiled.rule.from, &compiled.rule.from.not);
    let left_out = |pattern: &IdPattern| covers_pattern(&not.spiffe_ids, &not.trust_domains, pattern);
    let identities = from.spiffe_ids.iter().all(left_out)
        && from.trust_domains.iter().all(|domain| covers_domain(&not.spiffe_ids, &not.trust_domains, domain));
    if from.asks_identity() && identities {
        return Some("everybody in `from` is left out by `from.not`".to_owned());
    }
    if !from.cidrs.is_empty() && from.cidrs.iter().all(|block| inside(block, &not.cidrs)) {
        return Some("every block in `from.cidrs` is left out by `from.not.cidrs`".to_owned());
    }
    if everywhere_of_both(&not.cidrs) {
        return Some("`from.not.cidrs` leaves out every address".to_owned());
    }
    let constant = compiled.when.as_ref().and_then(|when| when.constant);
    (constant == Some(false)).then(|| "`when` is false for every connection".to_owned())
}

fn identities(wide: &From, narrow: &From) -> bool {
    !wide.asks_identity()
        || (narrow.asks_identity()
            && narrow.spiffe_ids.iter().all(|pattern| covers_pattern(&wide.spiffe_ids, &wide.trust_domains, pattern))
            && narrow.trust_domains.iter().all(|domain| covers_domain(&wide.spiffe_ids, &wide.trust_domains, domain)))
}

fn covers_pattern(patterns: &[IdPattern], domains: &[Domain], pattern: &IdPattern) -> bool {
    patterns.iter().any(|wide| wide.get().covers(pattern.get())) || domains.iter().any(|d| d.get() == pattern.get().trust_domain())
}

/// A verified ID always has a path, so `**` is all of a trust domain.
fn covers_domain(patterns: &[IdPattern], domains: &[Domain], domain: &Domain) -> bool {
    let whole = |p: &IdPattern| p.get().trust_domain() == domain.get() && p.get().segments() == [Segment::Rest];
    domains.contains(domain) || patterns.iter().any(whole)
}

/// Whether `narrow` also excludes, or never includes, each client that `wide` excludes.
fn nobody_more_left_out(wide: &From, narrow: &From) -> bool {
    let not = &narrow.not;
    let never_meant = |pattern: &IdPattern| {
        narrow.asks_identity()
            && narrow.spiffe_ids.iter().all(|p| p.get().is_disjoint(pattern.get()))
            && narrow.trust_domains.iter().all(|d| d.get() != pattern.get().trust_domain())
    };
    let domain_never_meant = |domain: &Domain| {
        narrow.asks_identity()
            && narrow.spiffe_ids.iter().all(|p| p.get().trust_domain() != domain.get())
            && !narrow.trust_domains.contains(domain)
    };
    let block_never_meant = |block: &Cidr| {
        let apart = |other: &Cidr| !other.get().contains(block.get()) && !block.get().contains(other.get());
        !narrow.cidrs.is_empty() && narrow.cidrs.iter().all(apart)
    };
    wide.not.spiffe_ids.iter().all(|p| covers_pattern(&not.spiffe_ids, &not.trust_domains, p) || never_meant(p))
        && wide.not.trust_domains.iter().all(|d| covers_domain(&not.spiffe_ids, &not.trust_domains, d) || domain_never_meant(d))
        && wide.not.cidrs.iter().all(|block| inside(block, &not.cidrs) || block_never_meant(block))
}

fn blocks(wide: &[Cidr], narrow: &[Cidr]) -> bool {
    wide.is_empty() || everywhere_of_both(wide) || (!narrow.is_empty() && narrow.iter().all(|block| inside(block, wide)))
}

fn inside(block: &Cidr, blocks: &[Cidr]) -> bool {
    blocks.iter().any(|wide| wide.get().contains(block.get()))
}

fn ports(wide: &[Ports], narrow: &[Ports]) -> bool {
    if every_port(wide) {
        return true;
    }
    let mut ranges: Vec<(u16, u16)> = wide.iter().map(|p| (p.get().first, p.get().last)).collect();
    ranges.sort_unstable();
    // Ranges that touch are one.
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    !narrow.is_empty() && narrow.iter().all(|p| merged.iter().any(|(first, last)| *first <= p.get().first && p.get().last <= *last))
}

/// Server names and destinations. A rule that names destinations is about other connections than one that names none.
fn names(wide: &To, narrow: &To) -> bool {
    let sni = |name: &String| wide.sni.iter().any(|w| w.eq_ignore_ascii_case(name));
    let by_sni = wide.sni.is_empty() || (!narrow.sni.is_empty() && narrow.sni.iter().all(sni));
    let same_direction = wide.destinations.is_empty() == narrow.destinations.is_empty();
    by_sni && same_direction && narrow.destinations.iter().all(|name| wide.destinations.contains(name))
}

fn conditions(wide: &CompiledRule, narrow: &CompiledRule) -> bool {
    match (&wide.when, &narrow.when) {
        (None, _) => true,
        (Some(wide), _) if wide.constant == Some(true) => true,
        (Some(wide), Some(narrow)) => wide.text.trim() == narrow.text.trim(),
        (Some(_), None) => false,
    }
}
