//! The decision.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sidegate_config::value::Cidr;
use sidegate_core::{Decision, Reason, SpiffeId};

use crate::compile::Policy;
use crate::schema::{Action, Rule};

/// What is known of a connection when it is judged.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The peer's verified identity; none on a plaintext connection.
    pub peer: Option<&'a SpiffeId>,
    /// Where it connects from.
    pub peer_address: IpAddr,
    /// Where it wants to go.
    pub destination: SocketAddr,
    /// The server name that it asked for.
    pub sni: Option<&'a str>,
}

/// A decision, and if it is a refusal the reason for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Allowed or not, and by which rule.
    pub decision: Decision,
    /// Why not.
    pub reason: Option<Reason>,
}

impl Policy {
    /// Judges a connection. Deny wins, then allow, else it is denied.
    #[must_use]
    pub fn decide(&self, query: &Query<'_>) -> Verdict {
        let mut allowed_by = None;
        for compiled in &self.rules {
            let first_allow = allowed_by.is_none();
            if (compiled.rule.action == Action::Deny || first_allow) && matches(&compiled.rule, query) {
                match compiled.rule.action {
                    Action::Deny => return verdict(false, compiled.label.clone(), Some(Reason::DeniedByRule)),
                    Action::Allow => allowed_by = Some(&compiled.label),
                }
            }
        }
        match allowed_by {
            Some(label) => verdict(true, label.clone(), None),
            None => verdict(false, Arc::from("default (no allow rule matches)"), Some(Reason::DeniedByDefault)),
        }
    }

    /// Whether a deny rule covers a connection that has no identity, on a port where those may pass.
    #[must_use]
    pub fn denies_plaintext(&self, query: &Query<'_>) -> Option<Verdict> {
        let denies = self.rules.iter().find(|c| c.rule.action == Action::Deny && matches(&c.rule, query))?;
        Some(verdict(false, denies.label.clone(), Some(Reason::DeniedByRule)))
    }
}

fn verdict(allowed: bool, rule: Arc<str>, reason: Option<Reason>) -> Verdict {
    Verdict { decision: Decision { allowed, rule }, reason }
}

fn matches(rule: &Rule, query: &Query<'_>) -> bool {
    let (from, to) = (&rule.from, &rule.to);
    let asks_identity = !from.spiffe_ids.is_empty() || !from.trust_domains.is_empty();
    let identity = !asks_identity
        || query.peer.is_some_and(|id| {
            from.spiffe_ids.iter().any(|p| p.get().matches(id)) || from.trust_domains.iter().any(|d| d.get() == id.trust_domain())
        });
    identity
        && covers(&from.cidrs, query.peer_address)
        && covers(&to.cidrs, query.destination.ip())
        && (to.ports.is_empty() || to.ports.iter().any(|p| p.get().contains(query.destination.port())))
        && (to.sni.is_empty() || query.sni.is_some_and(|sni| to.sni.iter().any(|s| s.eq_ignore_ascii_case(sni))))
}

/// An IPv4 peer on a dual-stack socket must not slip past an IPv4 block, hence the canonical form.
fn covers(blocks: &[Cidr], address: IpAddr) -> bool {
    blocks.is_empty() || blocks.iter().any(|block| block.get().contains(&address.to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidegate_config::schema::Profile;

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

    fn decide(peer: &str, from: &str, to: &str, sni: Option<&str>) -> Verdict {
        let policy = Policy::parse(&[("p.yaml".to_owned(), RULES.to_owned())], Profile::Production).unwrap();
        let id = SpiffeId::new(peer).unwrap();
        policy.decide(&Query { peer: Some(&id), peer_address: from.parse().unwrap(), destination: to.parse().unwrap(), sni })
    }

    #[test]
    fn deny_wins_then_allow_else_denied() {
        let yes = decide("spiffe://a.b/ns/x/web", "10.1.0.1", "10.0.0.1:9010", None);
        assert!(yes.decision.allowed);
        assert_eq!(&*yes.decision.rule, "web (p.yaml:3)");
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
    fn mistakes_are_reported_at_once_with_their_place() {
        let text = "rules:\n  - name: a\n    action: alow\n  - nam: b\n    action: deny\n  - name: c\n    action: deny\n    from: { cidrs: [10.0.0.1/8] }\n";
        let problems = Policy::parse(&[("p".to_owned(), text.to_owned())], Profile::Production).unwrap_err().to_string();
        for say in [
            "p:3:13: rules[0].action: `alow` is not known; use allow, deny",
            "p:4:5: rules[1].nam: unknown key; did you mean `name`?",
            "p:8:",
            "10.0.0.0/8",
        ] {
            assert!(problems.contains(say), "{problems}");
        }
    }

    #[test]
    fn production_refuses_rules_that_allow_everything() {
        for wide in [
            "{}",
            "{ trustDomains: [a.b] }",
            "{ spiffeIds: ['spiffe://a.b/**'] }",
            "{ cidrs: [0.0.0.0/0] }",
            "{ trustDomains: [a.b], cidrs: [0.0.0.0/0, '::/0'] }",
            "{ spiffeIds: ['spiffe://a.b/*', 'spiffe://a.b/*/**'] }",
            "{ trustDomains: [a.b] }\n    to: { ports: [1-32767, 32768-65535] }",
            "{ trustDomains: [a.b] }\n    to: { cidrs: ['::/0'] }",
        ] {
            let text = format!("rules:\n  - name: a\n    action: allow\n    from: {wide}\n");
            let texts = [("p".to_owned(), text)];
            assert!(Policy::parse(&texts, Profile::Production).unwrap_err().to_string().contains("profile `production` refuses"), "{wide}");
            assert_eq!(Policy::parse(&texts, Profile::Development).unwrap().warnings.len(), 1);
        }
        assert!(Policy::parse(&[], Profile::Production).unwrap().is_empty());
    }
}
