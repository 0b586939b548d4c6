//! The engine against an interpreter that is as simple as the language's description: rule by rule, condition by condition,
//! with no index, and with its own understanding of patterns, ports and blocks.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use sidegate_config::schema::Profile;
use sidegate_config::value::{Cidr, Domain, IdPattern, Ports};
use sidegate_core::{Decision, Direction, Reason, SpiffeId};
use sidegate_policy::schema::{Action, From, Not, PolicyFile, Rule, To};
use sidegate_policy::{KnownFacts, Policy, Query};

/// Conditions, and what they say by themselves; none where they can't be evaluated.
type Truth = fn(&Query<'_>) -> Option<bool>;
const CONDITIONS: &[(&str, Truth)] = &[
    ("connection.port % 2 == 0", |q| Some(q.to.port() % 2 == 0)),
    ("connection.sni == 'x'", |q| q.sni.map(|sni| sni == "x")),
    ("has(connection.sni) && connection.sni == 'x'", |q| Some(q.sni == Some("x"))),
    ("peer.path.startsWith('/x')", |q| q.peer().map(|id| id.path().starts_with("/x"))),
    ("peer.id == 'spiffe://a.b/x' || connection.port > 40", |q| match q.peer() {
        // What one side of an `||` decides needs no other.
        _ if q.to.port() > 40 => Some(true),
        peer => peer.map(|id| id.to_string() == "spiffe://a.b/x"),
    }),
    ("connection.direction == 'inbound' && time.hour == 0", |q| Some(q.direction == Direction::Inbound)),
];

fn pattern_matches(pattern: &str, id: &str) -> bool {
    let (pattern, id): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), id.split('/').collect());
    match pattern.split_last() {
        Some((&"**", before)) => id.len() > before.len() && before.iter().zip(&id).all(|(p, i)| *p == "*" || p == i),
        _ => pattern.len() == id.len() && pattern.iter().zip(&id).all(|(p, i)| *p == "*" || p == i),
    }
}

fn named(patterns: &[IdPattern], domains: &[Domain], client: Option<&SpiffeId>) -> bool {
    let Some(client) = client.map(ToString::to_string) else { return false };
    patterns.iter().any(|p| pattern_matches(&p.to_string(), &client))
        || domains.iter().any(|d| client.split('/').nth(2) == Some(&d.to_string()))
}

fn inside(block: &Cidr, address: IpAddr) -> bool {
    let text = block.to_string();
    let (network, length) = text.split_once('/').unwrap();
    let bits = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(v4) => (4, u128::from(u32::from(v4)) << 96),
        IpAddr::V6(v6) => (6, u128::from(v6)),
    };
    let ((family, network), (other, address)) = (bits(network.parse().unwrap()), bits(address));
    let length: u32 = length.parse().unwrap();
    family == other && (length == 0 || network >> (128 - length) == address >> (128 - length))
}

/// How many conditions a rule lacks, and whether one of these can't be evaluated while all others hold.
fn lacks(rule: &Rule, query: &Query<'_>) -> (usize, bool) {
    let (from, not, to) = (&rule.from, &rule.from.not, &rule.to);
    let any_inside = |blocks: &[Cidr], address| blocks.iter().any(|block| inside(block, address));
    let port = |ports: &Ports| {
        let text = ports.to_string();
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        (first.parse::<u16>().unwrap()..=last.parse().unwrap()).contains(&query.to.port())
    };
    let hold = [
        (from.spiffe_ids.is_empty() && from.trust_domains.is_empty()) || named(&from.spiffe_ids, &from.trust_domains, query.client),
        !named(&not.spiffe_ids, &not.trust_domains, query.client) && !any_inside(&not.cidrs, query.client_address),
        from.cidrs.is_empty() || any_inside(&from.cidrs, query.client_address),
        to.ports.is_empty() || to.ports.iter().any(port),
        to.cidrs.is_empty() || any_inside(&to.cidrs, query.to.ip()),
        to.sni.is_empty() || to.sni.iter().any(|sni| query.sni == Some(sni)),
        to.destinations.is_empty() || to.destinations.iter().any(|name| query.destination == Some(name)),
    ];
    let lacked = hold.iter().filter(|holds| !**holds).count();
    let truth = rule.when.as_ref().map(|when| CONDITIONS.iter().find(|(text, _)| text == when).unwrap().1);
    match truth.map(|truth| truth(query)) {
        None | Some(Some(true)) => (lacked, false),
        Some(Some(false)) => (lacked + 1, false),
        Some(None) => (lacked + 1, lacked == 0),
    }
}

