//! How long a policy takes to decide, with few rules and with many.
//!
//! `last` is allowed by the last rule, `pattern` by one of as many with a wildcard, `port` by one of as many for the same client.
//! `stranger` is denied and near to nothing, `near` is denied and near to every rule, `condition` is allowed by a rule that asks
//! in CEL.

use std::net::SocketAddr;
use std::time::SystemTime;

use criterion::{Criterion, criterion_group, criterion_main};
use sidegate_config::schema::Profile;
use sidegate_core::{Direction, SpiffeId};
use sidegate_policy::{KnownFacts, Policy, Query};

fn policy(count: usize) -> Policy {
    let third = count / 3;
    let rule = |at: usize| {
        let (id, port) = match at {
            at if at < third => (format!("spiffe://prod.example/ns/n{at}/sa/*"), 8080),
            at if at < 2 * third => ("spiffe://prod.example/gateway".to_owned(), 10_000 + at % 50_000),
            _ => (format!("spiffe://prod.example/ns/prod/sa/s{at}"), 8080),
        };
        format!("  - {{ name: r{at}, action: allow, from: {{ spiffeIds: ['{id}'] }}, to: {{ ports: [{port}] }} }}\n")
    };
    let condition =
        "  - { name: c, action: allow, from: { trustDomains: [night.example] }, to: { ports: [8080] }, when: time.hour < 25 }\n";
    let denied = "  - { name: d, action: deny, from: { trustDomains: [lab.example] } }\n";
    let text = format!("rules:\n{condition}{denied}{}", (0..count).map(rule).collect::<String>());
    Policy::parse(&[("bench".to_owned(), text)], Profile::Production).unwrap()
}

fn decisions(c: &mut Criterion) {
    for count in [100, 10_000] {
        let policy = policy(count);
        let third = count / 3;
        for (name, id, port, allowed) in [
            ("last", format!("spiffe://prod.example/ns/prod/sa/s{}", count - 1), 8080, true),
            ("pattern", format!("spiffe://prod.example/ns/n{}/sa/web", third - 1), 8080, true),
            ("port", "spiffe://prod.example/gateway".to_owned(), u16::try_from(10_000 + (2 * third - 1) % 50_000).unwrap(), true),
            ("condition", "spiffe://night.example/web".to_owned(), 8080, true),
            ("stranger", "spiffe://other.example/web".to_owned(), 22, false),
            ("near", "spiffe://prod.example/ns/prod/sa/unknown".to_owned(), 8080, false),
        ] {
            let client = SpiffeId::new(id).unwrap();
            let to: SocketAddr = ([10, 0, 0, 2], port).into();
            let (direction, client_address, time) = (Direction::Inbound, [10, 0, 0, 1].into(), SystemTime::now());
            let query = Query { client: Some(&client), ..Query::new(KnownFacts { direction, client_address, to, time }) };
            assert_eq!(policy.decide(&query).decision.allowed, allowed, "{name}");
            c.bench_function(&format!("decide/{count}/{name}"), |bencher| bencher.iter(|| policy.decide(&query)));
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(std::time::Duration::from_millis(300)).measurement_time(std::time::Duration::from_secs(1));
    targets = decisions
}
criterion_main!(benches);
