//! The table as a whole: applied, compared, removed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::IpAddr;

use common::*;
use sidegate_config::value::PortRange;
use sidegate_redirect::{Exempt, InboundCapture, OutboundCapture, Plan, RedirectError, UdpHandling, counters, remove, render};

/// A plan with every rule there is.
fn full() -> Plan {
    let networks = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32", "fd00::/8", "2001:db8::1/128"];
    let networks = networks.map(|network| network.parse().unwrap()).to_vec();
    let ports = vec![PortRange { first: 1, last: 80 }, 81.into(), PortRange { first: 60, last: 90 }, 443.into()];
    Plan {
        exempt: Exempt::Mark(0x77),
        exempt_uids: vec![0, 1000],
        inbound: Some(InboundCapture {
            include_ports: ports.clone(),
            exclude_ports: ports.clone(),
            exclude_cidrs: networks.clone(),
            ..inbound()
        }),
        outbound: Some(OutboundCapture {
            include_cidrs: networks.clone(),
            exclude_cidrs: networks,
            include_ports: ports.clone(),
            exclude_ports: ports,
            ..outbound()
        }),
        udp: UdpHandling::Drop,
        dns_resolvers: ["10.96.0.10", "fd96::a"].map(|address| address.parse::<IpAddr>().unwrap()).to_vec(),
    }
}

#[test]
fn the_kernel_takes_every_shape_of_plan() {
    let Some(Pair { network: _network, pod, peer: _peer }) = pair() else {
        return;
    };
    let all = ["0.0.0.0/0", "::/0"].map(|network| network.parse().unwrap()).to_vec();
    let ports = vec![PortRange { first: 1, last: 65535 }];
    let only = |outbound| Plan { inbound: None, outbound: Some(outbound), ..full() };
    for plan in [
        full(),
        plan(),
        Plan { udp: UdpHandling::Allow, ..full() },
        Plan { outbound: None, ..full() },
        Plan { inbound: None, ..full() },
        only(OutboundCapture { include_cidrs: all.clone(), ..outbound() }),
        only(OutboundCapture { exclude_cidrs: all.clone(), include_cidrs: all[..1].to_vec(), ..outbound() }),
        only(OutboundCapture { include_ports: ports.clone(), exclude_ports: ports, ..outbound() }),
    ] {
        println!("{}", render(&plan).unwrap());
        capture(&pod, &plan);
    }
}

#[test]
fn applying_again_changes_nothing() {
    let Some(Pair { network: _network, pod, peer: _peer }) = pair() else {
        return;
    };
    capture(&pod, &full());
    let before = nft(&pod, "list ruleset");
    capture(&pod, &full());
    assert_eq!(nft(&pod, "list ruleset"), before);
}

#[test]
fn another_plan_replaces_the_first_and_leaves_nothing_of_it() {
    let Some(Pair { network: _network, pod, peer: _peer }) = pair() else {
        return;
    };
    capture(&pod, &full());
    assert!(!differences(&pod, &plan()).is_empty());
    capture(&pod, &plan());
}