/// Names of rules, and what each remarks.
type Remarks = Vec<(String, &'static str)>;

/// What the engine should say: allowed, the rule's name if one decided, the reason, and the remarks.
fn expected_verdict(rules: &[Rule], query: &Query<'_>) -> (bool, Option<String>, Option<Reason>, Remarks) {
    let about = |rule: &&Rule| rule.to.destinations.is_empty() == (query.direction == Direction::Inbound);
    let rules: Vec<&Rule> = rules.iter().filter(about).collect();
    let mut remarks = Vec::new();
    let (mut deny, mut allow) = (None, None);
    for rule in &rules {
        let (matches, unknown) = match lacks(rule, query) {
            (0, _) => (true, false),
            (_, unknown) => (false, unknown),
        };
        match rule.action {
            Action::Deny if !rule.dry_run && (matches || unknown) => deny = deny.or(Some(rule.name.clone())),
            Action::Allow if !rule.dry_run && matches => allow = allow.or(Some(rule.name.clone())),
            _ => {}
        }
    }
    let decider = deny.as_ref().or(allow.as_ref());
    let mut passed = false;
    for rule in &rules {
        let (lacked, unknown) = lacks(rule, query);
        let live = !rule.dry_run && rule.action != Action::Audit;
        let says = match (rule.action, lacked == 0, unknown) {
            (Action::Deny, true, _) | (Action::Deny, _, true) if !live => Some("wouldDeny"),
            (Action::Allow, true, _) if !live => Some("wouldAllow"),
            (Action::Audit, true, _) => Some("audit"),
            // Rules behind the one that decides are not asked, and no allow rule where one denies.
            (action, _, true) if !live || (!passed && (deny.is_none() || action == Action::Deny)) => Some("conditionFailed"),
            _ => None,
        };
        remarks.extend(says.map(|says| (rule.name.clone(), says)));
        passed |= decider == Some(&rule.name);
    }
    let guarded = rules.iter().any(|rule| {
        rule.action == Action::Allow && !rule.dry_run && rule.to.destinations.iter().any(|name| Some(name.as_str()) == query.destination)
    });
    match (deny, allow) {
        (Some(rule), _) => (false, Some(rule), Some(Reason::DeniedByRule), remarks),
        (None, Some(rule)) => (true, Some(rule), None, remarks),
        (None, None) if query.direction == Direction::Outbound && !guarded => (true, None, None, remarks),
        (None, None) => (false, None, Some(Reason::DeniedByDefault), remarks),
    }
}

fn patterns() -> impl Strategy<Value = Vec<IdPattern>> {
    let segment = prop_oneof![Just("x"), Just("y"), Just("*")];
    let pattern = (prop_oneof![Just("a.b"), Just("c.d")], prop::collection::vec(segment, 0..3), any::<bool>());
    let text = |(domain, mut path, rest): (&str, Vec<&str>, bool)| {
        if rest || path.is_empty() {
            path.push("**");
        }
        IdPattern::parse(&format!("spiffe://{domain}/{}", path.join("/"))).unwrap()
    };
    prop::collection::vec(pattern.prop_map(text), 0..3)
}

fn domains() -> impl Strategy<Value = Vec<Domain>> {
    let domain = prop_oneof![Just("a.b"), Just("c.d")].prop_map(|name| Domain::parse(name).unwrap());
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(domain, 1..2)]
}

fn blocks() -> impl Strategy<Value = Vec<Cidr>> {
    let block = prop_oneof![Just("10.0.0.0/30"), Just("10.0.0.2"), Just("10.0.0.4/31"), Just("0.0.0.0/0"), Just("::/0"), Just("fd00::/64")];
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(block.prop_map(|b| Cidr::parse(b).unwrap()), 1..3)]
}

fn ports() -> impl Strategy<Value = Vec<Ports>> {
    let range = prop_oneof![
        (1u16..70).prop_map(|port| port.to_string()),
        (1u16..70, 0u16..70).prop_map(|(first, more)| format!("{first}-{}", first + more)),
        (1u16..70, 60_000u16..=65_535).prop_map(|(first, last)| format!("{first}-{last}")),
    ];
    prop_oneof![1 => Just(Vec::new()), 2 => prop::collection::vec(range.prop_map(|r| Ports::parse(&r).unwrap()), 1..3)]
}

