//! Decides about a connection.

use std::sync::{Arc, LazyLock};

use sidegate_core::{Decision, Direction, Explanation, Reason, Remark, Says};

use crate::compile::Policy;
use crate::index::{Index, RulesAtPort};
use crate::matching::{Holds, RuleMatcher};
use crate::query::Query;
use crate::schema::Action;

/// The most remarks of a decision.
const MAX_REMARKS: usize = 8;

static DEFAULT: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("default (no allow rule matches)"));

/// A decision, with the reason for the record if it is a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Allowed or not, the rule that decided, and an explanation.
    pub decision: Decision,
    /// Why it is refused.
    pub reason: Option<Reason>,
}

/// The rules that match a connection.
#[derive(Default)]
struct FoundRules {
    deny: Option<u32>,
    allow: Option<u32>,
    /// Rules that only remark on the connection, with the error if their condition could not be evaluated.
    aside: Vec<(u32, Option<String>)>,
}

impl Policy {
    /// Authorizes a connection to the workload. A deny rule wins over an allow rule; without either the connection is denied. Of
    /// several rules the verdict names the first in the order of the files.
    ///
    /// A rule whose `when` can't be evaluated counts as matching if it denies, and as not matching if it allows.
    #[must_use]
    pub fn decide(&self, query: &Query<'_>) -> Verdict {
        let matcher = RuleMatcher::new(query);
        let found = self.find(&self.inbound, &matcher);
        match (found.deny, found.allow) {
            (Some(rule), _) => self.explained(false, self.label(rule), found, Some(Reason::DeniedByRule)),
            (None, Some(rule)) => self.explained(true, self.label(rule), found, None),
            (None, None) => self.denied_by_default(&matcher, found),
        }
    }

    /// Authorizes a connection from the workload to a server that the configuration of `destination` expects. The verdict names
    /// `destination` if no rule matches.
    ///
    /// A deny rule wins over an allow rule. If an allow rule names the destination, only connections that such a rule allows may
    /// go there; else every server that the configuration expects is allowed.
    #[must_use]
    pub fn decide_outbound(&self, query: &Query<'_>, destination: &Arc<str>) -> Verdict {
        let matcher = RuleMatcher::new(query);
        let found = self.find(&self.outbound, &matcher);
        let guarded = query.destination.is_some_and(|name| self.guarded.contains(name));
        match (found.deny, found.allow) {
            (Some(rule), _) => self.explained(false, self.label(rule), found, Some(Reason::DeniedByRule)),
            (None, Some(rule)) => self.explained(true, self.label(rule), found, None),
            (None, None) if guarded => self.denied_by_default(&matcher, found),
            (None, None) => self.explained(true, destination.clone(), found, None),
        }
    }

    /// Authorizes a connection without an identity, on a port that accepts these. `mode` names the port's mode, which allows the
    /// connection unless a deny rule matches.
    #[must_use]
    pub fn decide_plaintext(&self, query: &Query<'_>, mode: &'static str) -> Verdict {
        let mut found = self.find(&self.inbound, &RuleMatcher::new(query));
        // Allow rules play no part.
        found.aside.retain(|(rule, _)| self.rules[*rule as usize].is_aside() || found.deny == Some(*rule));
        match found.deny {
            Some(rule) => self.explained(false, self.label(rule), found, Some(Reason::DeniedByRule)),
            None => self.explained(true, mode.into(), found, None),
        }
    }

