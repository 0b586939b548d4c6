//! Evaluates the conditions of a rule for a connection, one by one.

use std::fmt::Display;
use std::net::IpAddr;

use sidegate_config::value::Cidr;
use sidegate_core::SpiffeId;

use crate::query::Query;
use crate::rule::CompiledRule;
use crate::schema::Rule;

/// A condition of a rule. A rule matches if every condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// `from.spiffeIds` and `from.trustDomains`.
    Identity,
    /// `from.not`.
    Not,
    /// `from.cidrs`.
    From,
    /// `to.ports`.
    Port,
    /// `to.cidrs`.
    Address,
    /// `to.sni`.
    Sni,
    /// `to.destinations`.
    Destination,
    /// `when`.
    When,
}

/// The conditions that the index does not answer, cheap ones first.
const BESIDE_INDEX: [Condition; 6] =
    [Condition::From, Condition::Address, Condition::Destination, Condition::Sni, Condition::Not, Condition::When];

/// Every condition.
pub(crate) const CONDITIONS: [Condition; 8] = [
    Condition::Identity,
    Condition::Not,
    Condition::From,
    Condition::Port,
    Condition::Address,
    Condition::Sni,
    Condition::Destination,
    Condition::When,
];

/// Whether a condition or a rule holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holds {
    Yes,
    No,
    /// It can't be evaluated, and why.
    Unknown(String),
}

/// Matches rules against one connection.
#[derive(Clone, Copy)]
pub(crate) struct RuleMatcher<'a> {
    pub(crate) query: &'a Query<'a>,
}

impl<'a> RuleMatcher<'a> {
    pub(crate) fn new(query: &'a Query<'a>) -> Self {
        Self { query }
    }

    /// Whether `rule` matches, if the index has found that its identity and port do.
    pub(crate) fn matches_beside_index(&self, rule: &CompiledRule) -> Holds {
        BESIDE_INDEX.into_iter().map(|condition| self.holds(rule, condition)).find(|holds| *holds != Holds::Yes).unwrap_or(Holds::Yes)
    }

    /// Whether `rule` matches.
    pub(crate) fn matches(&self, rule: &CompiledRule) -> Holds {
        CONDITIONS.into_iter().map(|condition| self.holds(rule, condition)).find(|holds| *holds != Holds::Yes).unwrap_or(Holds::Yes)
    }

    /// Whether one condition of `rule` holds.
    pub(crate) fn holds(&self, compiled: &CompiledRule, condition: Condition) -> Holds {
        let (query, Rule { from, to, .. }) = (self.query, &compiled.rule);
        let holds = match condition {
            Condition::Identity => !from.asks_identity() || query.client.is_some_and(|id| is_in(id, &from.spiffe_ids, &from.trust_domains)),
            Condition::Not => {
                let named = query.client.is_some_and(|id| is_in(id, &from.not.spiffe_ids, &from.not.trust_domains));
                !named && !contains(&from.not.cidrs, query.client_address)
            }
            Condition::From => from.cidrs.is_empty() || contains(&from.cidrs, query.client_address),
            Condition::Port => to.ports.is_empty() || to.ports.iter().any(|ports| ports.get().contains(query.to.port())),
            Condition::Address => to.cidrs.is_empty() || contains(&to.cidrs, query.to.ip()),
            Condition::Sni => to.sni.is_empty() || query.sni.is_some_and(|sni| to.sni.iter().any(|s| s.eq_ignore_ascii_case(sni))),
            Condition::Destination => match query.destination {
                Some(name) => to.destinations.iter().any(|d| d == name),
                None => to.destinations.is_empty(),
            },
            Condition::When => {
                let Some(when) = &compiled.when else { return Holds::Yes };
                return match when.holds(query) {
                    Ok(true) => Holds::Yes,
                    Ok(false) => Holds::No,
                    Err(why) => Holds::Unknown(why),
                };
            }
        };
        if holds { Holds::Yes } else { Holds::No }
    }

    /// Says in words why `condition` does not hold.
    pub(crate) fn lack(&self, compiled: &CompiledRule, condition: Condition) -> String {
        let (query, Rule { from, to, .. }) = (self.query, &compiled.rule);
        let client = query.client.map_or_else(|| "a client without identity".to_owned(), ToString::to_string);
        match condition {
            Condition::Identity => {
                let all = from.spiffe_ids.iter().map(ToString::to_string).chain(from.trust_domains.iter().map(|d| format!("all of {d}")));
                format!("{client} is not in `from`: {}", some(all))
            }
            Condition::Not => {
                let not = &from.not;
                let named = query.client.and_then(|id| {
                    let domain = not.trust_domains.iter().filter(|d| d.get() == id.trust_domain()).map(ToString::to_string).next();
                    not.spiffe_ids.iter().find(|p| p.get().matches(id)).map(ToString::to_string).or(domain)
                });
                match named {
                    Some(named) => format!("`from.not` leaves {client} out: {named}"),
                    None => format!("`from.not` leaves {} out", query.client_address.to_canonical()),
                }
            }
            Condition::From => format!("{} is not in `from.cidrs`: {}", query.client_address.to_canonical(), some(&from.cidrs)),
            Condition::Port => format!("port {} is not in `to.ports`: {}", query.to.port(), some(&to.ports)),
            Condition::Address => format!("{} is not in `to.cidrs`: {}", query.to.ip().to_canonical(), some(&to.cidrs)),
            Condition::Sni => match query.sni {
                Some(sni) => format!("server name `{sni}` is not in `to.sni`: {}", some(&to.sni)),
                None => format!("the client asked for no server name, `to.sni` wants {}", some(&to.sni)),
            },
            Condition::Destination => match query.destination {
                Some(name) => format!("destination `{name}` is not in `to.destinations`: {}", some(&to.destinations)),
                None => format!("the connection is to the workload, `to.destinations` is about those from it: {}", some(&to.destinations)),
            },
            Condition::When => {
                let text = compiled.when.as_ref().map_or("", |when| when.text.trim());
                match self.holds(compiled, condition) {
                    Holds::Unknown(why) => format!("`when` can't be evaluated: {why}: {text}"),
                    _ => format!("`when` does not hold: {text}"),
                }
            }
        }
    }
}

fn is_in(id: &SpiffeId, patterns: &[sidegate_config::value::IdPattern], domains: &[sidegate_config::value::Domain]) -> bool {
    patterns.iter().any(|pattern| pattern.get().matches(id)) || domains.iter().any(|domain| domain.get() == id.trust_domain())
}

/// An IPv4 peer on a dual-stack socket must not slip past an IPv4 block, hence the canonical form.
fn contains(blocks: &[Cidr], address: IpAddr) -> bool {
    blocks.iter().any(|block| block.get().contains(&address.to_canonical()))
}

/// The first few of `all`, since the text of a record is bounded.
fn some(all: impl IntoIterator<Item = impl Display>) -> String {
    const SHOWN: usize = 4;
    let mut text = String::new();
    for (at, one) in all.into_iter().enumerate() {
        match at {
            0 => text = one.to_string(),
            at if at < SHOWN => text += &format!(", {one}"),
            _ => return text + ", …",
        }
    }
    text
}