fn words(words: [&'static str; 2]) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![4 => Just(Vec::new()), 1 => prop::sample::subsequence(words.to_vec(), 1..=2).prop_map(|w| w.into_iter().map(str::to_owned).collect())]
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![4 => Just(Action::Allow), 1 => Just(Action::Deny), 1 => Just(Action::Audit)];
    let not = (prop_oneof![3 => Just(Vec::new()), 1 => patterns()], domains(), blocks());
    let from = (patterns(), domains(), blocks(), not);
    let to = (ports(), blocks(), words(["x", "y"]), words(["db", "mail"]));
    let when = prop_oneof![2 => Just(None), 1 => prop::sample::select(CONDITIONS).prop_map(|(text, _)| Some(text.to_owned()))];
    (action, prop::bool::weighted(0.2), from, to, when).prop_map(|(action, dry_run, from, to, when)| Rule {
        name: String::new(),
        action,
        dry_run,
        from: From {
            spiffe_ids: from.0,
            trust_domains: from.1,
            cidrs: from.2,
            not: Not { spiffe_ids: from.3.0, trust_domains: from.3.1, cidrs: from.3.2 },
        },
        to: To { ports: to.0, cidrs: to.1, sni: to.2, destinations: to.3 },
        when,
    })
}

#[derive(Debug, Clone)]
struct Connection {
    outbound: bool,
    client: Option<String>,
    server: String,
    from: IpAddr,
    to: SocketAddr,
    sni: Option<&'static str>,
    destination: &'static str,
}

fn id() -> impl Strategy<Value = String> {
    let path = prop::collection::vec(prop_oneof![Just("x"), Just("y"), Just("z")], 0..4);
    let text = |(domain, path): (&str, Vec<&str>)| format!("spiffe://{}", [vec![domain], path].concat().join("/"));
    (prop_oneof![Just("a.b"), Just("c.d"), Just("e.f")], path).prop_map(text)
}

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (0u8..8).prop_map(|last| Ipv4Addr::new(10, 0, 0, last));
    prop_oneof![
        3 => v4.clone().prop_map(IpAddr::V4),
        1 => v4.prop_map(|v4| IpAddr::V6(v4.to_ipv6_mapped())),
        1 => Just("fd00::1".parse().unwrap()),
    ]
}

fn connection() -> impl Strategy<Value = Connection> {
    let port = prop_oneof![1u16..140, Just(65_535)];
    let sni = prop::option::of(prop_oneof![Just("x"), Just("y")]);
    let destination = prop_oneof![Just("db"), Just("mail"), Just("other")];
    (prop::bool::weighted(0.3), prop::option::weighted(0.9, id()), id(), address(), address(), port, sni, destination).prop_map(
        |(outbound, client, server, from, to, port, sni, destination)| Connection {
            outbound,
            client,
            server,
            from,
            to: (to, port).into(),
            sni,
            destination,
        },
    )
}

fn remarks(decision: &Decision) -> Remarks {
    let name = |label: &str| label.split(' ').next().unwrap().to_owned();
    decision.explanation.iter().flat_map(|e| &e.remarks).map(|remark| (name(&remark.rule), remark.says.label())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_decides_as_the_reference(mut rules in prop::collection::vec(rule(), 0..30), connections in prop::collection::vec(connection(), 1..20)) {
        for (at, rule) in rules.iter_mut().enumerate() {
            rule.name = format!("r{at}");
        }
        let text = serde_json::to_string(&PolicyFile { dry_run: false, rules: rules.clone() }).unwrap();
        let policy = Policy::parse(&[("p".to_owned(), text)], Profile::Development).unwrap();
        for connection in connections {
            let [client, server] = [connection.client.as_ref(), Some(&connection.server)].map(|id| id.map(|id| SpiffeId::new(id).unwrap()));
            let known = KnownFacts { direction: Direction::Inbound, client_address: connection.from, to: connection.to, time: UNIX_EPOCH };
            let query = Query { client: client.as_ref(), sni: connection.sni, ..Query::new(known) };
            let outbound = Query { direction: Direction::Outbound, server: server.as_ref(), destination: Some(connection.destination), ..query };
            let query = if connection.outbound { outbound } else { query };
            let verdict = match query.direction {
                Direction::Inbound => policy.decide(&query),
                Direction::Outbound => policy.decide_outbound(&query, &"destination".into()),
            };
            let (allowed, rule, reason, mut said) = expected_verdict(&rules, &query);
            let decision = &verdict.decision;
            prop_assert_eq!((decision.allowed, verdict.reason), (allowed, reason), "{:?} {:?}", rules, connection);
            match &rule {
                Some(rule) => prop_assert_eq!(&*decision.rule, format!("{rule} (p:1)")),
                None => prop_assert_eq!(&*decision.rule, if allowed { "destination" } else { "default (no allow rule matches)" }),
            }
            let left_out = decision.explanation.as_ref().map_or(0, |e| e.remarks_left_out as usize);
            prop_assert_eq!(said.len().saturating_sub(8), left_out);
            said.truncate(8);
            prop_assert_eq!(remarks(decision), said, "{:?} {:?}", rules, connection);
            // Of allow rules that lack a single condition there are as many as there can be, and no others.
            let near = |rule: &&Rule| {
                let about = rule.to.destinations.is_empty() == (query.direction == Direction::Inbound);
                about && rule.action == Action::Allow && !rule.dry_run && lacks(rule, &query).0 == 1
            };
            let all: Vec<String> = rules.iter().filter(near).map(|rule| format!("{} (p:1)", rule.name)).collect();
            let nearest: Vec<String> = decision.explanation.iter().flat_map(|e| &e.nearest).map(|n| n.rule.to_string()).collect();
            prop_assert!(nearest.iter().all(|name| all.contains(name)), "{:?} of {:?}", nearest, all);
            let expected = if reason == Some(Reason::DeniedByDefault) { all.len().min(3) } else { 0 };
            prop_assert_eq!(nearest.len(), expected, "{:?} of {:?}", nearest, all);
        }
    }
}
