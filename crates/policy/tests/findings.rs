//! What `sidegate policy check` finds: for each kind of finding a policy that has it, and one that almost has it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use sidegate_config::schema::Profile;
use sidegate_policy::{Doubt, Policy};

/// The findings, as `RULE DOUBT`.
fn findings(rules: &str) -> Vec<String> {
    let policy = Policy::parse(&[("p".to_owned(), format!("rules:\n{rules}"))], Profile::Development).unwrap();
    let destinations = BTreeSet::from(["db".to_owned()]);
    policy.findings(Some(&destinations)).iter().map(|f| format!("{} {:?}", f.rule, f.doubt)).collect()
}

/// One rule, named `x`.
fn doubts(rest: &str) -> Vec<String> {
    findings(&format!("  - {{ name: x, action: allow, {rest} }}\n"))
}

/// Two rules, the second of them named `b`.
fn pair(first: &str, second: &str) -> Vec<String> {
    findings(&format!("  - {{ name: a, {first} }}\n  - {{ name: b, {second} }}\n"))
}

#[test]
fn rules_that_never_match() {
    for never in [
        "from: { spiffeIds: ['spiffe://a.b/x'], not: { trustDomains: [a.b] } }",
        "from: { spiffeIds: ['spiffe://a.b/x/*'], not: { spiffeIds: ['spiffe://a.b/x/**'] } }",
        "from: { trustDomains: [a.b], not: { spiffeIds: ['spiffe://a.b/**'] } }, to: { ports: [80] }",
        "from: { spiffeIds: ['spiffe://a.b/x'], cidrs: [10.1.0.0/16], not: { cidrs: [10.0.0.0/8] } }",
        "from: { spiffeIds: ['spiffe://a.b/x'], not: { cidrs: [0.0.0.0/0, '::/0'] } }",
        "from: { spiffeIds: ['spiffe://a.b/x'] }, when: 'false'",
        "from: { spiffeIds: ['spiffe://a.b/x'] }, when: 1 > 2",
        "from: { spiffeIds: ['spiffe://a.b/x'] }, to: { destinations: [dbb] }",
    ] {
        assert_eq!(doubts(never), ["x NeverMatches"], "{never}");
    }
    for sometimes in [
        "from: { spiffeIds: ['spiffe://a.b/x', 'spiffe://c.d/x'], not: { trustDomains: [a.b] } }",
        "from: { spiffeIds: ['spiffe://a.b/x/**'], not: { spiffeIds: ['spiffe://a.b/x/*'] } }",
        "from: { trustDomains: [a.b], not: { spiffeIds: ['spiffe://a.b/*'] } }, to: { ports: [80] }",
        "from: { spiffeIds: ['spiffe://a.b/x'], cidrs: [10.0.0.0/8], not: { cidrs: [10.1.0.0/16] } }",
        "from: { spiffeIds: ['spiffe://a.b/x'], not: { cidrs: [0.0.0.0/0] } }",
        "from: { spiffeIds: ['spiffe://a.b/x'] }, when: time.hour > 25",
        "from: { spiffeIds: ['spiffe://a.b/x'] }, to: { destinations: [db] }",
    ] {
        assert!(doubts(sometimes).is_empty(), "{sometimes}");
    }
    assert_eq!(doubts("from: { spiffeIds: ['spiffe://a.b/x'] }, to: { destinations: [dbb, db] }"), ["x UnknownDestination"]);
}

#[test]
fn rules_that_allow_everyone() {
    for wide in ["to: { ports: [80] }", "from: { trustDomains: [a.b] }", "from: { not: { spiffeIds: ['spiffe://a.b/x'] } }"] {
        assert_eq!(doubts(wide), ["x AllowsEveryone"], "{wide}");
    }
    assert!(doubts("from: { trustDomains: [a.b] }, to: { ports: [80] }").is_empty());
    assert!(doubts("dryRun: true").is_empty());
    assert_eq!(doubts("from: { spiffeIds: ['spiffe://a.b/x'] }, when: 'true'"), ["x IdleCondition"]);
}