    pub(crate) fn index_for(&self, direction: Direction) -> &Index {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    fn label(&self, rule: u32) -> Arc<str> {
        self.rules[rule as usize].label.clone()
    }

    fn find(&self, index: &Index, matcher: &RuleMatcher<'_>) -> FoundRules {
        let mut found = FoundRules::default();
        index.matching(matcher.query.client, matcher.query.to.port(), &mut |rules| self.look_at(rules, matcher, &mut found));
        if !found.aside.is_empty() {
            // Whether a rule after the deciding one was evaluated depends on the index, so its remark is left out.
            let decider = found.deny.or(found.allow).unwrap_or(u32::MAX);
            let denied = found.deny.is_some();
            found.aside.retain(|(rule, _)| {
                let compiled = &self.rules[*rule as usize];
                let decides = !compiled.is_aside();
                !decides || (*rule <= decider && (compiled.rule.action == Action::Deny || !denied))
            });
            found.aside.sort_unstable();
            found.aside.dedup();
        }
        found
    }

    /// Finds the first of `rules` that denies, the first that allows, and all that remark.
    fn look_at(&self, rules: &RulesAtPort, matcher: &RuleMatcher<'_>, found: &mut FoundRules) {
        for &rule in &rules.deny {
            if found.deny.is_some_and(|first| first <= rule) {
                break;
            }
            match matcher.matches_beside_index(&self.rules[rule as usize]) {
                Holds::No => continue,
                Holds::Yes => {}
                Holds::Unknown(why) => found.aside.push((rule, Some(why))),
            }
            found.deny = Some(rule);
            break;
        }
        for &rule in &rules.allow {
            if found.allow.is_some_and(|first| first <= rule) {
                break;
            }
            match matcher.matches_beside_index(&self.rules[rule as usize]) {
                Holds::No => {}
                Holds::Unknown(why) => found.aside.push((rule, Some(why))),
                Holds::Yes => {
                    found.allow = Some(rule);
                    break;
                }
            }
        }
        for &rule in &rules.aside {
            match matcher.matches_beside_index(&self.rules[rule as usize]) {
                Holds::No => {}
                Holds::Yes => found.aside.push((rule, None)),
                Holds::Unknown(why) => found.aside.push((rule, Some(why))),
            }
        }
    }

    fn denied_by_default(&self, matcher: &RuleMatcher<'_>, found: FoundRules) -> Verdict {
        let nearest = self.nearest(matcher);
        let mut verdict = self.explained(false, DEFAULT.clone(), found, Some(Reason::DeniedByDefault));
        if !nearest.is_empty() {
            verdict.decision.explanation.get_or_insert_default().nearest = nearest;
        }
        verdict
    }

    /// A verdict with the remarks of the rules that did not decide.
    fn explained(&self, allowed: bool, rule: Arc<str>, found: FoundRules, reason: Option<Reason>) -> Verdict {
        let mut decision = Decision::new(allowed, rule);
        if !found.aside.is_empty() {
            let left_out = found.aside.len().saturating_sub(MAX_REMARKS);
            let remarks = found.aside.into_iter().take(MAX_REMARKS).map(|(rule, failed)| {
                let compiled = &self.rules[rule as usize];
                let says = match (compiled.rule.action, &failed) {
                    (Action::Deny, _) if compiled.is_aside() => Says::WouldDeny,
                    (_, Some(_)) => Says::ConditionFailed,
                    (Action::Allow, None) => Says::WouldAllow,
                    (Action::Audit | Action::Deny, None) => Says::Audit,
                };
                Remark { rule: compiled.label.clone(), says, detail: failed }
            });
            decision.explanation = Some(Box::new(Explanation {
                nearest: Vec::new(),
                remarks: remarks.collect(),
                remarks_left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
            }));
        }
        Verdict { decision, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::KnownFacts;
    use sidegate_config::schema::Profile;
    use sidegate_core::SpiffeId;
    use std::net::{IpAddr, SocketAddr};
    use std::time::UNIX_EPOCH;

    const RULES: &str = "
rules:
  - name: web
    action: allow
    from: { spiffeIds: ['spiffe://a.b/ns/*/web'] }
    to: { ports: [8080, 9000-9010] }
  - name: not-from-lab
    action: deny
    from: { cidrs: [10.9.0.0/16] }
  - name: partner
    action: allow
    from: { trustDomains: [partner.example] }
    to: { ports: [8443], sni: [api.example] }
";

    fn policy(rules: &str) -> Policy {
        Policy::parse(&[("p.yaml".to_owned(), rules.to_owned())], Profile::Production).unwrap()
    }

    fn bare(direction: Direction, client_address: IpAddr, to: SocketAddr) -> Query<'static> {
        Query::new(KnownFacts { direction, client_address, to, time: UNIX_EPOCH })
    }

    fn decide_by(rules: &str, peer: &str, from: &str, to: &str, sni: Option<&str>) -> Verdict {
        let id = SpiffeId::new(peer).unwrap();
        let query = bare(Direction::Inbound, from.parse().unwrap(), to.parse().unwrap());
        policy(rules).decide(&Query { client: Some(&id), sni, ..query })
    }

    fn decide(peer: &str, from: &str, to: &str, sni: Option<&str>) -> Verdict {
        decide_by(RULES, peer, from, to, sni)
    }

    fn remarks(verdict: &Verdict) -> Vec<String> {
        verdict.decision.explanation.iter().flat_map(|e| &e.remarks).map(ToString::to_string).collect()
    }

    #[test]
    fn deny_wins_then_allow_else_denied() {
        let yes = decide("spiffe://a.b/ns/x/web", "10.1.0.1", "10.0.0.1:9010", None);
        assert!(yes.decision.allowed);
        assert_eq!((&*yes.decision.rule, yes.decision.explanation), ("web (p.yaml:3)", None));
        let no = decide("spiffe://a.b/ns/x/web", "10.9.0.1", "10.0.0.1:8080", None);
        assert_eq!((no.reason, &*no.decision.rule), (Some(Reason::DeniedByRule), "not-from-lab (p.yaml:7)"));
        let mapped = decide("spiffe://a.b/ns/x/web", "::ffff:10.9.0.1", "10.0.0.1:8080", None);
        assert_eq!(mapped.reason, Some(Reason::DeniedByRule));
        assert_eq!(decide("spiffe://a.b/ns/x/web", "10.1.0.1", "10.0.0.1:80", None).reason, Some(Reason::DeniedByDefault));
        assert_eq!(decide("spiffe://a.b/ns/x/api", "10.1.0.1", "10.0.0.1:8080", None).reason, Some(Reason::DeniedByDefault));
        assert!(decide("spiffe://partner.example/x", "10.1.0.1", "10.0.0.1:8443", Some("API.example")).decision.allowed);
        assert!(!decide("spiffe://partner.example/x", "10.1.0.1", "10.0.0.1:8443", None).decision.allowed);
    }

    #[test]
    fn a_denial_names_the_nearest_rules_and_what_each_lacked() {
        let nearest = |peer: &str, to: &str, sni: Option<&str>| -> Vec<String> {
            let verdict = decide(peer, "10.1.0.1", to, sni);
            verdict.decision.explanation.into_iter().flat_map(|e| e.nearest).map(|n| n.to_string()).collect()
        };
        assert_eq!(
            nearest("spiffe://a.b/ns/x/web", "10.0.0.1:9011", None),
            ["web (p.yaml:3): port 9011 is not in `to.ports`: 8080, 9000-9010"]
        );
        assert_eq!(
            nearest("spiffe://a.b/ns/x/api", "10.0.0.1:8080", None),
            ["web (p.yaml:3): spiffe://a.b/ns/x/api is not in `from`: spiffe://a.b/ns/*/web"]
        );
        assert_eq!(
            nearest("spiffe://partner.example/x", "10.0.0.1:8443", None),
            ["partner (p.yaml:10): the client asked for no server name, `to.sni` wants api.example"]
        );
        assert!(nearest("spiffe://a.b/ns/x/api", "10.0.0.1:1", None).is_empty(), "two conditions are not near");
        let by_rule = decide("spiffe://a.b/ns/x/web", "10.9.0.1", "10.0.0.1:8080", None);
        assert_eq!(by_rule.decision.explanation, None, "the rule itself says it all");
    }

    #[test]
    fn what_decides_nothing_is_told() {
        let aside = "
rules:
  - { name: look, action: audit, from: { trustDomains: [a.b] } }
  - { name: soon, action: deny, dryRun: true, to: { ports: [80-90] } }
  - { name: later, action: allow, dryRun: true, from: { spiffeIds: ['spiffe://a.b/x'] } }
  - { name: now, action: allow, from: { spiffeIds: ['spiffe://a.b/*'] }, to: { ports: [80] } }
";
        let allowed = decide_by(aside, "spiffe://a.b/x", "10.0.0.1", "10.0.0.2:80", None);
        assert!(allowed.decision.allowed);
        assert_eq!(remarks(&allowed), ["audit look (p.yaml:3)", "wouldDeny soon (p.yaml:4)", "wouldAllow later (p.yaml:5)"]);
        let denied = decide_by(aside, "spiffe://a.b/x", "10.0.0.1", "10.0.0.2:81", None);
        assert_eq!(denied.reason, Some(Reason::DeniedByDefault));
        assert_eq!(remarks(&denied).len(), 3);
        let many: String = (0..20).map(|i| format!("  - {{ name: r{i}, action: audit }}\n")).collect();
        let told = decide_by(&format!("rules:\n{many}"), "spiffe://a.b/x", "10.0.0.1", "10.0.0.2:80", None);
        let explanation = told.decision.explanation.as_deref().unwrap();
        assert_eq!((explanation.remarks.len(), explanation.remarks_left_out), (MAX_REMARKS, 12));
    }

    #[test]
    fn who_is_left_out_is_left_out() {
        let rules = "
rules:
  - name: all-but
    action: allow
    from:
      trustDomains: [a.b, c.d]
      not: { spiffeIds: ['spiffe://a.b/lab/**'], trustDomains: [c.d], cidrs: [10.9.0.0/16] }
    to: { ports: [80] }
";
        let allowed = |peer: &str, from: &str| decide_by(rules, peer, from, "10.0.0.2:80", None).decision.allowed;
        assert!(allowed("spiffe://a.b/x", "10.0.0.1"));
        assert!(!allowed("spiffe://a.b/lab/x", "10.0.0.1"));
        assert!(!allowed("spiffe://c.d/x", "10.0.0.1"));
        assert!(!allowed("spiffe://a.b/x", "10.9.0.1"));
        let denied = decide_by(rules, "spiffe://a.b/lab/x", "10.0.0.1", "10.0.0.2:80", None);
        let nearest = &denied.decision.explanation.unwrap().nearest[0];
        assert_eq!(nearest.lacked, "`from.not` leaves spiffe://a.b/lab/x out: spiffe://a.b/lab/**");
    }

    /// Fail closed: a rule that can't be evaluated counts if it denies, not if it allows; the record says so.
    #[test]
    fn a_condition_that_can_not_be_evaluated_is_on_the_safe_side() {
        let rules = "
rules:
  - { name: by-name, action: allow, from: { trustDomains: [a.b] }, to: { ports: [80] }, when: connection.sni == 'x' }
  - { name: no-lab, action: deny, to: { ports: [81] }, when: connection.sni == 'lab' }
";
        let allow = decide_by(rules, "spiffe://a.b/x", "10.0.0.1", "10.0.0.2:80", None);
        assert_eq!(allow.reason, Some(Reason::DeniedByDefault));
        let says = "conditionFailed by-name (p.yaml:3): `sni` is not known of this connection; ask `has(…)` first";
        assert_eq!(remarks(&allow), [says]);
        assert!(decide_by(rules, "spiffe://a.b/x", "10.0.0.1", "10.0.0.2:80", Some("x")).decision.allowed);
        let deny = decide_by(rules, "spiffe://a.b/x", "10.0.0.1", "10.0.0.2:81", None);
        assert_eq!((deny.reason, remarks(&deny).len()), (Some(Reason::DeniedByRule), 1));
    }

    #[test]
    fn connections_from_the_workload_are_for_rules_that_name_destinations() {
        let rules = policy(
            "
rules:
  - { name: all-inbound, action: deny }
  - { name: db, action: allow, from: { spiffeIds: ['spiffe://a.b/web'] }, to: { destinations: [db] }, when: peer.id.endsWith('/db') }
  - { name: no-mail, action: deny, to: { destinations: [mail], ports: [25] } }
",
        );
        let (client, server, other) = ["web", "db", "x"].map(|name| SpiffeId::new(format!("spiffe://a.b/{name}")).unwrap()).into();
        let decide = |server: &SpiffeId, name: &str, port: u16| {
            let query = Query {
                client: Some(&client),
                server: Some(server),
                destination: Some(name),
                ..bare(Direction::Outbound, [127, 0, 0, 1].into(), ([10, 0, 0, 1], port).into())
            };
            let verdict = rules.decide_outbound(&query, &"destination x".into());
            (verdict.decision.rule.to_string(), verdict.reason)
        };
        assert_eq!(decide(&server, "db", 5432), ("db (p.yaml:4)".to_owned(), None));
        assert_eq!(decide(&other, "db", 5432).1, Some(Reason::DeniedByDefault));
        assert_eq!(decide(&server, "mail", 25), ("no-mail (p.yaml:5)".to_owned(), Some(Reason::DeniedByRule)));
        assert_eq!(decide(&server, "mail", 26), ("destination x".to_owned(), None));
    }

    #[test]
    fn plaintext_may_pass_unless_a_rule_denies_it() {
        let rules = policy(
            "
rules:
  - { name: but-x, action: deny, from: { not: { cidrs: [10.0.0.0/8] } } }
  - { name: failing, action: allow, from: { cidrs: [10.0.0.0/8] }, to: { ports: [80] }, when: peer.id == 'x' }
"
            .replace("action: allow", "action: audit")
            .as_str(),
        );
        let decide =
            |from: [u8; 4]| rules.decide_plaintext(&bare(Direction::Inbound, from.into(), ([10, 0, 0, 2], 80).into()), "mode permissive");
        let passed = decide([10, 1, 1, 1]);
        assert_eq!((&*passed.decision.rule, passed.reason, remarks(&passed).len()), ("mode permissive", None, 1));
        assert_eq!(decide([11, 1, 1, 1]).reason, Some(Reason::DeniedByRule));
    }
}