#[test]
fn a_plan_that_is_refused_leaves_the_old_rules() {
    let Some(Pair { network: _network, pod, peer: _peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    let bad = Plan { inbound: Some(InboundCapture { port: OUTBOUND, ..inbound() }), ..plan() };
    let error = pod.run(move || sidegate_redirect::apply(&bad)).unwrap().unwrap_err();
    assert!(error.to_string().contains("15001"), "{error}");
    assert_eq!(differences(&pod, &plan()), []);
}

#[test]
fn every_kind_of_change_is_noticed() {
    let Some(Pair { network: _network, pod, peer: _peer }) = pair() else {
        return;
    };
    let seen = |plan: &Plan| differences(&pod, plan).iter().map(ToString::to_string).collect::<Vec<_>>();
    let plan = plan();

    capture(&pod, &plan);
    nft(&pod, "insert rule inet sidegate outbound_exempt meta skuid 1000 accept");
    assert_eq!(seen(&plan), ["unexpected: `chain outbound_exempt: meta skuid 1000 accept`"]);

    capture(&pod, &plan);
    nft(&pod, "flush chain inet sidegate inbound_redirect");
    assert!(seen(&plan).contains(&"missing: `chain inbound_redirect: jump inbound_exempt`".to_owned()));

    capture(&pod, &plan);
    nft(&pod, "flush chain inet sidegate inbound_exempt; add rule inet sidegate inbound_exempt iifname eth0 accept");
    let changed = "changed: wanted `chain inbound_exempt: iif \"lo\" accept`, \
                   found `chain inbound_exempt: iifname \"eth0\" accept`";
    assert_eq!(seen(&plan), [changed]);

    capture(&pod, &plan);
    nft(&pod, "add table inet sidegate { flags dormant; }");
    assert_eq!(seen(&plan), ["unexpected: `table inet sidegate: flags dormant`"]);

    capture(&pod, &plan);
    nft(&pod, "add chain inet sidegate mine { comment \"harmless\"; }");
    assert_eq!(seen(&plan), ["unexpected: `chain mine`"]);

    capture(&pod, &plan);
    nft(&pod, "add counter inet sidegate mine");
    assert_eq!(seen(&plan), ["unexpected: `counter mine`"]);
}

#[test]
fn a_comment_is_no_difference_and_counting_neither() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    nft(&pod, "flush chain inet sidegate inbound_exempt; add rule inet sidegate inbound_exempt iif lo accept comment \"hi\"");
    let app = udp(&pod, pod.ipv4().into(), 5000);
    app.send_to(b"counted", (peer.ipv4(), 443)).unwrap_err();
    assert_eq!(counter(&pod, "outbound_udp_dropped"), 1);
    assert_eq!(differences(&pod, &plan()), []);
}

#[test]
fn a_missing_table_is_missing_line_by_line() {
    let Some(Pair { network: _network, pod, peer: _peer }) = pair() else {
        return;
    };
    let missing = differences(&pod, &plan());
    assert!(missing.len() > 20 && missing.iter().all(|line| line.wanted.is_some() && line.found.is_none()));
    assert_eq!(nft(&pod, "list ruleset"), "", "verify leaves nothing behind");
    assert!(matches!(pod.run(counters).unwrap(), Err(RedirectError::NotApplied)));
}

#[test]
fn remove_takes_our_tables_only_and_any_number_of_times() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    nft(&pod, "add table inet other; add chain inet other c { type filter hook output priority 0; }");
    nft(&pod, "add table ip sidegate");
    let others = nft(&pod, "list ruleset");
    assert!(!pod.run(remove).unwrap().unwrap(), "there was none");
    capture(&pod, &plan());
    nft(&pod, "add table inet sidegate_verify { flags dormant; }");
    assert!(pod.run(remove).unwrap().unwrap());
    assert!(!pod.run(remove).unwrap().unwrap());
    assert_eq!(nft(&pod, "list ruleset"), others);
    let service = listen(&peer, peer.ipv4().into(), 8080);
    connect(&pod, (peer.ipv4(), 8080), As::App).expect("nothing is captured any more");
    service.accept().unwrap();
}

#[test]
fn what_a_killed_verify_left_goes_with_the_next_apply() {
    let Some(Pair { network: _network, pod, peer: _peer }) = pair() else {
        return;
    };
    nft(&pod, "add table inet sidegate_verify; add chain inet sidegate_verify c");
    capture(&pod, &plan());
    assert_eq!(nft(&pod, "list tables"), "table inet sidegate\n");
    nft(&pod, "add table inet sidegate_verify; add chain inet sidegate_verify c");
    assert_eq!(differences(&pod, &plan()), []);
    nft(&pod, "add table inet sidegate_verify; add chain inet sidegate_verify c");
    assert!(pod.run(remove).unwrap().unwrap());
    assert_eq!(nft(&pod, "list tables"), "");
}