#[test]
fn rules_that_another_one_makes_useless() {
    for (wide, narrow) in [
        ("from: { trustDomains: [a.b] }", "from: { spiffeIds: ['spiffe://a.b/x/*'] }"),
        ("from: { spiffeIds: ['spiffe://a.b/**'] }", "from: { trustDomains: [a.b] }"),
        ("from: { spiffeIds: ['spiffe://a.b/x/**'] }", "from: { spiffeIds: ['spiffe://a.b/x/*', 'spiffe://a.b/x/*/y'] }"),
        ("to: { ports: [80-85, 86-90] }", "to: { ports: [82-88] }"),
        ("to: { ports: [1-65535] }", "to: {}"),
        ("from: { cidrs: [10.0.0.0/8] }", "from: { cidrs: [10.1.0.0/16, 10.2.0.1] }"),
        ("to: { cidrs: [0.0.0.0/0, '::/0'] }", "to: {}"),
        ("to: { sni: [A.example, b.example] }", "to: { sni: [a.example] }"),
        ("from: { not: { spiffeIds: ['spiffe://a.b/x'] } }", "from: { not: { spiffeIds: ['spiffe://a.b/*'] } }"),
        ("from: { not: { spiffeIds: ['spiffe://a.b/x'] } }", "from: { spiffeIds: ['spiffe://a.b/y'] }"),
        ("from: { not: { trustDomains: [c.d] } }", "from: { trustDomains: [a.b] }"),
        ("from: { not: { cidrs: [10.1.0.0/16] } }", "from: { cidrs: [10.2.0.0/16] }"),
        ("to: { destinations: [db, mail] }", "to: { destinations: [db] }"),
        ("to: { ports: [80] }", "to: { ports: [80] }, when: time.hour == 1"),
        ("when: time.hour == 1", "to: { ports: [80] }, when: ' time.hour == 1'"),
        ("when: 'true', to: { ports: [80] }", "to: { ports: [80] }"),
    ] {
        let found = pair(&format!("action: deny, {wide}"), &format!("action: allow, {narrow}"));
        assert!(found.contains(&"b Shadowed".to_owned()), "{wide} / {narrow}: {found:?}");
        let found = pair(&format!("action: deny, {wide}"), &format!("action: deny, {narrow}"));
        assert!(found.contains(&"b Redundant".to_owned()), "{wide} / {narrow}: {found:?}");
        // In whatever order.
        let found = pair(&format!("action: allow, {narrow}"), &format!("action: allow, {wide}"));
        assert!(found.contains(&"a Redundant".to_owned()) != found.contains(&"b Redundant".to_owned()), "{wide} / {narrow}: {found:?}");
    }
    let same = "action: allow, from: { spiffeIds: ['spiffe://a.b/x'] }";
    assert_eq!(pair(same, same), ["b Redundant"], "of two that are equal the later one");
}

#[test]
fn rules_that_are_of_use_beside_another_one() {
    let ids = "from: { spiffeIds: ['spiffe://a.b/x'] }";
    for (wide, narrow) in [
        ("from: { spiffeIds: ['spiffe://a.b/x/*'] }", "from: { spiffeIds: ['spiffe://a.b/x/**'] }"),
        ("from: { spiffeIds: ['spiffe://a.b/*'] }", "from: { trustDomains: [a.b] }"),
        ("from: { trustDomains: [a.b] }", "from: { spiffeIds: ['spiffe://a.b/x', 'spiffe://c.d/x'] }"),
        ("from: { trustDomains: [a.b] }", "to: { ports: [80] }"),
        ("to: { ports: [80-85, 87-90] }", "to: { ports: [82-88] }"),
        ("to: { ports: [2-65535] }", "to: {}"),
        ("from: { cidrs: [10.0.0.0/8] }", "from: { cidrs: [10.1.0.0/16, 11.0.0.1] }"),
        ("to: { cidrs: [0.0.0.0/0] }", "to: {}"),
        ("to: { sni: [a.example] }", "to: { ports: [80] }"),
        ("from: { not: { spiffeIds: ['spiffe://a.b/x'] } }", "from: { not: { spiffeIds: ['spiffe://a.b/x/*'] } }"),
        ("from: { not: { spiffeIds: ['spiffe://a.b/x'] } }", "from: { spiffeIds: ['spiffe://a.b/*'] }"),
        ("from: { not: { trustDomains: [a.b] } }", "from: { trustDomains: [a.b], not: { spiffeIds: ['spiffe://a.b/*'] } }"),
        ("from: { not: { cidrs: [10.1.0.0/16] } }", "from: { cidrs: [10.0.0.0/8] }"),
        ("to: { destinations: [db] }", "to: { destinations: [db, mail] }"),
        ("to: { ports: [80] }", "to: { destinations: [db], ports: [80] }"),
        ("to: { ports: [80] }, when: time.hour == 1", "to: { ports: [80] }"),
        ("when: time.hour == 1", "when: time.hour == 2"),
        ("dryRun: true", ids),
    ] {
        let found = pair(&format!("action: deny, {wide}"), &format!("action: allow, {narrow}"));
        assert!(!found.iter().any(|f| f.contains("Shadowed") || f.contains("Redundant")), "{wide} / {narrow}: {found:?}");
    }
    assert!(pair("action: audit", &format!("action: allow, {ids}")).is_empty());
}

#[test]
fn a_finding_says_where_and_what_to_do() {
    let rules = "rules:\n  - name: all\n    action: deny\n    from: { trustDomains: [a.b] }\n  - name: web\n    action: allow\n    from: { spiffeIds: ['spiffe://a.b/web'] }\n";
    let policy = Policy::parse(&[("p.yaml".to_owned(), rules.to_owned())], Profile::Production).unwrap();
    let findings = policy.findings(None);
    assert_eq!(findings[0].doubt, Doubt::Shadowed);
    assert_eq!(
        findings[0].to_string(),
        "p.yaml:5:5: rule `web` can never allow anything: rule `all` at p.yaml:2:5 denies all of it; remove one of them"
    );
}

/// Ten thousand rules, each with its own identity: not every pair is compared.
#[test]
fn many_rules_are_checked_at_once() {
    let rule = |at: usize| {
        format!("  - {{ name: r{at}, action: allow, from: {{ spiffeIds: ['spiffe://a.b/n{at}/*'] }}, to: {{ ports: [80] }} }}\n")
    };
    let rules: String = (0..10_000).map(rule).collect();
    assert_eq!(
        findings(&format!("{rules}{}", "  - { name: d, action: deny, from: { spiffeIds: ['spiffe://a.b/n77/**'] } }\n")),
        ["r77 Shadowed"]
    );
}
